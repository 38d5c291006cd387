"""New pictures through trained networks: one run's, or the average of a multirun's.

Legend: N pictures, C classes, S picture size in pixels.
"""

import glob
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from mpoxcv.checkpoint_io import AtomicCheckpointIO
from mpoxcv.classifier import LesionClassifier
from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.data.images import decode
from mpoxcv.data.loader import BatchLoader
from mpoxcv.data.tree import PICTURE_SUFFIXES, compile_name_pattern
from mpoxcv.errors import UserError, shorten
from mpoxcv.files import write_atomically


@dataclass(frozen=True)
class TrainedRun:
    """One run's network, ready for pictures.

    Attributes:
        folder: of the run.
        classifier: with the best checkpoint's weights, in evaluation mode.
        datamodule: as in the run, not set up.
    """

    folder: Path
    classifier: LesionClassifier
    datamodule: MSLDDataModule

    def probabilities(self, files: Sequence[bytes]) -> np.ndarray:
        """Return float32 (N, C) for N picture files' bytes, decoded and normalised as in the run."""
        data = self.datamodule
        pixels = torch.from_numpy(np.stack([decode(file, data.image_size) for file in files]))
        n = torch.arange(len(files))
        loader = BatchLoader(pixels, n, torch.zeros_like(n), data.eval_batch_size, mean=data.mean, std=data.std)
        with torch.inference_mode():
            return torch.cat([self.classifier(batch["image"]).softmax(1) for batch in loader]).float().numpy()

    def seen_patients(self) -> set[str]:
        """Return the patients of the run's Train and Valid, from its data set.

        Raises:
            UserError: the data set is not where it was.
        """
        self.datamodule.setup()
        return {p for split in ("train", "val") for p in self.datamodule.table(split)["patient"]}


def predict(cfg: DictConfig) -> pd.DataFrame:
    """Classify pictures and write a table with one row a picture.

    Pictures that cannot be read are named on stderr and left out.

    Args:
        cfg: ``conf/predict.yaml`` as composed.

    Returns:
        The table: ``image`` (path), ``prediction``, ``n_networks`` and ``p_<class>`` for each class, averaged over the runs.

    Raises:
        UserError: there are no runs or no pictures, none can be read, the runs do not fit together, or the output is there.
    """
    output, folder, images = Path(cfg.output), Path(cfg.run), str(cfg.images)
    if output.exists() and not cfg.overwrite:
        raise UserError(f"{output} is there, and nothing is overwritten: output=FILE, or overwrite=true.")
    paths = find_pictures(images)
    runs = load_runs(folder, cfg.data.root)
    files, kept, failures = [], [], []
    for path in paths:
        try:
            data = path.read_bytes()
            decode(data)
        except UserError as error:
            failures.append(f"{path}: {error}")
        except OSError as error:
            failures.append(f"{path}: cannot be read: {error.strerror}")
        else:
            files.append(data)
            kept.append(path)
    if not kept:
        raise UserError(f"None of {len(paths)} picture(s) can be read:\n{shorten(failures)}")
    probabilities = np.stack([run.probabilities(files) for run in runs])
    counted = np.ones((len(runs), len(kept)), bool)
    if cfg.held_out:
        counted = np.stack([_unseen(run, kept) for run in runs])
    averaged = (probabilities * counted[..., None]).sum(0) / np.maximum(counted.sum(0), 1)[:, None]
    classes = runs[0].classifier.classes
    table = pd.DataFrame(
        {
            "image": [str(path) for path in kept],
            "prediction": [classes[label] for label in averaged.argmax(1)],
            "n_networks": counted.sum(0),
        }
    )
    table = pd.concat([table, pd.DataFrame(averaged, columns=[f"p_{name}" for name in classes])], axis=1)
    seen = table["n_networks"] == 0
    failures += [f"{image}: every network was trained on its patient" for image in table["image"][seen]]
    table = table[~seen].reset_index(drop=True)
    write_atomically(output, table.to_csv(index=False, float_format="%.9g", lineterminator="\n"))
    if failures:
        print(f"{len(failures)} picture(s) left out:\n{shorten(failures)}", file=sys.stderr)
    _print(table, classes, len(runs), output)
    return table


