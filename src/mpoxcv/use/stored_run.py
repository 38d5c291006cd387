"""A finished run read back, as if a stranger had sent it: its parts, and its trained network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.data.loader import shift_and_scale
from mpoxcv.data.protocol import fold_table
from mpoxcv.errors import UserError, visible
from mpoxcv.evaluation.novelty import distances
from mpoxcv.evaluation.predictions import read_predictions
from mpoxcv.explain import blaming
from mpoxcv.models.network import Network
from mpoxcv.pictures.pixels import Form
from mpoxcv.storage.checkpoint_io import AtomicCheckpointIO, read_tensors
from mpoxcv.storage.files import StrPath, read_json
from mpoxcv.storage.stored_config import instantiable, load_config, resolved
from mpoxcv.terminal import warn
from mpoxcv.training.callbacks.reference import features_caught
from mpoxcv.training.classifier import LesionClassifier

# what a stored config is of
OURS = {"data": "mpoxcv.MSLDDataModule", "classifier": "mpoxcv.LesionClassifier"}


@dataclass(frozen=True)
class TrainedRun:
    """One run's network with its best checkpoint's weights, and its DataModule, not set up.

    N pictures, C classes, S pixels.
    """

    folder: Path
    # what it was trained on, as in the column data of its predictions.csv
    source: str
    classifier: LesionClassifier
    data: MSLDDataModule
    # of Valid and Test, where the run has them
    predictions: pd.DataFrame
    # what the callback ``Reference`` wrote: features (M, D), distances val (N,) and test (N,)
    reference: dict[str, np.ndarray] | None

    @property
    def form(self) -> Form:
        """What pictures are made into."""
        return self.data.form

    @property
    def frozen(self) -> tuple[Any, ...] | None:
        """What tells a frozen backbone with its pictures; None where pictures go in as they are."""
        network = self.classifier.network
        if not isinstance(network, Network) or not network.frozen or not network.weights:
            return None
        d, flips = self.data, self.classifier.flips
        return None if flips else (network.weights, self.form, *(d.mean or ()), *(d.std or ()))

    def inputs(self, pixels: np.ndarray) -> Tensor:
        """Return what :meth:`score` takes of pictures, uint8 (N, S, S, 3).

        Normalised, (N, 3, S, S), or what a frozen backbone makes of them, (N, D): runs of equal
        ``frozen`` can share it.
        """
        shift, scale = self.normalisation()
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - shift) / scale
        network: Any = self.classifier.network
        with torch.inference_mode():
            return network.backbone(images) if self.frozen else images

    def normalisation(self) -> tuple[Tensor, Tensor]:
        """Return what is subtracted from pixels, and what they are divided by, (3, 1, 1) each."""
        shift, scale = shift_and_scale(self.data.mean, self.data.std)
        return shift.view(3, 1, 1), scale.view(3, 1, 1)

    def score(self, inputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return what the network makes of N pictures' ``inputs``.

        Returns:
            Probabilities, float64 (N, C), and how far each picture is from Train's, float64 (N,),
            NaN where the run does not tell.

        Raises:
            UserError: they are not finite.
        """
        network = self.classifier.network
        with torch.inference_mode(), features_caught(network) as caught:
            probabilities = self.classifier.scores(inputs).softmax(1)
        if not probabilities.isfinite().all():
            reason = "its training has diverged"
            raise UserError(f"The network in {self.folder} gives no finite numbers: {reason}.")
        far = np.full(len(inputs), np.nan)
        if self.reference:
            # the mirror images' come after
            far = distances(caught[0].numpy(), self.reference["features"])
        return probabilities.numpy().astype(float), far

    def table(self, needs: str) -> pd.DataFrame:
        """Return the fold's pictures (see ``mpoxcv.data.protocol.fold_table``), as they lie there.

        Raises:
            UserError: the run's data set is not there, or is split otherwise now; ``needs`` names
                the option that reads it.
        """
        d = self.data
        split = (d.fold, d.protocol, d.split_file)
        options: Any = {"exclude": d.exclude, "makes_folds": d.makes_folds}
        with blaming(self.folder):
            table = fold_table(d.root, d.classes, d.names, *split, **options)
        keys = ["split", "image"]
        scored = self.predictions.reindex(columns=keys).set_index(keys).index
        gone = scored.difference(table.set_index(keys).index)
        if scored.empty or len(gone):
            raise UserError(
                f"{d.root} is not the data set of {self.folder}, or was split anew: {len(gone)} of the run's Valid and Test "
                f"pictures are not in the same split there. {needs} needs the run's own: data.root=DIR."
            )
        return table

    def saw(self, paths: Sequence[Path]) -> np.ndarray:
        """Tell where Train or Valid had a picture's patient, or nothing tells whose: bool (N,).

        Raises:
            UserError: as of :meth:`table`.
        """
        d, table = self.data, self.table("held_out=true")
        patients = set(table.loc[table["split"] != "test", "patient"])
        # a pattern may ask for the class, which no other folder's name is
        known = [str(p) if p.parent.name in d.classes else p.name for p in paths]
        told = [d.names.tell(path) for path in known]
        return np.array([whose is None or whose.patient in patients for whose in told])

    def files(self, split: str, needs: str) -> dict[str, Path]:
        """Return a split's original pictures by name, as in predictions.csv; as :meth:`table`."""
        table = self.table(needs)
        part = table[(table["split"] == split) & ~table["augmented"]]
        return {
            image: Path(self.data.root, path)
            for image, path in zip(part["image"], part["path"], strict=True)
        }


