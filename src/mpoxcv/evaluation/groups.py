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
    picture that k folds of a seed test counts 1/k in each. ``draws`` are as of :func:`bootstrap`,
    ``content`` is what summary.json holds.
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


def bootstrap(rows: pd.DataFrame, replicates: int) -> np.ndarray:
    """Return the rows' weights, float (1 + R, N): as they are, then drawn over patients."""
    weights = rows["weight"].to_numpy()
    draws = st.patient_bootstrap(rows["patient"], weights, replicates, BOOTSTRAP_SEED)
    return np.concatenate([weights[None], draws])


def scores(rows: pd.DataFrame, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return each metric, float (1 + R,): pooled over the folds, then averaged over the seeds."""
    by_seed = []
    for chosen in rows.groupby("seed").indices.values():
        part = rows.iloc[chosen]
        by_seed.append(st.scores(codes(part, "label"), probabilities_of(part), draws[:, chosen]))
    return {name: np.mean([values[name] for values in by_seed], axis=0) for name in st.METRICS}


def estimate(scores: np.ndarray) -> list[float]:
    """Return value, low and high of scores by :func:`bootstrap`'s weights, float (1 + R,)."""
    return [float(scores[0]), *st.percentile_interval(scores[1:])]


def pooled(rows: pd.DataFrame, draws: np.ndarray) -> dict[str, list[float]]:
    """Return value, low and high of each metric."""
    return {name: estimate(values) for name, values in scores(rows, draws).items()}
