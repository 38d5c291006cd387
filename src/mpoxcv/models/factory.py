"""Networks by name: LeNet, and torchvision's classifiers from scratch."""

from typing import Any

from torch import nn

from mpoxcv.errors import UserError, did_you_mean
from mpoxcv.models.lenet import LeNet

# These warn unless told how to initialise, and their auxiliary heads would return tuples.
QUIET = {n: {"init_weights": True, "aux_logits": False} for n in ("googlenet", "inception_v3")}


def create_model(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Build a network with random weights and a head of ``num_classes`` scores.

    ``name`` is ``lenet`` or a classification model of torchvision, such as ``resnet18``;
    ``options`` are passed on to it, for example ``dropout=0.2`` for ``efficientnet_b0``. UserError
    where there is no such network, or it refuses an option.
    """
    try:
        if name == "lenet":
            return LeNet(num_classes, **options)
        # here, since importing it takes a second that LeNet need not pay
        from torchvision import models

        names = ["lenet", *models.list_models(module=models)]
        if name not in names:
            hint = did_you_mean(name, names)
            raise UserError(
                f"model.name={name} is not a classification network of torchvision.{hint}"
            )
        quiet = QUIET.get(name, {})
        return models.get_model(name, weights=None, num_classes=num_classes, **quiet, **options)
    except TypeError as error:
        raise UserError(f"model.name={name} does not take these options: {error}") from None
