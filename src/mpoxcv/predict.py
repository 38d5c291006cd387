"""New pictures through trained networks: one run's, or the average of a multirun's.

Legend: N pictures, C classes, R runs, S picture size in pixels.
"""

import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mpoxcv.checkpoint_io import AtomicCheckpointIO
from mpoxcv.classifier import LesionClassifier
from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.data.images import decode
from mpoxcv.data.loader import BatchLoader
from mpoxcv.data.protocol import fold_table
from mpoxcv.data.tree import PICTURE_SUFFIXES, SYSTEM_NAMES, compile_name_pattern
from mpoxcv.errors import UserError, shorten
from mpoxcv.evaluation.predictions import read_predictions
from mpoxcv.files import write_atomically

CHUNK = 512  # pictures decoded at once: bounds the memory
NAMED = 50  # pictures left out that are named one by one


@dataclass(frozen=True)
class TrainedRun:
    """One run's network, ready for pictures.

    Attributes:
        folder: of the run.
        source: what it was trained on, as in the column ``data`` of its predictions.csv.
        finished: whether the run came to its end.
        classifier: with the best checkpoint's weights, in evaluation mode.
        datamodule: as in the run, not set up.
    """

    folder: Path
    source: str
    finished: bool
    classifier: LesionClassifier
    datamodule: MSLDDataModule

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Return float64 (N, C) for uint8 (N, S, S, 3), normalised as in the run.

        Raises:
            UserError: the network's scores are not finite.
        """
        data, n = self.datamodule, torch.arange(len(pixels))
        images = torch.from_numpy(pixels)
        loader = BatchLoader(images, n, torch.zeros_like(n), data.eval_batch_size, mean=data.mean, std=data.std)
        with torch.inference_mode():
            found = torch.cat([self.classifier(batch["image"]).float().softmax(1) for batch in loader])
        if not found.isfinite().all():
            raise UserError(f"The network of {self.folder} gives no finite numbers: its training has diverged.")
        return found.numpy().astype(float)  # averaged in double precision, in which the runs' order does not matter

    def saw(self, paths: Sequence[Path]) -> np.ndarray:
        """Return which pictures' patients were in the run's Train or Valid: bool (N,), told by the file names.

        Raises:
            UserError: the run's data set is not there or is another one now, or a file name tells no patient.
        """
        data = self.datamodule
        table = fold_table(
            data.root, data.classes, data.name_pattern, data.fold, data.protocol, data.split_file, exclude=data.exclude
        )
        scored = read_predictions(self.folder / "predictions.csv")  # Valid and Test: a data set split anew shows here
        if gone := set(zip(scored["split"], scored["image"])) - set(zip(table["split"], table["image"])):  # noqa: B905
            raise UserError(
                f"held_out=true reads the patients from {data.root}, but {self.folder} had other folds: {len(gone)} of its "
                "pictures are not in the same split there. Give its own data set with data.root=DIR."
            )
        pattern = compile_name_pattern(data.name_pattern)
        matches = [(path, pattern.fullmatch(path.stem)) for path in paths]
        if unknown := [path for path, match in matches if match is None]:
            raise UserError(
                f"held_out=true needs the patient, and {len(unknown)} file name(s) do not tell it by data.name_pattern="
                f"{data.name_pattern!r}:\n{shorten(unknown)}"
            )
        seen = set(table.loc[table["split"] != "test", "patient"])
        return np.array([match is not None and match["patient"] in seen for _, match in matches])


def predict(cfg: DictConfig) -> pd.DataFrame:
    """Classify pictures and write a table with one row a picture; those left out are named on stderr.

    Args:
        cfg: ``conf/predict.yaml`` as composed.

    Returns:
        The table: ``image`` (path), ``prediction``, ``n_networks`` (how many were averaged), ``data`` (what they were
        trained on) and float64 ``p_<class>`` for each class.

    Raises:
        UserError: an option is not as it must be, there are no runs or no pictures, no picture can be read or is left by
            ``held_out``, or the runs do not fit together.
    """
    _check_options(cfg)
    output, paths = Path(str(cfg.output)), find_pictures(str(cfg.images))
    runs = load_runs(Path(str(cfg.run)), cfg.data.root)
    if early := [run.folder for run in runs if not run.finished]:
        print(f"Not finished, and used with their best checkpoint so far:\n{shorten(early)}", file=sys.stderr)
    used = np.array([~run.saw(paths) if cfg.held_out else np.ones(len(paths), bool) for run in runs])  # (R, N)
    left_out = [f"{p}: every network has seen its patient" for p, n in zip(paths, used.sum(0), strict=True) if not n]
    if len(left_out) == len(paths):
        raise UserError(f"held_out=true leaves none of {len(paths)} picture(s): every network has seen their patients.")
    chosen = np.flatnonzero(used.any(0))
    classes, rows = runs[0].classifier.classes, []
    sources = "; ".join(dict.fromkeys(run.source for run in runs))
    steps = track(range(0, len(chosen), CHUNK), f"Classifying {len(chosen)} pictures", transient=True)
    for part in (chosen[start : start + CHUNK] for start in steps):
        pictures, failures = decode_files([paths[i] for i in part], {run.datamodule.image_size for run in runs})
        left_out += failures.values()
        if len(part := np.array([i for i in part if paths[i] not in failures], int)):
            each = np.stack([run.probabilities(pictures[run.datamodule.image_size]) for run in runs])
            weights = used[:, part, None]
            averaged = (each * weights).sum(0) / weights.sum(0)
            for i, p in zip(part, averaged, strict=True):
                rows.append([str(paths[i]), classes[p.argmax()], used[:, i].sum(), sources, *p])
    if not rows:
        raise UserError(f"None of {len(paths)} picture(s) can be classified:\n{shorten(left_out)}")
    names = ["image", "prediction", "n_networks", "data", *(f"p_{name}" for name in classes)]
    table = pd.DataFrame(rows, columns=names)
    write_atomically(output, table.to_csv(index=False, float_format="%.9g", lineterminator="\n"))
    if left_out:
        print(f"{len(left_out)} picture(s) left out:\n{shorten(left_out, NAMED)}", file=sys.stderr)
    _print(table, classes, f"{len(runs)} network(s) trained on {sources}", output)
    return table
