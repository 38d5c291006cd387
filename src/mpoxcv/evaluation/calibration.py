"""How far a group's probabilities can be believed, and what Valid can mend of it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.groups import Group, estimate
from mpoxcv.evaluation.intervals import Z
from mpoxcv.evaluation.predictions import classes_of, codes, probabilities_of
from mpoxcv.evaluation.runs import Run

METRICS = ("ece", "brier", "log_loss")
# a probability of 0 or 1 has no logit
CLIP = 1e-6


def calibration(group: Group, positive: str) -> dict[str, Any]:
    """Return calibration errors before and after a temperature, and those of knowing nothing.

    ``before``, ``after`` and ``change`` hold value, low and high of each of ``METRICS``; ``shares``
    what always saying the tested classes' shares would have. ``temperatures`` are the runs', each
    fitted on ``val`` pictures. ``intercept`` and ``slope`` (value, low, high) are of the logit of
    class ``positive`` against the rest, 0 and 1 if calibrated (Van Calster et al. 2019).
    """
    rows, names = group.rows, [f"p_{name}" for name in classes_of(group.rows)]
    fitted = {(run.seed, run.fold): _temperature(run, group.finished) for run in group.finished}
    cooled = rows.copy()
    for key, part in rows.groupby(["seed", "fold"]):
        cooled.loc[part.index, names] = st.apply_temperature(part[names], fitted[key][0])
    before, after = (_errors(table, group.draws) for table in (rows, cooled))

    labels = codes(rows, "label")
    shares = np.bincount(labels, rows["weight"], len(names)) / rows["weight"].sum()
    reference = st.calibration(labels, np.tile(shares, (len(rows), 1)), group.draws[:1])
    return {
        "before": {metric: estimate(before[metric]) for metric in METRICS},
        "after": {metric: estimate(after[metric]) for metric in METRICS},
        "change": {metric: estimate(after[metric] - before[metric]) for metric in METRICS},
        "shares": {metric: float(reference[metric][0]) for metric in METRICS},
        "temperatures": [t for t, _ in fitted.values()],
        "val": [n for _, n in fitted.values()],
        "class": positive,
        **_weak(rows, positive),
    }


def _errors(rows: pd.DataFrame, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return each of ``METRICS``, float (1 + R,), averaged over the seeds."""
    by_seed = []
    for chosen in rows.groupby("seed").indices.values():
        part = rows.iloc[chosen]
        labels = codes(part, "label")
        by_seed.append(st.calibration(labels, probabilities_of(part), draws[:, chosen]))
    return {name: np.mean([values[name] for values in by_seed], axis=0) for name in METRICS}


def _temperature(run: Run, runs: Sequence[Run]) -> tuple[float, int]:
    """Return a run's temperature, and the number of Valid pictures that it was fitted on.

    A fold's Valid is small: those of all networks of its seed are taken together, but for the
    patients of this run's Test, who must not tell its temperature. Of none it is 1.
    """
    val = pd.concat([other.predicted("val") for other in runs if other.seed == run.seed])
    val = val[~val["patient"].isin(run.predicted("test")["patient"])]
    if val.empty:
        return 1.0, 0
    return st.temperature(codes(val, "label"), probabilities_of(val)), val["image"].nunique()


def _weak(rows: pd.DataFrame, positive: str) -> dict[str, list[float]]:
    """Return calibration intercept (of slope 1) and slope: value, low, high, by patients."""
    if positive not in classes_of(rows):
        return {}
    truth = (rows["label"] == positive).to_numpy(float)
    logit = special.logit(rows[f"p_{positive}"].clip(CLIP, 1 - CLIP).to_numpy(float))
    weights = rows["weight"].to_numpy()
    one = np.ones((len(rows), 1))
    intercept = logistic(one, truth, logit, weights, rows["patient"])[0]
    slope = logistic(np.column_stack([one, logit]), truth, 0 * logit, weights, rows["patient"])[1]
    return {"intercept": intercept, "slope": slope}


def logistic(
    inputs: np.ndarray,
    truth: np.ndarray,
    offset: np.ndarray,
    weights: np.ndarray,
    patients: pd.Series,
) -> list[list[float]]:
    """Fit a logistic regression; return value, low and high of each coefficient, by patients.

    ``inputs`` are float (N, K), ``truth`` (N,) 0 or 1, ``offset`` (N,) what is added to the logit.
    The interval is the sandwich's with a patient's pictures together (Liang and Zeger 1986). NaN
    where the classes are separated, so that no coefficient is best.
    """
    coefficients = np.zeros(inputs.shape[1])
    for _ in range(50):
        p = special.expit(inputs @ coefficients + offset)
        residuals = inputs * (weights * (truth - p))[:, None]
        information = inputs.T @ (inputs * (weights * p * (1 - p))[:, None])
        if np.linalg.cond(information) > 1e10:
            break
        step = np.linalg.solve(information, residuals.sum(0))
        coefficients += step
        if np.abs(step).max() < 1e-8:
            sums = pd.DataFrame(residuals).groupby(patients.to_numpy()).sum().to_numpy()
            bread = np.linalg.inv(information)
            g = len(sums)
            variance = np.diag(bread @ (sums.T @ sums) @ bread) * g / max(1, g - 1)
            half = Z * np.sqrt(variance)
            return np.column_stack(
                [coefficients, coefficients - half, coefficients + half]
            ).tolist()
    return [[math.nan] * 3] * inputs.shape[1]


def thresholds(group: Group, positive: str) -> list[dict[str, Any]]:
    """Return each run's threshold of class ``positive``, with Youden's J on Valid and on Test.

    It has the largest J on Valid; 0.5 where Valid has no such class, or nothing else.
    """
    found = []
    for run in group.finished:
        row: dict[str, Any] = {"fold": run.fold, "seed": run.seed}
        val, test = run.predicted("val"), run.predicted("test")
        threshold = st.youden_threshold(val["label"] == positive, val[f"p_{positive}"])
        row |= {"chosen": not math.isnan(threshold), "val": len(val)}
        row["positives"] = int((val["label"] == positive).sum())
        row["threshold"] = threshold if row["chosen"] else 0.5
        for split, table in (("youden_val", val), ("youden_test", test)):
            flagged = table[f"p_{positive}"] >= row["threshold"]
            rates = st.binary(table["label"] == positive, flagged, np.ones((1, len(table))))
            row[split] = float(rates["sensitivity"][0] + rates["specificity"][0] - 1)
        found.append(row)
    return found
