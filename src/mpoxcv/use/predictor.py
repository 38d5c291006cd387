"""Trained networks as one function: pictures in, their averaged prediction out.

Legend: N pictures, C classes, R networks.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from rich.progress import track
from torch import Tensor

from mpoxcv.errors import UserError, holds_invisible, visible
from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.conformal import HeldOut, in_set
from mpoxcv.evaluation.novelty import threshold
from mpoxcv.evaluation.predictions import codes, probabilities_of
from mpoxcv.evaluation.runs import LEAKING
from mpoxcv.explain import blaming
from mpoxcv.pictures import tree
from mpoxcv.pictures.ahead import map_ahead
from mpoxcv.pictures.cache import read_file
from mpoxcv.pictures.images import decoded
from mpoxcv.pictures.pixels import Form, resize
from mpoxcv.storage.files import StrPath
from mpoxcv.use.stored_run import TrainedRun, load_runs

# pictures that are scored at once
BATCH = 64
NOT_FOR = "Research only: not for diagnosis."
Picture = StrPath | Image.Image | np.ndarray


@dataclass(frozen=True)
class Prediction:
    """What the networks say of a picture.

    ``probabilities`` are those of the classes, float64 (C,). ``prediction_set`` holds the true
    class with a probability of ``level``; None where no held-out pictures tell. ``distance`` is how
    far the picture is from those that the networks learned from, as a share of what is too far; NaN
    where they do not tell. ``networks`` is how many were averaged.
    """

    image: str
    classes: tuple[str, ...]
    probabilities: np.ndarray
    prediction_set: tuple[str, ...] | None
    level: float
    distance: float
    networks: int
    warnings: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.classes[int(self.probabilities.argmax())]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        first, *rest = map(escape, self._lines())
        return f"<b>{first}</b><br>{'<br>'.join(rest)}"

    def _lines(self) -> Iterator[str]:
        order = np.argsort(-self.probabilities, kind="stable")
        ranked = [f"{visible(self.classes[i])} {self.probabilities[i]:.3f}" for i in order]
        yield f"{visible(self.image)}: {', '.join(ranked)}"
        # a promise for pictures like those of the held-out patients
        if self.prediction_set is not None and not self.distance > 1:
            classes = " or ".join(map(visible, self.prediction_set))
            yield f"With a probability of {self.level:.0%} it is {classes}."
        yield from self.warnings
        yield NOT_FOR


class Predictor:
    """The networks of one run, or of all runs below a folder, averaged.

    Args:
        runs: of the same classes (see ``mpoxcv.use.stored_run.load_runs``).
        temperature: of all networks; None is fitted on their Valid pictures together (1 where there
            are none), see ``mpoxcv.evaluation.statistics.temperature``.
    """

    def __init__(self, runs: Sequence[TrainedRun], temperature: float | None = None) -> None:
        self.runs = runs
        self.classes = tuple(runs[0].classifier.classes)
        self.sources = tuple(dict.fromkeys(run.source for run in runs))
        self.forms = {run.form for run in runs}
        tables = {
            split: [run.predictions[run.predictions["split"] == split] for run in runs]
            for split in ("val", "test")
            if all(split in set(run.predictions.get("split", ())) for run in runs)
        }
        if temperature is None and "val" in tables:
            val = pd.concat(tables["val"])
            temperature = st.temperature(codes(val, "label"), probabilities_of(val))
        self.temperature = 1.0 if temperature is None else temperature
        # whoever was trained on all folds has held nothing out
        honest = "test" in tables and all(run.data.fold != LEAKING for run in runs)
        self.held_out = HeldOut(tables["test"]) if honest else None
        # the distance that is too far, and the share of the networks' own Test that is farther
        references = [run.reference for run in runs if run.reference]
        self.limit = self.unlike_of_test = math.nan
        if len(references) == len(runs) and any(len(r["val"]) for r in references):
            self.limit = threshold(np.concatenate([r["val"] for r in references]))
            beyond = np.concatenate([r["test"] for r in references]) > self.limit
            self.unlike_of_test = float(beyond.mean())

    def __call__(
        self, images: Picture | Iterable[Picture], level: float = 0.9
    ) -> Prediction | pd.DataFrame:
        """Classify a picture, or many.

        Args:
            images: the path of a picture, a folder or a glob; a PIL picture; a uint8 array
                (height, width, 3), (height, width) or (N, height, width, 3); or a list of these.
            level: the probability with which prediction sets should hold the true class.

        Returns:
            The prediction of one picture; of several a table as :func:`table_of` makes it.

        Raises:
            UserError: a picture cannot be read, or there is none.
        """
        pictures, is_one = sources_of(images)
        steps: Iterable[Prediction | str] = self.predict(pictures, level)
        if not is_one:
            steps = track(steps, "Classifying", len(pictures), transient=True)
        predictions = []
        for picture, prediction in zip(pictures, steps, strict=True):
            if isinstance(prediction, str):
                raise UserError(f"{name_of(picture)} {prediction}.")
            predictions.append(prediction)
        return predictions[0] if is_one else table_of(predictions)

    def predict(
        self, pictures: Sequence[Picture], level: float = 0.9, used: np.ndarray | None = None
    ) -> Iterator[Prediction | str]:
        """Yield the prediction of each picture, or why there is none; few are in memory at once.

        Args:
            pictures: paths, PIL pictures or arrays.
            level: as in ``__call__``.
            used: bool (R, N), which networks are averaged; then there are no prediction sets, which
                are those of all.

        Raises:
            UserError: ``level`` is no probability, or a network gives no finite numbers.
        """
        if not 0 < level < 1:
            raise UserError(f"level={level} should be above 0 and below 1.")
        networks = np.ones((len(self.runs), len(pictures)), bool) if used is None else used
        threads = os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:
            resized = map_ahead(pool, self._resized, pictures, 2 * BATCH)
            for start in range(0, len(pictures), BATCH):
                chunk = pictures[start : start + BATCH]
                parts = [next(resized) for _ in chunk]
                columns = networks[:, start : start + BATCH]
                sound = [i for i, part in enumerate(parts) if isinstance(part, dict)]
                chosen: Any = [parts[i] for i in sound]
                scored = self._scored(chosen, columns[:, sound], level, used is None)
                for picture, part in zip(chunk, parts, strict=True):
                    if isinstance(part, str):
                        yield part
                    else:
                        yield Prediction(name_of(picture), self.classes, *next(scored))

    def _resized(self, picture: Picture) -> dict[Form, np.ndarray] | str:
        """Return a picture in each form, uint8 (S, S, 3), or why there is none."""
        try:
            if isinstance(picture, Image.Image):
                upright = ImageOps.exif_transpose(picture).convert("RGB")
                return {form: resize(np.asarray(upright), form) for form in self.forms}
            if isinstance(picture, np.ndarray):
                return {form: resize(_rgb(picture), form) for form in self.forms}
            if holds_invisible(str(picture)):
                return "has control characters, text directions or no UTF-8 in its name"
            with decoded(read_file(Path(picture))) as pixels:
                return {form: resize(pixels, form) for form in self.forms}
        except UserError as error:
            return str(error)

    def _scored(
        self, pictures: Sequence[dict[Form, np.ndarray]], used: np.ndarray, level: float, sets: bool
    ) -> Iterator[tuple[Any, ...]]:
        """Yield what a prediction has after its classes."""
        if not pictures:
            return
        pixels = {form: np.stack([picture[form] for picture in pictures]) for form in self.forms}
        inputs: dict[Any, Tensor] = {}
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        for run in self.runs:
            key = run.frozen or run.folder
            with blaming(run.folder):
                if key not in inputs:
                    inputs[key] = run.inputs(pixels[run.form])
                parts.append(run.score(inputs[key]))
        by_network = np.stack([probabilities for probabilities, _ in parts])
        scaled = np.stack([st.apply_temperature(p, self.temperature) for p in by_network])
        averaged = (scaled * used[..., None]).sum(0) / used.sum(0)[:, None]
        distance = (np.stack([far for _, far in parts]) * used).sum(0) / used.sum(0) / self.limit
        chosen = None
        if sets and self.held_out:
            chosen = in_set(self.held_out.p_values(by_network), averaged, level)
        for i, probabilities in enumerate(averaged):
            order = np.argsort(-probabilities, kind="stable")
            held = None if chosen is None else tuple(self.classes[j] for j in order if chosen[i, j])
            warnings = []
            if distance[i] > 1:
                far = f"{distance[i]:.2f} times as far as is usual"
                warnings.append(f"It is unlike the pictures that the networks learned from: {far}.")
            if any("synthetic" in source for source in self.sources):
                warnings.append("The networks learned from synthetic pictures, of nobody's skin.")
            n = int(used[:, i].sum())
            yield probabilities, held, level, float(distance[i]), n, tuple(warnings)


def load(folder: StrPath, trust: Sequence[str] = (), temperature: float | None = None) -> Predictor:
    """Load the network of a run's folder, or those of all runs below a folder, to use them.

    It is read as if a stranger had sent it: no code in it runs but what ``trust`` names.

    Args:
        folder: of a run, or of a multirun.
        trust: modules and names of one's own that a stored config may build.
        temperature: as of :class:`Predictor`.

    Raises:
        UserError: there is no trained run, or what it holds is refused.
    """
    return Predictor(load_runs(folder, trust), temperature)


def table_of(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """Return predictions as a table, a row a picture.

    Its columns are ``image``, ``prediction``, ``n_networks``, ``set`` (classes with semicolons
    between them; empty where there is none), ``distance`` (above 1: unlike what was learned from),
    and float64 ``p_<class>``.
    """
    rows = [
        {
            "image": p.image, "prediction": p.label, "n_networks": p.networks,
            "set": "; ".join(p.prediction_set or ()), "distance": p.distance,
            **{f"p_{name}": value for name, value in zip(p.classes, p.probabilities, strict=True)},
        }
        for p in predictions
    ]  # fmt: skip
    return pd.DataFrame(rows)


def sources_of(images: Picture | Iterable[Picture]) -> tuple[list[Picture], bool]:
    """Return pictures one by one, and whether it is a single one; as of ``Predictor.__call__``."""
    if isinstance(images, str | os.PathLike):
        return [*tree.find_pictures(str(images))], Path(images).is_file()
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
        return [images], True
    pictures = [source for image in images for source in sources_of(image)[0]]
    if not pictures:
        raise UserError("There is no picture to classify.")
    return pictures, False


def name_of(picture: Picture) -> str:
    """Return a picture's path, or what else is known of it."""
    if isinstance(picture, str | os.PathLike):
        return str(picture)
    return str(getattr(picture, "filename", "")) or "picture"


def _rgb(pixels: np.ndarray) -> np.ndarray:
    colours = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
    if colours.dtype != np.uint8 or colours.ndim != 3 or colours.shape[2] != 3 or not colours.size:
        kind = f"{pixels.dtype} {pixels.shape}"
        raise UserError(f"is {kind}, and should be uint8 of (height, width, 3)")
    return np.ascontiguousarray(colours)
