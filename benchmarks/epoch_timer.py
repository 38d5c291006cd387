"""A callback that says when epochs and the first step began, and what pictures were trained on."""

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch


class EpochTimer(L.Callback):
    """Write ``file`` when the training is over, with times of ``time.monotonic``."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        # when each epoch began
        self.epochs: list[float] = []
        # when each one's training steps ended
        self.steps: list[float] = []
        self.first_step = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.epochs.append(time.monotonic())

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.first_step = self.first_step or time.monotonic()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.steps.append(time.monotonic())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # ours has a DataModule
        if trainer.datamodule is not None:
            paths = trainer.datamodule.table("train")["path"]
        else:
            paths = relative_paths(trainer.train_dataloader.dataset.datasets)
        more = {"steps": self.steps, "first_step": self.first_step, "end": time.monotonic()}
        # what the GPU held at most
        more["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        write(self.file, self.epochs, paths, **more)


class KillOnce(L.Callback):
    """Kill the process in an epoch's step, once: ``marker`` says that it was."""

    def __init__(self, epoch: int, step: int, marker: str) -> None:
        self.at, self.marker = (epoch, step), Path(marker)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) == self.at and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def relative_paths(parts: Iterable[Any]) -> list[str]:
    """Return what torchvision's ImageFolders hold, from the folders FOLDS and FOLDS_AUG on."""
    return ["/".join(Path(file).parts[-5:]) for part in parts for file, _ in part.samples]


def write(file: Path, epochs: list[float], paths: Iterable[str], **more: Any) -> None:
    """Write the begins of epochs, and the number and a digest of the pictures."""
    paths = sorted("/".join(path.split("/")[-5:]) for path in paths)
    digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()
    content = {"epochs": epochs, "pictures": len(paths), "digest": digest, "pid": os.getpid()}
    file.write_text(json.dumps(content | more))
