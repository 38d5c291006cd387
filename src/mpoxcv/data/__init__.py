"""From folders of pictures to batches. Importing the package costs nothing; the DataModule brings Lightning along."""

from typing import Any

__all__ = ["MSLDDataModule"]


def __getattr__(name: str) -> Any:
    if name == "MSLDDataModule":
        from mpoxcv.data.datamodule import MSLDDataModule

        return MSLDDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