def find_pictures(images: str) -> list[Path]:
    """Return the picture files of a file, a folder with all below it, or a glob; hidden ones are left out.

    Raises:
        UserError: there is none.
    """
    path = Path(images)
    if path.is_file():
        return [path]
    names = path.rglob("*") if path.is_dir() else map(Path, glob.glob(images, recursive=True))  # noqa: PTH207  absolute ones
    found = [p for p in names if p.is_file() and p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".")]
    if not found:
        raise UserError(
            f"images={images} names no picture. Give a picture, a folder, or a glob: 'images=\"new/*.jpg\"'"
        )
    return sorted(found)


def load_runs(folder: Path, data_root: str | None = None) -> list[TrainedRun]:
    """Load the trained networks in a run's or a multirun's folder.

    Args:
        folder: of the run, or one with runs below it.
        data_root: the data set's folder, if it has moved since.

    Raises:
        UserError: there is no trained run, or the runs have different classes.
    """
    checkpoints = sorted(folder.rglob("checkpoints/best.ckpt"))
    found = [file.parent.parent for file in checkpoints if (file.parent.parent / ".hydra/config.yaml").is_file()]
    if not found:
        raise UserError(f"There is no trained run in {folder}: a run's folder holds .hydra and checkpoints/best.ckpt.")
    runs = []
    for run in found:
        stored = OmegaConf.load(run / ".hydra" / "config.yaml")
        assert isinstance(stored, DictConfig)
        stored.output_dir = str(run)
        stored.data.root = data_root or stored.data.root
        classifier: LesionClassifier = instantiate(stored.classifier)
        checkpoint = AtomicCheckpointIO().load_checkpoint(run / "checkpoints" / "best.ckpt", "cpu")
        classifier.on_load_checkpoint(checkpoint)
        classifier.load_state_dict(checkpoint["state_dict"])
        runs.append(TrainedRun(run, classifier.eval(), instantiate(stored.data)))
        if runs[-1].classifier.classes != runs[0].classifier.classes:
            raise UserError(f"{run} and {runs[0].folder} have different classes: their networks cannot be averaged.")
    return runs


def _unseen(run: TrainedRun, paths: Sequence[Path]) -> np.ndarray:
    """Return which pictures are of patients that the run never saw: bool (N,), told by the data set's name pattern."""
    pattern, seen = compile_name_pattern(run.datamodule.name_pattern), run.seen_patients()
    matches = [pattern.fullmatch(path.stem) for path in paths]
    if unknown := [str(path) for path, match in zip(paths, matches, strict=True) if match is None]:
        raise UserError(
            f"held_out=true needs the patient, and {len(unknown)} file name(s) do not tell it:\n{shorten(unknown)}"
        )
    return np.array([match is not None and match["patient"] not in seen for match in matches])


def _print(table: pd.DataFrame, classes: Sequence[str], networks: int, output: Path, most: int = 10) -> None:
    console = Console(highlight=False)
    grid = Table(title=f"{len(table)} picture(s) by {networks} network(s)", title_justify="left")
    for heading in ("picture", "prediction", "probability"):
        grid.add_column(heading)
    for _, row in table.head(most).iterrows():
        grid.add_row(Path(row["image"]).name, row["prediction"], f"{row['p_' + row['prediction']]:.3f}")
    console.print(grid)
    counts = table["prediction"].value_counts().reindex(list(classes), fill_value=0)
    console.print(
        "All: " + ", ".join(f"{name} {n}" for name, n in counts.items()) + f". Written to {output}", soft_wrap=True
    )
    console.print("Research only: not for diagnosis.")
