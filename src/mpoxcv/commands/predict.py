"""New pictures through trained networks, averaged. N pictures, C classes, R runs, S pixels."""

import glob
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from mpoxcv.command_line import command_for, require_suffix
from mpoxcv.commands.run_folder import stored_parts
from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.data.loader import BatchLoader
from mpoxcv.data.protocol import fold_table
from mpoxcv.errors import UserError, holds_invisible, shorten, visible
from mpoxcv.evaluation.predictions import read_predictions
from mpoxcv.explain import blaming
from mpoxcv.pictures import tree
from mpoxcv.pictures.cache import read_file
from mpoxcv.pictures.images import decoded
from mpoxcv.pictures.pixels import Form, resize
from mpoxcv.storage.checkpoint_io import AtomicCheckpointIO
from mpoxcv.storage.files import StrPath, read_json, write_csv
from mpoxcv.storage.markup import for_spreadsheets, one_line
from mpoxcv.terminal import console, say, warn
from mpoxcv.training.classifier import LesionClassifier

SEEN = "every network has seen its patient, or nothing tells whose it is"


@dataclass(frozen=True)
class TrainedRun:
    """One run's network with its best checkpoint's weights, and its DataModule, not set up."""

    folder: Path
    # what it was trained on, as in the column data of its predictions.csv
    source: str
    classifier: LesionClassifier
    data: MSLDDataModule

    @property
    def form(self) -> Form:
        """What pictures are made into."""
        return self.data.form

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Return float64 (N, C) for uint8 (N, S, S, 3); UserError where they are not finite."""
        d = self.data
        images = torch.from_numpy(pixels)
        rows = torch.arange(len(pixels))
        labels = torch.zeros_like(rows)
        batches = BatchLoader(images, rows, labels, d.eval_batch_size, mean=d.mean, std=d.std)
        with torch.inference_mode():
            outputs = torch.cat([self.classifier.predict_step(b, 0) for b in batches])
        if not outputs.isfinite().all():
            reason = "its training has diverged"
            raise UserError(f"The network in {self.folder} gives no finite numbers: {reason}.")
        return outputs.numpy().astype(float)

    def saw(self, paths: Sequence[Path]) -> np.ndarray:
        """Tell where Train or Valid had a picture's patient, or nothing tells whose: bool (N,).

        Raises:
            UserError: the run's data set is not there, or is split otherwise now.
        """
        d = self.data
        split = (d.fold, d.protocol, d.split_file)
        options: Any = {"exclude": d.exclude, "makes_folds": d.makes_folds}
        table = fold_table(d.root, d.classes, d.names, *split, **options)
        scored = read_predictions(self.folder / "predictions.csv")
        keys = ["split", "image"]
        gone = scored.set_index(keys).index.difference(table.set_index(keys).index)
        if len(gone):
            raise UserError(
                f"{d.root} is not the data set of {self.folder}, or was split anew: {len(gone)} of the run's Valid and Test "
                "pictures are not in the same split there. held_out=true needs the run's own: data.root=DIR."
            )

        patients = set(table.loc[table["split"] != "test", "patient"])
        # a pattern may ask for the class, which no other folder's name is
        known = [str(p) if p.parent.name in d.classes else p.name for p in paths]
        told = [d.names.tell(path) for path in known]
        return np.array([whose is None or whose.patient in patients for whose in told])


def predict(cfg: DictConfig) -> pd.DataFrame:
    """Classify pictures as ``conf/predict.yaml`` says; those left out are named on stderr.

    Returns:
        The table, one row a picture: ``image`` (path), ``prediction``, ``n_networks`` (how many
        were averaged), ``data`` (what they were trained on), with ``flips`` a column of that name,
        and float64 ``p_<class>``.

    Raises:
        UserError: an option is wrong, there is no run or picture, or the runs do not fit together.
    """
    _check(cfg)
    paths = find_pictures(str(cfg.images))
    runs = load_runs(str(cfg.run), cfg.trust, cfg.data, cfg.model.weights)
    for run in runs:
        run.classifier.flips = cfg.flips
    classes = runs[0].classifier.classes
    sources = "; ".join(dict.fromkeys(run.source for run in runs))

    # whose networks are averaged for which pictures, (R, N)
    used = np.ones((len(runs), len(paths)), bool)
    for row, run in enumerate(runs if cfg.held_out else ()):
        with blaming(run.folder):
            used[row] = ~run.saw(paths)
    forms = {run.form for run in runs}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = [*pool.map(lambda p, n: _decode(p, forms) if n else SEEN, paths, used.sum(0))]

    pictures = {p: d for p, d in zip(paths, decoded, strict=True) if isinstance(d, dict)}
    left_out = [(p, why) for p, why in zip(paths, decoded, strict=True) if isinstance(why, str)]
    reasons = shorten([f"{one_line(str(path))}: {visible(why)}" for path, why in left_out], 100)
    if not pictures:
        raise UserError(f"None of {len(paths)} picture(s) can be classified:\n{reasons}")

    used = used[:, [path in pictures for path in paths]]
    pixels = {form: np.stack([picture[form] for picture in pictures.values()]) for form in forms}
    by_run = []
    for run in runs:
        with blaming(run.folder):
            by_run.append(run.probabilities(pixels[run.form]))
    averaged = (np.stack(by_run) * used[..., None]).sum(0) / used.sum(0)[:, None]
    table = pd.DataFrame(averaged, columns=[f"p_{name}" for name in classes])
    # what a spreadsheet would take for a formula begins with ./
    table.insert(0, "image", [f"./{p}" if str(p)[0] in "=+-@|%" else str(p) for p in pictures])
    table.insert(1, "prediction", [classes[label] for label in averaged.argmax(1)])
    table.insert(2, "n_networks", used.sum(0))
    table.insert(3, "data", sources)
    if cfg.flips:
        table.insert(4, "flips", True)

    write_csv(str(cfg.output), for_spreadsheets(table), float_format="%.9g")
    if left_out:
        warn(f"{len(left_out)} of {len(paths)} picture(s) left out:\n{reasons}")
    mirrored = ", averaged over each picture and its mirror image" if cfg.flips else ""
    say(f"{len(table)} picture(s) by {len(runs)} network(s) trained on {sources}{mirrored}")
    _print(table, classes)
    say(f"Written to {cfg.output}. Research only: not for diagnosis.")
    return table


def find_pictures(images: str) -> list[Path]:
    """Return the pictures of a file, a folder or a glob; what else lies there is named on stderr.

    Raises:
        UserError: there is none, or a folder cannot be read.
    """
    path = Path(images)
    if path.is_file():
        return [path]
    if path.is_dir():
        pictures, others = tree.sort_out(tree.entries_of(path))
    else:
        matches = map(Path, glob.glob(images, recursive=True))  # noqa: PTH207  absolute ones
        names = tree.SYSTEM_NAMES
        pictures, others = tree.sort_out(
            m for m in matches if not any(part.lower() in names for part in m.parts)
        )
    tree.name_others(images, *(f"{other}: {why}" for other, why in sorted(others.items())))
    if not pictures:
        ways = "Give a picture, a folder, or a glob: 'images=new/*.jpg'"
        raise UserError(f"images={images} names no picture. {ways}")
    return sorted(set(map(Path, pictures)))


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
    return TrainedRun(run, visible(str(source)), classifier.eval(), data)


def _check(cfg: DictConfig) -> None:
    for option in ("run", "images"):
        if OmegaConf.is_missing(cfg, option):
            example = command_for("predict", "run=DIR", "images=PATH")
            raise UserError(f"{option}= is missing (--help tells more):\n  {example}")
    output = Path(str(cfg.output))
    if output.is_dir() or (output.exists() and not cfg.overwrite):
        ways = "give another output=FILE, or overwrite=true"
        raise UserError(f"{output} is there, and nothing is overwritten: {ways}.")
    require_suffix("output", output, ".csv")


def _decode(path: Path, forms: set[Form]) -> dict[Form, np.ndarray] | str:
    """Return a picture in each form, or why there is none."""
    try:
        if holds_invisible(str(path)):
            return "has control characters, text directions or no UTF-8 in its name"
        with decoded(read_file(path)) as pixels:
            return {form: resize(pixels, form) for form in forms}
    except UserError as error:
        return str(error)


def _print(table: pd.DataFrame, classes: Sequence[str]) -> None:
    out = console()
    grid = Table("picture", "prediction", "probability")
    for _, row in table.head(10).iterrows():
        name, prediction = Path(row["image"]).name, row["prediction"]
        grid.add_row(visible(name), visible(prediction), f"{row[f'p_{prediction}']:.3f}")
    out.print(grid)
    counts = (f"{visible(name)} {(table['prediction'] == name).sum()}" for name in classes)
    out.print(", ".join(counts), soft_wrap=True)
