"""The runs of one experiment and their scored pictures, as one table with weights.

Legend: N rows (scored pictures), R bootstrap replicates.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.predictions import classes_of, probabilities_of
from mpoxcv.evaluation.runs import Run

HEADLINE = ("balanced_accuracy", "f1_macro", "accuracy", "auroc_macro")
PRIMARY = HEADLINE[0]
BOOTSTRAP_SEED = 0


@dataclass
class Group:
    """The runs of one experiment."""

    name: str  # short, unique
    runs: list[Run]  # all of them
    # the finished runs' test predictions, with the columns ``run``, ``seed`` and ``weight``: a picture that k folds of a
    # seed test counts 1/k in each
    rows: pd.DataFrame
    draws: np.ndarray  # float (R, N), weights of the rows in the bootstrap over patients
    content: dict[str, Any] = field(default_factory=dict)  # what summary.json holds of it

    @property
    def finished(self) -> list[Run]:
        """The runs that have predictions, by seed and fold."""
        return sorted(
            (r for r in self.runs if r.predictions is not None), key=lambda r: (r.seed, str(r.fold))
        )


def tested_rows(tables: Iterable[tuple[Run, pd.DataFrame | None]]) -> pd.DataFrame:
    """Return the test rows of the runs' tables as ``Group.rows`` has them; runs without a table are left out."""
    parts = [
        table[table["split"] == "test"].assign(run=run.folder.name, seed=run.seed)
        for run, table in tables
        if table is not None
    ]
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(weight=1 / rows.groupby(["seed", "image"])["image"].transform("size"))


def codes(rows: pd.DataFrame, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predictions as numbers of classes, int (N,) each."""
    number = {name: label for label, name in enumerate(classes)}
    return rows["label"].map(number).to_numpy(), rows["prediction"].map(number).to_numpy()


def scores(rows: pd.DataFrame, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return each metric, float (R,): pooled over the folds, then averaged over the seeds."""
    by_seed = []
    for seed in sorted(set(rows["seed"])):
        chosen = (rows["seed"] == seed).to_numpy()
        part = rows[chosen]
        by_seed.append(
            st.scores(codes(part, classes_of(rows))[0], probabilities_of(part), draws[:, chosen])
        )
    return {name: np.mean([values[name] for values in by_seed], axis=0) for name in by_seed[0]}


def pooled(rows: pd.DataFrame, draws: np.ndarray) -> dict[str, list[float]]:
    """Return value, low and high of each metric."""
    value, drawn = scores(rows, rows["weight"].to_numpy()[None]), scores(rows, draws)
    return {
        name: [float(value[name][0]), *st.percentile_interval(drawn[name])] for name in st.METRICS
    }


def fold_means(group: Group, metric: str) -> dict[int | str, float]:
    """Return the metric of each fold, averaged over seeds."""
    table = pd.DataFrame(
        [(run.fold, run.metrics.get(f"test/{metric}")) for run in group.finished],
        columns=["fold", "value"],
    )
    return {
        fold: float(value)
        for fold, value in table.astype({"value": float}).groupby("fold")["value"].mean().items()
    }
