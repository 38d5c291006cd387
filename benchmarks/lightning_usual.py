"""Lightning the usual way, as a competent user writes it: ImageFolder, workers, metrics in steps.

    python benchmarks/lightning_usual.py ROOT FOLD BATCH_SIZE EPOCHS FOLDER \
        [NETWORK SIZE ACCELERATOR PRECISION WORKERS]

The same network, flips, normalisation, TensorBoard and final test as in ``scripts/train.py``; one
persistent worker a core, where their number is not given; accuracy and macro F1 of torchmetrics,
called and logged in each step as in torchmetrics' documentation.
"""

import json
import logging
import os
import sys
from pathlib import Path

import lightning as L
import torch
import torchmetrics
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from epoch_timer import EpochTimer
from mpoxcv import create_model
from mpoxcv.pictures.tree import find_fold_folders

WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# as in conf/experiment/lenet.yaml
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)


def train_parts(root: Path, fold: int, transform: object = None) -> list[ImageFolder]:
    """Return the training pictures of FOLDS and of FOLDS_AUG."""
    originals, augmented = find_fold_folders(root)
    folders = [originals / f"fold{fold}" / "Train", augmented / f"fold{fold}_AUG" / "Train"]
    return [ImageFolder(folder, transform) for folder in folders]


class Classifier(L.LightningModule):
    """A network as in most public Lightning projects."""

    def __init__(self, classes: int, network: str = "lenet") -> None:
        super().__init__()
        options = {"own_kernels": False} if network == "lenet" else {}
        self.network = create_model(network, classes, **options)
        accuracy = torchmetrics.classification.MulticlassAccuracy(classes, average="micro")
        f1_macro = torchmetrics.classification.MulticlassF1Score(classes)
        metrics = torchmetrics.MetricCollection({"accuracy": accuracy, "f1_macro": f1_macro})
        splits = ("train", "val", "test")
        self.metrics = nn.ModuleDict({f"{name}_": metrics.clone(f"{name}/") for name in splits})

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self._step("train", batch)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self._step("val", batch)

    def test_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self._step("test", batch)

    def _step(self, split: str, batch: list[torch.Tensor]) -> torch.Tensor:
        logits = self.network(batch[0])
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.log(f"{split}/loss", loss, prog_bar=True)
        metrics = self.metrics[f"{split}_"]
        metrics(logits, batch[1])
        self.log_dict(metrics, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(
    root: Path,
    fold: int,
    batch_size: int,
    epochs: int,
    folder: Path,
    network: str = "lenet",
    size: int = 32,
    accelerator: str = "cpu",
    precision: str = "32-true",
    number_of_workers: int = WORKERS,
) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    workers = {"num_workers": number_of_workers, "persistent_workers": True}
    workers["pin_memory"] = accelerator == "gpu"
    plain = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    flipped = v2.Compose([v2.Resize((size, size)), v2.RandomHorizontalFlip(), *plain])
    parts = train_parts(root, fold, flipped)
    train = DataLoader(ConcatDataset(parts), batch_size, shuffle=True, **workers)

    base = find_fold_folders(root)[0] / f"fold{fold}"
    scored = v2.Compose([v2.Resize((size, size)), *plain])
    valid, test = (
        DataLoader(ImageFolder(base / split, scored), 256, **workers) for split in ("Valid", "Test")
    )

    best = ModelCheckpoint(folder, monitor="val/f1_macro", mode="max")
    trainer = L.Trainer(
        accelerator=accelerator,
        precision=precision,
        max_epochs=epochs,
        callbacks=[EpochTimer(folder / "times.json"), best],
        logger=TensorBoardLogger(folder),
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(len(parts[0].classes), network), train, valid)
    metrics = trainer.test(dataloaders=test, ckpt_path="best", weights_only=True, verbose=False)
    (folder / "metrics.json").write_text(json.dumps(metrics[0]))


if __name__ == "__main__":
    root, fold, batch_size, epochs, folder, *more = sys.argv[1:]
    kinds = (str, int, str, str, int)
    options = [kind(value) for kind, value in zip(kinds, more, strict=False)]
    main(Path(root), *map(int, (fold, batch_size, epochs)), Path(folder), *options)
