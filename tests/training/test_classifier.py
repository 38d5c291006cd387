"""What the LightningModule refuses, and what its loss is."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from conftest import CLASSES
from mpoxcv import LeNet
from mpoxcv.errors import UserError
from mpoxcv.training.classifier import LesionClassifier


def test_an_optimizer_that_wants_a_closure_is_refused():
    classifier = LesionClassifier(LeNet(len(CLASSES)), CLASSES, optimizer=torch.optim.LBFGS)
    with pytest.raises(UserError, match="LBFGS"):
        classifier.configure_optimizers()


def test_balanced_weights_are_scikit_learns():
    labels = np.repeat([0, 1, 2], [2, 5, 13])
    classifier = LesionClassifier(LeNet(3), CLASSES, class_weights="balanced")
    data = SimpleNamespace(class_counts=lambda: np.bincount(labels).tolist())
    classifier.trainer = SimpleNamespace(datamodule=data, callbacks=[])
    classifier.setup("validate")
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(classifier._weight, expected, rtol=1e-6)
    # the rarest class counts most
    assert classifier._weight.argmax() == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 7.0]])
def test_the_loss_is_torchs_with_smoothing_and_weights(smoothing, weights):
    options = {"class_weights": weights, "label_smoothing": smoothing}
    classifier = LesionClassifier(LeNet(3), CLASSES, **options)
    classifier.trainer = SimpleNamespace(callbacks=[])
    classifier.setup("validate")
    torch.manual_seed(0)
    logits, labels = torch.randn(9, 3), torch.arange(9) % 3
    weight = None if weights is None else torch.tensor(weights)
    expected = torch.nn.CrossEntropyLoss(weight, label_smoothing=smoothing)(logits, labels)
    assert classifier.loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
