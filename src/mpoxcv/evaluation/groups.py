"""The runs of one experiment and their scored pictures, as one table with weights.

Legend: N rows (scored pictures), R bootstrap replicates, C classes.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.intervals import (
    TOO_FEW,
    area_interval,
    mean_interval,
    pictures_worth,
    score_interval,
    worth,
)
from mpoxcv.evaluation.predictions import classes_of, codes, probabilities_of
from mpoxcv.evaluation.runs import Run

HEADLINE = ("balanced_accuracy", "f1_macro", "accuracy", "auroc_macro")
PRIMARY = HEADLINE[0]
# each metric, float (1 + R,), and each of a class, float (1 + R, C)
Scores = tuple[Mapping[str, np.ndarray], ...]
BOOTSTRAP_SEED, REPLICATES = 0, 2000
# shares of pictures: what all of them are worth bounds their intervals
SHARES = ("accuracy", "recall_weighted", "precision_weighted", "f1_weighted")


@dataclass
class Group:
    """The finished runs of one experiment, or a baseline on the same pictures.

    ``rows`` are test predictions, with the columns ``run``, ``seed``, ``picture`` (equal for a
    photograph that lies there under two names) and ``weight``: a photograph that a seed tests k
    times counts 1/k in each. ``draws`` are as of :func:`bootstrap`, ``content`` is what
    summary.json holds.
    """

    name: str
    finished: list[Run]
    rows: pd.DataFrame
    draws: np.ndarray
    content: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def scores(self) -> Scores:
        """As of :func:`scores`. Groups on the same patients have the same draws of them."""
        return scores(self.rows, self.draws)

    @functools.cached_property
    def by_run(self) -> pd.DataFrame:
        """Each metric of each run, with the index ``seed`` and ``fold``."""
        runs = self.rows.groupby(["seed", "fold"], sort=False)
        values = {
            key: {name: float(score[0]) for name, score in plain_scores(part).items()}
            for key, part in runs
        }
        return pd.DataFrame.from_dict(values, orient="index").rename_axis(["seed", "fold"])

    def fold_means(self, metric: str) -> pd.Series:
        """Return the metric of each fold, averaged over seeds."""
        return self.by_run[metric].groupby(level="fold").mean()

    @property
    def ratio(self) -> float:
        """Pictures tested a picture trained on, copies left out, summed over the runs."""
        train = test = 0
        for run in self.finished:
            data = run.provenance["data"]
            used = {
                split: sum(cell["pictures"] for cell in classes.values())
                for split, classes in data["counts"].items()
            }
            # where copies alone are trained on, the pictures that they were made of
            train += used.get("train") or data["originals"].get("train", 0)
            test += used.get("test", 0)
        # of a k-fold cross-validation, where the sizes are not known
        return test / train if train else 1 / max(1, self.rows["fold"].nunique() - 1)

    @functools.cached_property
    def averaged(self) -> pd.DataFrame:
        """One row a photograph, by the average of the networks that had it in Test.

        None of them saw its patient, so this is as honest as a network's score.
        """
        if self.rows["picture"].is_unique:
            return self.rows
        classes = classes_of(self.rows)
        first = dict.fromkeys(("image", "patient", "data", "fold", "split", "label"), "first")
        how = first | {f"p_{name}": "mean" for name in classes}
        averaged = self.rows.groupby("picture", as_index=False, sort=False).agg(how)
        prediction = np.array(classes)[probabilities_of(averaged).argmax(1)]
        return averaged.assign(prediction=prediction, seed=0, weight=1.0)


def tested_rows(tables: Iterable[tuple[Run, pd.DataFrame]]) -> pd.DataFrame:
    """Return the test rows of the runs' tables as ``Group.rows`` has them."""
    rows = pd.concat(
        [table.assign(run=run.folder.name, seed=run.seed, fold=run.fold) for run, table in tables]
    )
    rows = rows[rows["split"] == "test"].reset_index(drop=True)
    # runs of before this column had one name a photograph
    pictures = rows["picture"].fillna(rows["image"]) if "picture" in rows else rows["image"]
    rows = rows.assign(picture=pictures)
    return rows.assign(weight=1 / rows.groupby(["seed", "picture"])["image"].transform("size"))


