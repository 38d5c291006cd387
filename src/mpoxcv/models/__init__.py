"""Networks that map a batch of pictures to one score a class."""

from mpoxcv.models.factory import create_model, model_names
from mpoxcv.models.lenet import LeNet

__all__ = ["LeNet", "create_model", "model_names"]
