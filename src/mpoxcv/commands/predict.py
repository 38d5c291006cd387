"""New pictures through trained networks: one run's, or a multirun's averaged. N pictures, C classes, R runs, S pixels."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.data.loader import BatchLoader
from mpoxcv.data.protocol import fold_table
from mpoxcv.errors import UserError, holds_invisible, shorten, visible
from mpoxcv.evaluation.predictions import read_predictions
from mpoxcv.pictures.images import decode
from mpoxcv.pictures.pixels import resize
from mpoxcv.pictures.tree import PICTURE_SUFFIXES, SYSTEM_NAMES, compile_name_pattern
from mpoxcv.storage.checkpoint_io import AtomicCheckpointIO
from mpoxcv.storage.files import read_json, write_csv
from mpoxcv.storage.markup import for_spreadsheets, one_line
from mpoxcv.storage.stored_config import instantiable, load_config
from mpoxcv.training.classifier import LesionClassifier

SEEN = "every network has seen its patient, or its name tells none"


@dataclass(frozen=True)
class TrainedRun:
    """One run's network with its best checkpoint's weights, and its DataModule, not set up."""

    folder: Path
    source: str  # what it was trained on, as in the column data of its predictions.csv
    classifier: LesionClassifier
    data: MSLDDataModule

    @property
    def form(self) -> tuple[int, bool]:
        """What pictures are made into: the arguments of ``mpoxcv.pictures.pixels.resize``."""
        return self.data.image_size, self.data.antialias

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Return float64 (N, C) for uint8 (N, S, S, 3), normalised as in the run; UserError where they are not finite."""
        data, n = self.data, torch.arange(len(pixels))
        images = torch.from_numpy(pixels)
        loader = BatchLoader(
            images, n, torch.zeros_like(n), data.eval_batch_size, mean=data.mean, std=data.std
        )
        with torch.inference_mode():
            found = torch.cat([self.classifier(batch["image"]).softmax(1) for batch in loader])
        if not found.isfinite().all():
            raise UserError(
                f"The network in {self.folder} gives no finite numbers: its training has diverged."
            )
        return found.numpy().astype(float)

    def saw(self, paths: Sequence[Path]) -> np.ndarray:
        """Return whether Train or Valid had each picture's patient, or its name tells none: bool (N,).

        Raises:
            UserError: the run's data set is not there, or is split otherwise now.
        """
        d, keys = self.data, ["split", "image"]
        table = fold_table(
            d.root, d.classes, d.name_pattern, d.fold, d.protocol, d.split_file, exclude=d.exclude
        )
        scored = read_predictions(self.folder / "predictions.csv")
        if gone := set(map(tuple, scored[keys].to_numpy())) - set(
            map(tuple, table[keys].to_numpy())
        ):
            raise UserError(
                f"{d.root} is not the data set of {self.folder}, or was split anew: {len(gone)} of the run's Valid and Test "
                "pictures are not in the same split there. held_out=true needs the run's own: data.root=DIR."
            )
        seen, pattern = (
            set(table.loc[table["split"] != "test", "patient"]),
            compile_name_pattern(d.name_pattern),
        )
        matches = [pattern.fullmatch(path.stem) for path in paths]
        return np.array([match is None or match["patient"] in seen for match in matches])


def predict(cfg: DictConfig) -> pd.DataFrame:
    """Classify pictures and write a table with one row a picture; those that are left out are named on stderr.

    Args:
        cfg: ``conf/predict.yaml`` as composed.

    Returns:
        The table: ``image`` (path), ``prediction``, ``n_networks`` (how many were averaged), ``data`` (what they were
        trained on) and ``p_<class>`` (float64) for each class.

    Raises:
        UserError: an option is wrong, there is no run or no picture, none is left, or the runs do not fit together.
    """
    _check(cfg)
    paths, runs = (
        find_pictures(str(cfg.images)),
        load_runs(Path(str(cfg.run)), cfg.data.root, cfg.trust),
    )
    used = np.array(
        [~run.saw(paths) if cfg.held_out else np.ones(len(paths), bool) for run in runs]
    )  # (R, N)
    forms = {run.form for run in runs}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = list(
            pool.map(lambda path, n: _decode(path, forms) if n else SEEN, paths, used.sum(0))
        )
    left_out = {
        path: found for path, found in zip(paths, decoded, strict=True) if isinstance(found, str)
    }
    pictures = {
        path: found
        for path, found in zip(paths, decoded, strict=True)
        if not isinstance(found, str)
    }
    reasons = shorten(
        [f"{one_line(str(path))}: {reason}" for path, reason in left_out.items()], limit=100
    )
    if not pictures:
        raise UserError(f"None of {len(paths)} picture(s) can be classified:\n{reasons}")
    used = used[:, [path in pictures for path in paths]]
    each = [
        run.probabilities(np.stack([found[run.form] for found in pictures.values()]))
        for run in runs
    ]
    averaged = (np.stack(each) * used[..., None]).sum(0) / used.sum(0)[:, None]
    classes, sources = (
        runs[0].classifier.classes,
        "; ".join(dict.fromkeys(run.source for run in runs)),
    )
    predicted = [classes[label] for label in averaged.argmax(1)]
    keys = {
        "image": list(map(_shown, pictures)),
        "prediction": predicted,
        "n_networks": used.sum(0),
        "data": sources,
    }
    table = pd.DataFrame(
        keys | {f"p_{name}": p for name, p in zip(classes, averaged.T, strict=True)}
    )
    write_csv(str(cfg.output), for_spreadsheets(table), float_format="%.9g")
    if left_out:
        print(
            f"{len(left_out)} of {len(paths)} picture(s) left out:\n{visible(reasons)}",
            file=sys.stderr,
        )
    print(f"{len(table)} picture(s) by {len(runs)} network(s) trained on {sources}")
    _print(table, classes)
    print(f"Written to {cfg.output}. Research only: not for diagnosis.")
    return table