def bootstrap(rows: pd.DataFrame, replicates: int) -> np.ndarray:
    """Return the rows' weights, float (1 + R, N): as they are, then drawn over patients."""
    weights = rows["weight"].to_numpy()
    draws = st.patient_bootstrap(rows["patient"], weights, replicates, BOOTSTRAP_SEED)
    return np.concatenate([weights[None], draws])


def plain_scores(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return each metric of one network's rows, float (1,)."""
    return st.scores(codes(rows, "label"), probabilities_of(rows), np.ones((1, len(rows))))


def scores(rows: pd.DataFrame, draws: np.ndarray) -> Scores:
    """Return the scores over all pictures of a seed, averaged over the seeds."""
    whole, by_class = [], []
    for chosen in rows.groupby("seed").indices.values():
        part, weights = rows.iloc[chosen], draws[:, chosen]
        told = codes(part, "label"), probabilities_of(part), weights
        by_class.append(st.per_class(*told, networks(part)))
        whole.append(st.scores(*told, by_class[-1]))
    return tuple(
        {name: np.mean([values[name] for values in by_seed], axis=0) for name in by_seed[0]}
        for by_seed in (whole, by_class)
    )


def networks(rows: pd.DataFrame) -> np.ndarray:
    """Return a number for each row, int (N,), equal for those of one network."""
    return rows.groupby(["seed", "fold"]).ngroup().to_numpy()


def estimate(scores: np.ndarray) -> list[float]:
    """Return value, low and high of scores by :func:`bootstrap`'s weights, float (1 + R,)."""
    return [float(scores[0]), *st.percentile_interval(scores[1:])]


def interval_of(
    rows: pd.DataFrame, values: np.ndarray, of: np.ndarray, area: bool = False
) -> list[float]:
    """Return value, low and high of a score's replicates, float (1 + R,).

    ``of``, bool (N,), are the rows that it is a share of, or, of an AUROC (``area``), the positive
    ones. Of too few patients no interval is given.
    """
    if rows["patient"][of].nunique() < TOO_FEW:
        return [float(values[0]), math.nan, math.nan]
    seeds = rows["seed"].nunique()
    if area:
        folds = (networks(rows).max() + 1) // seeds
        return area_interval(values, rows["patient"].nunique(), folds, rows["image"].nunique())
    share = rows["weight"].to_numpy() / seeds
    return score_interval(values, *worth(rows["patient"], share * of))


def pooled(
    rows: pd.DataFrame, draws: np.ndarray, scored: Scores | None = None
) -> dict[str, list[float]]:
    """Return value, low and high of each metric, from ``scored`` where :func:`scores` gave it.

    That of the balanced accuracy is put together from its classes'; other averages over classes are
    worth what their rarest allows. Calibration errors are no shares, and have percentiles.
    """
    labels, present = codes(rows, "label"), np.unique(codes(rows, "label"))
    share = rows["weight"].to_numpy() / rows["seed"].nunique()
    whole = worth(rows["patient"], share)
    by_class = [worth(rows["patient"], share * (labels == label)) for label in present]
    rarest = [
        len(present) ** 2 / sum(1 / n for n in sizes) for sizes in zip(*by_class, strict=True)
    ]

    values, classes = scored or scores(rows, draws)
    estimates = {}
    for name, replicates in values.items():
        if name in ("ece", "brier", "log_loss"):
            estimates[name] = estimate(replicates)
        elif name.startswith("auroc"):
            estimates[name] = interval_of(rows, replicates, labels >= 0, area=True)
        else:
            estimates[name] = score_interval(replicates, *(whole if name in SHARES else rarest))

    recalls = classes["recall"][:, present].T
    sizes = [
        pictures_worth(recall[0], float(np.nanvar(recall[1:])), *bounds)
        for recall, bounds in zip(recalls, by_class, strict=True)
    ]
    # who says the same of all has the same balanced accuracy on any pictures
    constant = rows["prediction"].nunique() == 1
    interval = mean_interval(recalls[:, 0].tolist(), sizes)
    estimates["balanced_accuracy"][1:] = (math.nan, math.nan) if constant else interval
    return estimates
