"""Calibration against scikit-learn's logistic regression, and whose pictures tell a temperature."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from sklearn.linear_model import LogisticRegression

from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.calibration import _temperature, logistic
from mpoxcv.evaluation.intervals import mean_interval, pictures_worth, wilson, worth


def made(n=400, slope=0.5, intercept=0.3, seed=0):
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=n) * 2
    truth = (rng.random(n) < special.expit(intercept + slope * logit)).astype(float)
    return logit, truth, rng.uniform(0.2, 2, n), pd.Series(np.arange(n) // 4)


def test_intercept_and_slope_equal_scikit_learns():
    logit, truth, weights, patients = made()
    inputs = np.column_stack([np.ones_like(logit), logit])
    found = logistic(inputs, truth, 0 * logit, weights, patients)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    model.fit(logit[:, None], truth, sample_weight=weights)
    expected = [model.intercept_[0], model.coef_[0, 0]]
    assert [value for value, _, _ in found] == pytest.approx(expected, abs=1e-5)
    assert all(low < value < high for value, low, high in found)


def test_a_patients_pictures_are_no_news_four_times():
    """Of four equal pictures the interval is that of one, but for the factor of few patients."""
    logit, truth, _, _ = made(100)
    inputs = np.column_stack([np.ones(100), logit])
    one = logistic(inputs, truth, np.zeros(100), np.ones(100), pd.Series(np.arange(100)))
    rows = np.repeat(np.arange(100), 4)
    four = logistic(inputs[rows], truth[rows], np.zeros(400), np.ones(400), pd.Series(rows))
    assert np.array(four) == pytest.approx(np.array(one))


def test_separated_classes_have_no_slope():
    logit = np.linspace(-3, 3, 40)
    inputs = np.column_stack([np.ones(40), logit])
    found = logistic(
        inputs, (logit > 0).astype(float), 0 * logit, np.ones(40), pd.Series(range(40))
    )
    assert np.isnan(found).all()


def test_a_temperature_is_fitted_on_all_folds_valid_without_the_patients_of_test():
    rng = np.random.default_rng(0)

    def run(fold, tested, held, seed=0):
        def rows(patients):
            p = rng.dirichlet([1, 1], len(patients))
            label = np.array(["a", "b"])[rng.integers(0, 2, len(patients))]
            table = pd.DataFrame(
                {"patient": patients, "label": label, "p_a": p[:, 0], "p_b": p[:, 1]}
            )
            return table.assign(image=[f"{name}.jpg" for name in patients])

        tables = {"test": rows(tested), "val": rows(held)}
        return SimpleNamespace(fold=fold, seed=seed, predicted=tables.__getitem__)

    one = run(1, ["p1", "p2"], ["p3", "p4", "p5"])
    two = run(2, ["p3", "p4"], ["p1", "p6", "p7"])
    other_seed = run(1, ["p1"], ["p8", "p9"], seed=1)
    t, n = _temperature(one, [one, two, other_seed])
    val = pd.concat([one.predicted("val"), two.predicted("val").iloc[1:]])
    labels = (val["label"] == "b").astype(int)
    assert n == 5 and t == pytest.approx(st.temperature(labels, val[["p_a", "p_b"]]))
    known = run(1, ["p3", "p4", "p5"], ["p3", "p4", "p5"])
    assert _temperature(known, [known]) == (1.0, 0)


def test_wilson_equals_scipys():
    for hits, n in ((0, 9), (9, 9), (140, 200), (1, 60)):
        expected = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
        assert wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_what_a_patients_pictures_are_worth():
    patients = pd.Series(list("aabc"))
    assert worth(patients, np.ones(4)) == pytest.approx((16 / 6, 4))
    assert worth(patients, np.array([1, 1, 1, 0.0])) == pytest.approx((9 / 5, 3))
    assert worth(patients, np.zeros(4)) == (0, 0)
    # without a mistake the least; of many, what the variance says; never more than the pictures
    assert pictures_worth(1.0, 0.0, 60, 90) == 60
    assert pictures_worth(0.5, 0.25 / 80, 60, 90) == pytest.approx(80, abs=1)
    assert pictures_worth(0.5, 0.25 / 900, 60, 90) == pytest.approx(90, abs=2)
    assert pictures_worth(0.5, 0.25 / 9, 60, 90) == pytest.approx(60)


def test_the_interval_of_a_mean_of_two():
    low, high = mean_interval([0.6, 0.6], [100, 100])
    single = wilson(0.6, 100)
    assert high - low == pytest.approx((single[1] - single[0]) / 2**0.5, rel=0.03)
    low, high = mean_interval([1.0, 1.0], [60, 60])
    assert low < 0.98 and high == 1.0
