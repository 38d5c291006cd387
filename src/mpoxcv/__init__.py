"""Honest cross-validation of skin-lesion image classifiers.

The names below are the package's address: they stay where files move. Each is imported when it is
first asked for, so that ``import mpoxcv`` costs nothing and brings no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpoxcv.data.augment import RandomFlip
    from mpoxcv.data.datamodule import MSLDDataModule
    from mpoxcv.datasets.synthetic import write_synthetic
    from mpoxcv.models.factory import create_model
    from mpoxcv.models.lenet import LeNet
    from mpoxcv.training.classifier import LesionClassifier
    from mpoxcv.use.predictor import load
    from mpoxcv.use.stored_run import load_runs

__version__ = "0.1.0"
__all__ = [
    "LeNet", "LesionClassifier", "MSLDDataModule", "RandomFlip", "create_model", "load",
    "load_runs", "write_synthetic",
]  # fmt: skip
_MODULES = {
    "LeNet": "models.lenet",
    "LesionClassifier": "training.classifier",
    "MSLDDataModule": "data.datamodule",
    "RandomFlip": "data.augment",
    "create_model": "models.factory",
    "load": "use.predictor",
    "load_runs": "use.stored_run",
    "write_synthetic": "datasets.synthetic",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"mpoxcv.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
