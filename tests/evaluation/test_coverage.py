"""How often 95 % intervals hold the truth, and a test of chance rejects it, by simulation.

Patients have 1 to 4 pictures, whose hits correlate. Printed with ``pytest -m slow -s``: truth,
patients, correlation, coverage and mean width.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.groups import bootstrap, pooled
from mpoxcv.evaluation.intervals import (
    area_interval,
    chance,
    mean_interval,
    pictures_worth,
    score_interval,
    worth,
)
from mpoxcv.evaluation.summary import _procedure

pytestmark = pytest.mark.slow
TRUTHS, CORRELATIONS = (0.62, 0.90, 0.98), (0.5, 0.8)
REPLICATES = 300


def hits_of(rng, patients, truth, correlation):
    """Hits and pictures of each patient, beta-binomial."""
    pictures = rng.integers(1, 5, patients)
    spread = 1 / correlation - 1
    ability = rng.beta(truth * spread, (1 - truth) * spread, patients)
    return rng.binomial(pictures, ability), pictures


def ratio_draws(rng, hits, pictures):
    """The share as it is, then over patients drawn again."""
    n = len(hits)
    times = rng.multinomial(n, np.full(n, 1 / n), REPLICATES)
    with np.errstate(invalid="ignore"):
        return np.r_[hits.sum() / pictures.sum(), (times @ hits) / (times @ pictures)]


def told(name, intervals, truth):
    """Print and return the coverage; the mean width beside it."""
    low, high = np.transpose(intervals)
    coverage = np.mean((low <= truth) & (truth <= high))
    print(f"{name}: {coverage:.3f}, width {np.mean(high - low):.3f}")
    return coverage


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("patients", [5, 30, 60, 162])
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_a_share(truth, patients, correlation):
    rng, intervals = np.random.default_rng(0), []
    for _ in range(1000):
        hits, pictures = hits_of(rng, patients, truth, correlation)
        sizes = worth(pd.Series(np.arange(patients)), pictures.astype(float))
        intervals.append(score_interval(ratio_draws(rng, hits, pictures), *sizes)[1:])
    coverage = told(f"share {truth} {patients} {correlation}", intervals, truth)
    # standard error 0.007
    assert 0.93 <= coverage <= (0.98 if patients > 5 else 0.99)


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize(
    "patients", [(15, 15), (30, 30), (81, 81), (3, 40, 60), (5, 40, 60)], ids=str
)
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_balanced_accuracy(truth, patients, correlation):
    rng, intervals = np.random.default_rng(0), []
    for _ in range(1000):
        values, sizes = [], []
        for number in patients:
            hits, pictures = hits_of(rng, number, truth, correlation)
            bounds = worth(pd.Series(np.arange(number)), pictures.astype(float))
            draws = ratio_draws(rng, hits, pictures)
            values.append(draws[0])
            sizes.append(pictures_worth(draws[0], draws[1:].var(), *bounds))
        intervals.append(mean_interval(values, sizes))
    coverage = told(f"balanced accuracy {truth} {patients} {correlation}", intervals, truth)
    assert 0.93 <= coverage <= 0.985


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("patients", [30, 60, 162])
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_auroc_within_five_folds(truth, patients, correlation):
    rng, intervals, n = np.random.default_rng(0), [], patients
    label, fold = np.arange(n) % 2, np.arange(n) // 2 % 5
    for _ in range(400):
        pictures = rng.integers(1, 5, n)
        who = np.repeat(np.arange(n), pictures)
        noise = correlation**0.5 * rng.normal(size=n)[who]
        noise += (1 - correlation) ** 0.5 * rng.normal(size=len(who))
        # every network has another level
        score = stats.norm.ppf(truth) * 2**0.5 * label[who] + noise + 3 * fold[who]
        p = 1 / (1 + np.exp(-score))
        draws = rng.multinomial(n, np.full(n, 1 / n), REPLICATES)[:, who]
        weights = np.concatenate([np.ones((1, len(who))), draws])
        both = np.column_stack([1 - p, p])
        values = st.per_class(label[who], both, weights, fold[who])["auroc"][:, 1]
        intervals.append(area_interval(values, n, 5, len(who))[1:])
    coverage = told(f"AUROC {truth} {patients} {correlation}", intervals, truth)
    # standard error 0.011
    assert 0.92 <= coverage <= 0.99


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("patients", [60, 162])
def test_macro_f1(truth, patients):
    """Of two classes with as many patients, called right by this share."""
    rng, intervals = np.random.default_rng(0), []
    for _ in range(300):
        hits, pictures = hits_of(rng, patients, truth, 0.5)
        who = np.repeat(np.arange(patients), pictures)
        right = np.concatenate([np.arange(n) < k for n, k in zip(pictures, hits, strict=True)])
        label = np.array(["a", "b"])[who % 2]
        called = np.where(right, label, np.where(label == "a", "b", "a"))
        rows = pd.DataFrame({"patient": who, "image": np.arange(len(who)), "label": label})
        rows = rows.assign(prediction=called, seed=0, fold=1, weight=1.0)
        rows = rows.assign(
            p_a=np.where(called == "a", 0.9, 0.1), p_b=np.where(called == "b", 0.9, 0.1)
        )
        intervals.append(pooled(rows, bootstrap(rows, REPLICATES))["f1_macro"][1:])
    assert 0.92 <= told(f"macro F1 {truth} {patients} 0.5", intervals, truth) <= 0.995


@pytest.mark.parametrize("distance", [0.4, 1.0, 2.0, 3.0])
@pytest.mark.parametrize(("patients", "seeds"), [(30, 3), (60, 1), (60, 3)])
def test_the_procedure(patients, seeds, distance):
    """A linear rule, fitted on 60 % of Train for luck in training, against what it reaches anew."""
    rng, n = np.random.default_rng(0), patients
    centre = np.r_[np.full(4, distance / 2), np.zeros(16)]
    label, fold = np.arange(n) % 2, np.arange(n) // 2 % 5
    over_patients, anew, reached = [], [], []
    for _ in range(200):
        pictures = rng.integers(1, 4, n)
        who = np.repeat(np.arange(n), pictures)
        truth, within = label[who], fold[who]
        inputs = np.outer(2 * truth - 1, centre) + 0.5**0.5 * rng.normal(size=(n, 20))[who]
        inputs += 0.5**0.5 * rng.normal(size=(len(who), 20))
        right, by_fold = np.zeros((len(who), seeds)), np.zeros((5, seeds))
        for k, seed in np.ndindex(5, seeds):
            train = np.flatnonzero(within != k)
            some = rng.choice(train, int(0.6 * len(train)), replace=False)
            x, y = inputs[some], 2.0 * truth[some] - 1
            rule = np.linalg.solve(x.T @ x + 5 * np.eye(20), x.T @ y)
            test = within == k
            right[test, seed] = (inputs[test] @ rule > 0) == truth[test]
            by_fold[k, seed] = np.mean([right[test & (truth == c), seed].mean() for c in (0, 1)])
            reached.append(stats.norm.cdf(rule @ centre / np.linalg.norm(rule)))
        values, sizes = [], []
        for c in (0, 1):
            own = truth == c
            hits = np.bincount(who[own], right[own].mean(1), n)[label == c]
            bounds = worth(pd.Series(np.arange(n)[label == c]), pictures[label == c].astype(float))
            draws = ratio_draws(rng, hits, pictures[label == c])
            values.append(draws[0])
            sizes.append(pictures_worth(draws[0], draws[1:].var(), *bounds))
        over_patients.append(mean_interval(values, sizes))
        means = pd.Series(by_fold.mean(1))
        group = SimpleNamespace(fold_means=lambda _, means=means: means, ratio=0.25)
        anew.append(_procedure(group, "balanced_accuracy", over_patients[-1])[1:])
    value = float(np.mean(reached))
    name = f"procedure {value:.3f} {patients} patients {seeds} seeds"
    low = told(f"{name}, of these networks", over_patients, value)
    assert 0.85 <= low <= 0.98
    assert told(f"{name}, trained anew", anew, value) >= 0.94


def test_chance_is_rejected_as_often_as_it_should(monkeypatch):
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        who = np.repeat(np.arange(60), rng.integers(1, 5, 60))
        called = rng.random(60)[who] + 0.1 * rng.random(len(who)) > 0.55
        rows = pd.DataFrame({"patient": who, "label": np.array(["a", "b"])[who % 2]})
        rows = rows.assign(prediction=np.where(called, "a", "b"), weight=1.0, p_a=0.5, p_b=0.5)
        found.append(chance(rows, 400))
    print(f"chance: rejected at 0.05 in {np.mean(np.array(found) < 0.05):.3f}")
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.08
