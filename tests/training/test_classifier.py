"""What the LightningModule refuses."""

import pytest
import torch

from conftest import CLASSES
from mpoxcv import LeNet
from mpoxcv.errors import UserError
from mpoxcv.training.classifier import LesionClassifier


def test_an_optimizer_that_wants_a_closure_is_refused():
    classifier = LesionClassifier(LeNet(len(CLASSES)), CLASSES, optimizer=torch.optim.LBFGS)
    with pytest.raises(UserError, match="LBFGS"):
        classifier.configure_optimizers()
