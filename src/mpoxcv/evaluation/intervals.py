"""Intervals and chance over patients, of scores between 0 and 1.

The percentile interval of a bootstrap fails near 0 and 1: a classifier without a mistake has no
spread. A score interval does not (Wilson 1927), with a number of pictures that says how much the
patients' pictures are worth: over the design effect (Rao and Scott 1992; Korn and Graubard 1998).

Legend: N rows (scored pictures), R bootstrap replicates, C classes.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from mpoxcv.evaluation.predictions import classes_of

# patients of a class: below the first no interval is given, below the second it is flagged
TOO_FEW, FEW = 5, 10
Z = float(stats.norm.ppf(0.975))


def wilson(value: float, n: float) -> tuple[float, float]:
    """Return the 95 % interval of a share ``value`` of ``n`` independent pictures, if not whole."""
    if math.isnan(value) or n <= 0:
        return math.nan, math.nan
    middle = (value + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(value * (1 - value) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def worth(patients: pd.Series, weights: np.ndarray) -> tuple[float, float]:
    """Return the least and the most independent pictures that the patients' pictures are worth.

    The most is their number; the least is Kish's (1965), as if those of a patient were all alike.
    ``weights``, float (N,), say how much of a picture each row is; of none (0, 0).
    """
    sums = pd.Series(weights).groupby(patients.to_numpy()).sum().to_numpy()
    return float(sums.sum() ** 2 / (sums**2).sum()) if sums.any() else 0.0, float(sums.sum())


def pictures_worth(value: float, variance: float, least: float, most: float) -> float:
    """Return how many independent pictures would give a score's variance, least to most.

    Of few mistakes the variance is luck itself: the fewer patients make them, the more the least
    counts.
    """
    if not 0 < value < 1 or not variance > 0:
        return least
    n = min(max(value * (1 - value) / variance, least), most)
    mistaken = min(value, 1 - value) * least
    return float(least * (n / least) ** (mistaken / (mistaken + 1)))


def score_interval(values: np.ndarray, least: float, most: float) -> list[float]:
    """Return value, low and high of a share's replicates, float (1 + R,), the first as it is."""
    value, variance = float(values[0]), float(np.nanvar(values[1:]))
    return [value, *wilson(value, pictures_worth(value, variance, least, most))]


def area_interval(values: np.ndarray, patients: int, folds: int, pictures: float) -> list[float]:
    """Return value, low and high of the replicates of an AUROC within folds, float (1 + R,).

    A score interval too (Newcombe 2006); a patient a fold is lost to the folds' own levels. Near 1
    each picture is held against many: it is worth up to two, as simulation shows.
    """
    value = float(values[0])
    variance = float(np.nanvar(values[1:])) * patients / max(1, patients - folds)
    if variance == 0 and 0 < value < 1:
        # a network that says the same of all
        return [value, math.nan, math.nan]
    n = value * (1 - value) / variance if variance > 0 else patients
    return [value, *wilson(value, min(n, 2 * pictures))]


def mean_interval(values: Sequence[float], sizes: Sequence[float]) -> tuple[float, float]:
    """Return the interval of the mean of independent shares, each of so many pictures.

    Each side by itself (Zou and Donner 2008), so that a mean of shares near 1 reaches down.
    Wilson's ends miss too often where few pictures are put together: Jeffreys's where they reach
    farther.
    """
    below, above = [], []
    for value, n in zip(values, sizes, strict=True):
        low, high = wilson(value, n)
        hits = stats.beta(value * n + 0.5, (1 - value) * n + 0.5)
        low = min(low, hits.ppf(0.025)) if value > 0 else low
        high = max(high, hits.ppf(0.975)) if value < 1 else high
        below.append(value - low)
        above.append(high - value)
    mean, number = float(np.mean(values)), len(values)
    reach = [float(np.linalg.norm(side)) / number for side in (below, above)]
    return max(0.0, mean - reach[0]), min(1.0, mean + reach[1])


def chance(rows: pd.DataFrame, replicates: int = 2000, seed: int = 0) -> float:
    """Return p that labels dealt out anew among the patients give as high a balanced accuracy.

    The permutation test of Ojala and Garriga (2010), of networks as they are: what they say stays,
    and so do each patient's pictures. ``rows`` are as ``Group.rows``.
    """
    classes = classes_of(rows)
    units = [rows["patient"], rows["label"]]
    called = pd.crosstab(units, rows["prediction"], values=rows["weight"], aggfunc="sum")
    called = called.reindex(columns=classes).fillna(0.0)
    labels = called.index.get_level_values(1).to_numpy()

    draws = np.tile(labels, (replicates, 1))
    dealt = np.stack([labels, *np.random.default_rng(seed).permuted(draws, axis=1)])
    recalls = [
        ((dealt == name) @ called[name].to_numpy())
        / ((dealt == name) @ called.sum(axis=1).to_numpy())
        for name in set(labels)
    ]
    values = np.mean(recalls, axis=0)
    # equal but for rounding
    return float((1 + (values[1:] >= values[0] - 1e-12).sum()) / (1 + replicates))
