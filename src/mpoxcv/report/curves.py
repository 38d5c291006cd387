"""The points of ROC, precision-recall and reliability; learning curves need none (figures.py)."""

import numpy as np
import pandas as pd
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

from mpoxcv.evaluation.predictions import probabilities_of
from mpoxcv.evaluation.statistics import confidence_bins

# By kind of curve: title, x, y, name of the area.
AXES = {
    "roc": ("ROC, one class against the rest", "1 - specificity (false-positive rate)", "sensitivity (recall)", "AUROC"),
    "precision_recall": (
        "Precision and recall, one class against the rest", "recall (sensitivity)",
        "precision (positive predictive value)", "AP",
    ),
}  # fmt: skip


def weights_of(rows: pd.DataFrame) -> np.ndarray:
    """Return how much of a picture each row stands for, float (n,): less where runs share it."""
    if "weight" not in rows:
        return np.ones(len(rows))
    return (rows["weight"] / rows["seed"].nunique()).to_numpy()


def curve(rows: pd.DataFrame, name: str, kind: str) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Return x, y and the area of a class's curve; None without positives or negatives.

    ``rows`` are a table of predictions, ``kind`` is a key of ``AXES``. The scores of several
    networks are not ranked against each other: their curves' heights are averaged, and their areas.
    """
    networks = [part for _, part in rows.groupby(["seed", "fold"])] if "seed" in rows else [rows]
    curves = [found for part in networks if (found := _curve(part, name, kind))]
    if len(curves) < 2:
        return curves[0] if curves else None
    grid = np.linspace(0, 1, 501)
    heights = []
    for x, y, _ in curves:
        if kind == "roc":
            heights.append(y[np.searchsorted(x, grid, side="right") - 1])
        # recall falls along the curve
        else:
            heights.append(y[::-1][np.searchsorted(x[::-1], grid)])
    x, y = (grid, np.mean(heights, 0)) if kind == "roc" else (grid[::-1], np.mean(heights, 0)[::-1])
    return x, y, float(np.mean([area for _, _, area in curves]))


def _curve(rows: pd.DataFrame, name: str, kind: str) -> tuple[np.ndarray, np.ndarray, float] | None:
    weight = weights_of(rows)
    truth, score = (rows["label"] == name).to_numpy(), rows[f"p_{name}"].to_numpy(float)
    if not 0 < truth.sum() < len(truth):
        return None
    if kind == "roc":
        false_positives, true_positives, _ = roc_curve(truth, score, sample_weight=weight)
        return false_positives, true_positives, float(auc(false_positives, true_positives))
    precision, recall, _ = precision_recall_curve(truth, score, sample_weight=weight)
    return recall, precision, float(average_precision_score(truth, score, sample_weight=weight))


def calibration_error(rows: pd.DataFrame) -> float:
    """Return the expected calibration error, the mean over the seeds, as the tables have it."""
    seeds = [part for _, part in rows.groupby("seed")] if "seed" in rows else [rows]
    bins = map(reliability, seeds)
    gaps = [(b["n"] * (b["right"] - b["confidence"]).abs()).sum() / b["n"].sum() for b in bins]
    return float(np.mean(gaps))


def reliability(rows: pd.DataFrame) -> pd.DataFrame:
    """Return ``confidence`` (mean), ``right`` (share) and ``n`` of each bin that holds pictures."""
    n, confidence = weights_of(rows), probabilities_of(rows).max(1)
    right = (rows["label"] == rows["prediction"]).to_numpy()
    table = pd.DataFrame({"confidence": n * confidence, "right": n * right, "n": n})
    sums = table.groupby(confidence_bins(confidence)).sum()
    return sums.assign(confidence=sums["confidence"] / sums["n"], right=sums["right"] / sums["n"])
