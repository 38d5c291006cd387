"""Checkpoints from within an epoch."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class WithinEpochCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that leaves out the last batch of an epoch.

    Lightning 2.6 goes on from a checkpoint of the last batch with the next epoch, without the
    validation of this one; the checkpoint at the epoch's end follows anyway.
    """

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: D102
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *args, **kwargs)