def find_pictures(images: str) -> list[Path]:
    """Return the pictures of a file, a folder with all below it, or a glob, without hidden and system files.

    Raises:
        UserError: there is none.
        OSError: a folder cannot be read.
    """
    path = Path(images)
    if path.is_file():
        return [path]
    found = _below(path) if path.is_dir() else map(Path, glob.glob(images, recursive=True))  # noqa: PTH207  absolute ones
    if pictures := {
        path for path in found if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()
    }:
        return sorted(pictures)
    raise UserError(
        f"images={images} names no picture. Give a picture, a folder, or a glob: 'images=\"new/*.jpg\"'"
    )


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():  # links to folders may go in circles, and are left out
        if not path.name.startswith(".") and path.name.lower() not in SYSTEM_NAMES:
            yield from _below(path) if path.is_dir() and not path.is_symlink() else (path,)


def load_runs(
    folder: Path, data_root: str | None = None, trust: Sequence[str] = ()
) -> list[TrainedRun]:
    """Load the networks of the runs in ``folder`` or below it; ``data_root`` is for data that have moved since.

    Raises:
        UserError: there is no trained run, a checkpoint does not fit, or the runs have different classes.
    """
    runs: list[TrainedRun] = []
    for file in sorted(folder.rglob("checkpoints/best.ckpt")):
        run = file.parent.parent
        if not (config := run / ".hydra" / "config.yaml").is_file():
            continue
        stored = load_config(config, trust)
        parts = {key: instantiable(stored, key, config, trust) for key in ("data", "classifier")}
        parts["data"].root = data_root or parts["data"].root
        parts["classifier"].compile = False  # compiling takes longer than the pictures
        classifier: LesionClassifier = instantiate(parts["classifier"])
        checkpoint = AtomicCheckpointIO().load_checkpoint(file, "cpu")
        classifier.on_load_checkpoint(checkpoint)
        classifier.load_state_dict(checkpoint["state_dict"])
        if runs and classifier.classes != runs[0].classifier.classes:
            raise UserError(
                f"{run} and {runs[0].folder} have different classes: their networks cannot be averaged."
            )
        provenance = read_json(run / "provenance.json")
        if provenance.get("status") != "finished":
            print(f"{run} is not finished: its best checkpoint so far is used.", file=sys.stderr)
        source = visible(
            str(provenance.get("data", {}).get("name", parts["data"].get("name", "unknown")))
        )
        runs.append(TrainedRun(run, source, classifier.eval(), instantiate(parts["data"])))
    if not runs:
        raise UserError(
            f"There is no trained run in {folder}: a run's folder holds .hydra and checkpoints/best.ckpt."
        )
    return runs


def _check(cfg: DictConfig) -> None:
    if missing := [option for option in ("run", "images") if OmegaConf.is_missing(cfg, option)]:
        raise UserError(
            f"{missing[0]}= is missing: python scripts/predict.py run=DIR images=PATH (--help tells more)."
        )
    if wrong := [
        option for option in ("overwrite", "held_out") if not isinstance(cfg[option], bool)
    ]:
        raise UserError(f"{wrong[0]}={cfg[wrong[0]]} should be true or false.")
    output = Path(str(cfg.output))
    if output.is_dir() or (output.exists() and not cfg.overwrite):
        raise UserError(
            f"{output} is there, and nothing is overwritten: give another output=FILE, or overwrite=true."
        )


def _shown(path: Path) -> str:
    """Return the path, which a spreadsheet would not take for a formula."""
    return f"./{path}" if str(path).startswith(("=", "+", "-", "@", "|", "%")) else str(path)


def _decode(path: Path, forms: set[tuple[int, bool]]) -> dict[tuple[int, bool], np.ndarray] | str:
    """Return a picture in each form, or why there is none."""
    try:
        if holds_invisible(str(path)):
            return "has control characters, text directions or no UTF-8 in its name"
        pixels = decode(path.read_bytes())
        return {form: resize(pixels, *form) for form in forms}
    except (UserError, OSError) as error:
        return str(error)


def _print(table: pd.DataFrame, classes: Sequence[str]) -> None:
    grid, console = (
        Table("picture", "prediction", "probability"),
        Console(highlight=False, markup=False),
    )
    for _, row in table.head(10).iterrows():
        grid.add_row(
            visible(Path(row["image"]).name),
            visible(row["prediction"]),
            f"{row['p_' + row['prediction']]:.3f}",
        )
    console.print(grid)
    console.print(
        ", ".join(f"{visible(name)} {(table['prediction'] == name).sum()}" for name in classes),
        soft_wrap=True,
    )
