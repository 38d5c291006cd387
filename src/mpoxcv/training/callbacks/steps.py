"""Lightning's callbacks that listen to steps, with what we need otherwise."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar

# seconds between two looks at the bar: after every batch it would take a LeNet a tenth of its time
PAUSE = 0.1


class ProgressBar(RichProgressBar):
    """Lightning's bar, moved ten times a second and not after every batch."""

    moved = 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: D102
        if trainer.is_last_batch or time.monotonic() > self.moved + PAUSE:
            self.moved = time.monotonic()
            super().on_train_batch_end(trainer, *args, **kwargs)


class WithinEpochCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that leaves out the last batch of an epoch.

    Lightning 2.6 goes on from a checkpoint of the last batch with the next epoch, without the
    validation of this one; the checkpoint at the epoch's end follows anyway.
    """

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: D102
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *args, **kwargs)
