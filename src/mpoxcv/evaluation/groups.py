"""The runs of one experiment and their scored pictures, as one table with weights.

Legend: N rows (scored pictures), R bootstrap replicates.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.predictions import codes, probabilities_of
from mpoxcv.evaluation.runs import Run

HEADLINE = ("balanced_accuracy", "f1_macro", "accuracy", "auroc_macro")
PRIMARY = HEADLINE[0]
BOOTSTRAP_SEED, REPLICATES = 0, 2000


@dataclass
class Group:
    """The finished runs of one experiment, by seed and fold.

    ``rows`` are their test predictions, with the columns ``run``, ``seed`` and ``weight``: a
    picture that k folds of a seed test counts 1/k in each. ``draws``, float (R, N), are the rows'
    weights in the bootstrap over patients, ``content`` is what summary.json holds.
    """

    name: str
    finished: list[Run]
    rows: pd.DataFrame
    draws: np.ndarray
    content: dict[str, Any] = field(default_factory=dict)

    def fold_means(self, metric: str) -> pd.Series:
        """Return the metric of each fold, averaged over seeds."""
        values = [run.metrics.get(f"test/{metric}") for run in self.finished]
        folds = [run.fold for run in self.finished]
        return pd.Series(values, folds, float).groupby(level=0).mean()


def tested_rows(tables: Iterable[tuple[Run, pd.DataFrame]]) -> pd.DataFrame:
    """Return the test rows of the runs' tables as ``Group.rows`` has them."""
    rows = pd.concat([table.assign(run=run.folder.name, seed=run.seed) for run, table in tables])
    rows = rows[rows["split"] == "test"].reset_index(drop=True)
    return rows.assign(weight=1 / rows.groupby(["seed", "image"])["image"].transform("size"))


def plain_weights(rows: pd.DataFrame) -> np.ndarray:
    """Return the rows' weights without a draw, float (1, N): they give the plain scores."""
    return rows["weight"].to_numpy()[None]


def bootstrap(rows: pd.DataFrame, replicates: int) -> np.ndarray:
    """Return the rows' weights in the bootstrap over patients, float (R, N)."""
    return st.patient_bootstrap(rows["patient"], rows["weight"], replicates, BOOTSTRAP_SEED)


def scores(rows: pd.DataFrame, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return each metric, float (R,): pooled over the folds, then averaged over the seeds."""
    by_seed = []
    for chosen in rows.groupby("seed").indices.values():
        part = rows.iloc[chosen]
        by_seed.append(st.scores(codes(part, "label"), probabilities_of(part), draws[:, chosen]))
    return {name: np.mean([values[name] for values in by_seed], axis=0) for name in st.METRICS}


def estimate(value: np.ndarray, drawn: np.ndarray) -> list[float]:
    """Return value, low and high of the plain score, float (1,), and its replicates, float (R,)."""
    return [float(value[0]), *st.percentile_interval(drawn)]


def pooled(rows: pd.DataFrame, draws: np.ndarray) -> dict[str, list[float]]:
    """Return value, low and high of each metric."""
    value, drawn = scores(rows, plain_weights(rows)), scores(rows, draws)
    return {name: estimate(value[name], drawn[name]) for name in st.METRICS}
