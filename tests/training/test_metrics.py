import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from mpoxcv.training.metrics import classification_metrics


def draw(n: int, classes: int, seed: int, absent: tuple[int, ...] = ()):
    generator = torch.Generator().manual_seed(seed)
    probabilities = (torch.randn(n, classes, generator=generator) * 2).softmax(1)
    present = [c for c in range(classes) if c not in absent]
    labels = torch.tensor(present)[torch.randint(0, len(present), (n,), generator=generator)]
    return probabilities, labels


def ours(probabilities, labels):
    return classification_metrics(
        probabilities, labels, [f"c{i}" for i in range(probabilities.shape[1])]
    )


@given(st.integers(5, 80), st.integers(2, 7), st.integers(0, 10**6), st.booleans())
def test_counting_metrics_equal_scikit_learns(n, classes, seed, first_absent):
    probabilities, labels = draw(n, classes, seed, (0,) if first_absent and classes > 2 else ())
    values = ours(probabilities, labels)
    truth, guess = labels.numpy(), probabilities.argmax(1).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": sk.accuracy_score(truth, guess),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, guess),
        }
        for average in ("macro", "weighted"):
            scores = sk.precision_recall_fscore_support(
                truth, guess, average=average, zero_division=0
            )
            expected |= {
                f"{k}_{average}": v
                for k, v in zip(("precision", "recall", "f1"), scores[:3], strict=True)
            }
        by_class = sk.f1_score(truth, guess, labels=range(classes), average=None, zero_division=0)
        expected |= {f"f1/c{i}": v for i, v in enumerate(by_class)}
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-6), name


def test_auroc_equals_scikit_learns():
    probabilities, labels = draw(200, 6, 1)
    values = ours(probabilities, labels)
    for average in ("macro", "weighted"):
        expected = sk.roc_auc_score(
            labels, probabilities.double(), multi_class="ovr", average=average
        )
        assert values[f"auroc_{average}"] == pytest.approx(expected, abs=1e-6)
    for i in range(6):
        assert values[f"auroc/c{i}"] == pytest.approx(
            sk.roc_auc_score(labels == i, probabilities[:, i]), abs=1e-6
        )


def test_a_class_without_pictures_has_no_auroc_and_does_not_spoil_the_mean():
    probabilities, labels = draw(100, 4, 2, absent=(3,))
    values = ours(probabilities, labels)
    assert math.isnan(values["auroc/c3"]) and math.isnan(values["recall/c3"])
    present = [sk.roc_auc_score(labels == i, probabilities[:, i]) for i in range(3)]
    assert values["auroc_macro"] == pytest.approx(np.mean(present), abs=1e-6)


def test_one_class_alone_has_no_auroc():
    probabilities, _ = draw(10, 3, 0)
    values = ours(probabilities, torch.zeros(10, dtype=torch.long))
    assert math.isnan(values["auroc_macro"]) and math.isnan(values["auroc_weighted"])
    assert 0 <= values["balanced_accuracy"] <= 1


def test_calibration_error_of_known_cases():
    certain = torch.eye(3)[torch.tensor([0, 1, 2, 0])]
    assert ours(certain, torch.tensor([0, 1, 2, 0]))["ece"] == pytest.approx(0)
    assert ours(certain, torch.tensor([0, 1, 1, 1]))["ece"] == pytest.approx(0.5)
