"""Sets of classes that hold the true one with a promised probability, from held-out predictions.

CV+ (Barber et al. 2021) for classes (Romano, Sesia and Candès 2020): each network's scores of its
own test pictures tell how unusual a class's score is. Exchangeable are patients, not pictures, so
that a patient's pictures share a weight of one (Dunn, Wasserman and Ramdas 2023).

Legend: N pictures, C classes, R networks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mpoxcv.evaluation.groups import estimate, interval_of
from mpoxcv.evaluation.predictions import classes_of, codes, probabilities_of

LEVELS = (0.8, 0.9)


class HeldOut:
    """How unlikely each network called the true class of its own test pictures.

    Args:
        tables: a network's rows of predictions.csv each, R of them; of Test alone.
    """

    def __init__(self, tables: Sequence[pd.DataFrame]) -> None:
        rows = pd.concat([table.assign(network=i) for i, table in enumerate(tables)])
        truth, weights = _truths(rows)
        self.patients = rows["patient"].nunique()
        # by network, the least likely first, with the weights of all that are as unlikely or more
        self.truths: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        for network in range(len(tables)):
            chosen = (rows["network"] == network).to_numpy()
            order = np.argsort(truth[chosen], kind="stable")
            self.truths.append(truth[chosen][order])
            sums = np.cumsum(weights[chosen][order])
            self.weights.append(np.concatenate([[0.0], sums]))

    def p_values(self, by_network: np.ndarray) -> np.ndarray:
        """Return how often the true class would be called as unlikely: float64 (N, C).

        Classes above 1 - level are the set. A true class is left out with a probability of at most
        2 (1 - level), and of nearly 1 - level in practice.

        Args:
            by_network: probabilities, float (R, N, C).
        """
        total = np.ones(by_network.shape[1:])
        for truths, weights, probabilities in zip(
            self.truths, self.weights, by_network, strict=True
        ):
            total += weights[np.searchsorted(truths, probabilities, side="right")]
        return total / (self.patients + 1)


def in_set(p_values: np.ndarray, probabilities: np.ndarray, level: float) -> np.ndarray:
    """Return which classes are in the sets, bool (N, C): the likeliest always is."""
    likeliest = probabilities.argmax(1)[:, None] == np.arange(probabilities.shape[1])
    return (p_values > 1 - level) | likeliest


def _truths(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's probability of its true class, and its share of its patient, (N,) each."""
    truth = probabilities_of(rows)[np.arange(len(rows)), codes(rows, "label")]
    return truth, 1 / rows.groupby("patient")["patient"].transform("size").to_numpy()


def held_out_p_values(rows: pd.DataFrame) -> np.ndarray:
    """Return the p-values of test pictures, float64 (N, C), each from all other patients' pictures.

    Args:
        rows: N test rows of all networks, each with its own network's probabilities.
    """
    probabilities = probabilities_of(rows)
    truth, weights = _truths(rows)
    patients, own = np.unique(rows["patient"], return_inverse=True)
    order = np.argsort(truth, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(weights[order])])
    as_unlikely = sums[np.searchsorted(truth[order], probabilities, side="right")]
    for patient in range(len(patients)):
        mine = np.flatnonzero(own == patient)
        below = truth[mine][:, None, None] <= probabilities[mine]
        as_unlikely[mine] -= (weights[mine][:, None, None] * below).sum(0)
    return (1 + as_unlikely) / len(patients)


def held_out_coverage(rows: pd.DataFrame, draws: np.ndarray) -> list[dict[str, Any]]:
    """Return how often the sets of test pictures hold the true class, and how large they are.

    Args:
        rows: N test rows.
        draws: float (1 + R, N), as of ``mpoxcv.evaluation.groups.bootstrap``.

    Returns:
        For each of ``LEVELS`` ``level``, ``coverage`` and ``size`` (value, low, high), and by class
        ``classes``: coverage and size. Of too few patients low and high are NaN.
    """
    labels, classes = codes(rows, "label"), classes_of(rows)
    p_values, probabilities = held_out_p_values(rows), probabilities_of(rows)
    result = []
    for level in LEVELS:
        sets = in_set(p_values, probabilities, level)
        hit, size = sets[np.arange(len(rows)), labels], sets.sum(1)
        result.append({
            "level": level,
            "coverage": interval_of(rows, draws @ hit / draws.sum(1), np.ones(len(rows), bool)),
            "size": estimate(draws @ size / draws.sum(1)),
            "classes": {
                name: [float(hit[labels == i].mean()), float(size[labels == i].mean())]
                for i, name in enumerate(classes) if (labels == i).any()
            },
        })  # fmt: skip
    return result