def load_runs(
    folder: StrPath,
    trust: Sequence[str] = (),
    moved: Mapping[str, Any] | None = None,
    weights: str | None = None,
) -> list[TrainedRun]:
    """Load the runs in ``folder`` or below it; the other arguments are those of stored_parts.

    Raises:
        UserError: there is no trained run, a checkpoint does not fit, or the classes differ.
    """
    runs: list[TrainedRun] = []
    for file in sorted(Path(folder).rglob("checkpoints/best.ckpt")):
        run = file.parent.parent
        if not (run / ".hydra" / "config.yaml").is_file():
            continue

        with blaming(run):
            trained = _load_run(run, trust, moved or {}, weights)
        if runs and trained.classifier.classes != runs[0].classifier.classes:
            pair = f"{run} and {runs[0].folder}"
            raise UserError(f"{pair} have different classes: their networks cannot be averaged.")
        runs.append(trained)
    if not runs:
        contents = "a run's folder holds .hydra and checkpoints/best.ckpt"
        raise UserError(f"There is no trained run in {folder}: {contents}.")
    return runs


def _load_run(
    run: Path, trust: Sequence[str], moved: Mapping[str, Any], weights: str | None
) -> TrainedRun:
    _, parts = stored_parts(run, trust, moved, "predict", weights)
    # compiling takes longer than the pictures
    classifier: LesionClassifier = instantiate(parts["classifier"], compile=False)
    checkpoint = AtomicCheckpointIO().load_checkpoint(run / "checkpoints" / "best.ckpt", "cpu")
    classifier.on_load_checkpoint(checkpoint)
    classifier.load_state_dict(checkpoint["state_dict"])
    data: MSLDDataModule = instantiate(parts["data"])

    provenance = read_json(run / "provenance.json")
    if provenance.get("status") != "finished":
        warn(f"{run} is not finished: its best checkpoint so far is used.")
    recorded = provenance.get("data")
    source = recorded.get("name", data.name) if isinstance(recorded, dict) else data.name
    scored = run / "predictions.csv"
    predictions = read_predictions(scored) if scored.is_file() else pd.DataFrame()
    return TrainedRun(
        run, visible(str(source)), classifier.eval(), data, predictions,
        _reference(run / "reference.pt"),
    )  # fmt: skip


def _reference(file: Path) -> dict[str, np.ndarray] | None:
    """Return what the callback ``Reference`` wrote, None where there is no such file."""
    if not file.is_file():
        return None
    content = read_tensors(file)
    wanted = {"features": 2, "val": 1, "test": 1}
    parts: dict[str, Any] = {name: content.get(name) for name in wanted}
    if not all(isinstance(t, torch.Tensor) and t.ndim == wanted[n] for n, t in parts.items()):
        raise UserError(f"{file} is damaged: it is not what a run writes. Move it away.")
    return {name: tensor.numpy().astype(float) for name, tensor in parts.items()}


def stored_parts(
    run: Path, trust: Sequence[str], moved: Mapping[str, Any], verb: str, weights: str | None = None
) -> tuple[DictConfig, dict[str, DictConfig]]:
    """Return a run's stored config, and its parts ``data`` and ``classifier`` to instantiate.

    What says where to write, or makes data, is not taken from it.

    Args:
        run: its folder.
        trust: as of ``mpoxcv.storage.stored_config.instantiable``.
        moved: options of data that take the place of the stored ones where they say something;
            ``cache_dir`` always.
        verb: what they are for: to ``train`` again, to ``score``, or to ``predict``.
        weights: the file of a frozen backbone's, where it has moved.

    Raises:
        UserError: the config is refused (see ``mpoxcv.storage.stored_config``).
    """
    file = run / ".hydra" / "config.yaml"
    stored = load_config(file, trust)
    parts: dict[str, DictConfig] = {}
    for key, target in OURS.items():
        part = resolved(stored, key, file)
        if key == "data" and isinstance(part, dict):
            part |= {name: value for name, value in moved.items() if value}
            part |= {"generator": None, "makes_folds": False}
        parts[key] = instantiable(part, key, file, trust)
        if parts[key]._target_ != target and not trust:
            raise UserError(
                f"{file} is refused: its {key} is a {parts[key]._target_}, no {target}."
            )
    network = parts["classifier"].get("network") or OmegaConf.create()
    # checkpoints hold all but a frozen backbone, and what others began with may be gone; scores are
    # those of the run to the bit where stems are computed alike
    part = network.get("train")
    named = str(network.get("weights") or "")
    gone = bool(Path(named).suffix) and not Path(named).is_file()
    needed = verb == "train" or part == "head" or (verb == "score" and part != "all" and not gone)
    if named and not needed:
        network.weights = None
    elif weights:
        network.weights = weights
    return stored, parts
