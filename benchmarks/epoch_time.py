"""Seconds an epoch: mpoxcv's training path against Lightning used the usual way.

An epoch is training, validation, metrics, logging and checkpoint. Both train the same LeNet inside
``lightning.Trainer`` on the same JPEG files with the same batch size, TensorBoard logging and no augmentation. The usual
way is what a competent user writes: ``ImageFolder``, a ``DataLoader`` with one persistent worker a core, and
accuracy and macro F1 of torchmetrics, called and logged in each step as in torchmetrics' documentation (to only update
them made no difference: decoding takes the time). The two alternate, each time in a new process; of each, the first
epoch is left out (it starts workers and fills caches).

    python benchmarks/epoch_time.py                       a generated fold of MSLD v2.0's size, 7,935 training JPEGs
    python benchmarks/epoch_time.py --data DIR --fold 3   a tree made by scripts/make_folds.py
"""

import argparse
import itertools
import json
import logging
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import lightning as L
import torch
import torchmetrics
from hydra import compose, initialize_config_dir
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import mpoxcv.cli  # noqa: F401  registers what the configs need
from mpoxcv.data.synthetic import write_synthetic
from mpoxcv.data.tree import find_fold_folders
from mpoxcv.experiment import build
from mpoxcv.models import LeNet

PROJECT = Path(__file__).resolve().parent.parent


class EpochTimer(L.Callback):
    """Seconds of each epoch but the first: training, validation, metrics, logging and checkpoints."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.marks.append(time.perf_counter())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.marks.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        return [after - before for before, after in itertools.pairwise(self.marks)][1:]


class UsualModule(L.LightningModule):
    """LeNet as in most public Lightning projects."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.network = LeNet(classes)
        metrics = torchmetrics.MetricCollection(
            {
                "accuracy": torchmetrics.classification.MulticlassAccuracy(classes, average="micro"),
                "f1_macro": torchmetrics.classification.MulticlassF1Score(classes),
            }
        )
        self.train_metrics, self.val_metrics = metrics.clone("train/"), metrics.clone("val/")

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        logits = self.network(batch[0])
        loss = nn.functional.cross_entropy(logits, batch[1])
        self._measure(self.train_metrics, logits, batch[1])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self._measure(self.val_metrics, self.network(batch[0]), batch[1])

    def _measure(self, metrics: torchmetrics.MetricCollection, logits: torch.Tensor, labels: torch.Tensor) -> None:
        metrics(logits, labels)
        self.log_dict(metrics, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def usual_way(root: Path, fold: int, batch_size: int, epochs: int, folder: Path) -> list[float]:
    quiet()
    originals, augmented = find_fold_folders(root)
    transform = v2.Compose([v2.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    base = originals / f"fold{fold}"
    parts = [ImageFolder(base / "Train", transform), ImageFolder(augmented / f"fold{fold}_AUG" / "Train", transform)]
    workers = {"num_workers": os.cpu_count(), "persistent_workers": True}
    train = DataLoader(ConcatDataset(parts), batch_size, shuffle=True, **workers)
    val = DataLoader(ImageFolder(base / "Valid", transform), 256, **workers)
    timer = EpochTimer()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[timer],
        logger=TensorBoardLogger(folder),
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    trainer.fit(UsualModule(len(parts[0].classes)), train, val)
    return timer.seconds


def our_way(root: Path, fold: int, batch_size: int, epochs: int, folder: Path, options: list[str]) -> list[float]:
    quiet()
    overrides = [f"fold={fold}", f"data.root={root}", f"data.batch_size={batch_size}", f"trainer.max_epochs={epochs}"]
    overrides += [
        f"data.cache_dir={folder.parent / 'cache'}",
        f"output_dir={folder}",
        "trainer=cpu",
        "data.augment=null",
    ]
    overrides += ["callbacks.provenance=null", *options]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides)
    datamodule, classifier, trainer = build(cfg)
    timer = EpochTimer()
    trainer.callbacks.append(timer)
    trainer.fit(classifier, datamodule)
    return timer.seconds


def quiet() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def alone(way: Callable[..., list[float]], *arguments: object) -> list[float]:
    """Return what ``way`` returns in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(way, *arguments).result()


def measure(root: Path, fold: int, batch_size: int, rounds: int, epochs: int, options: list[str]) -> dict[str, object]:
    """Alternate both ways for ``rounds`` rounds of ``epochs`` timed epochs each."""
    times: dict[str, list[float]] = {"mpoxcv": [], "usual": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            common = (root, fold, batch_size, epochs + 1)
            times["usual"] += alone(usual_way, *common, Path(folder) / f"usual{number}")
            times["mpoxcv"] += alone(our_way, *common, Path(folder) / f"mpoxcv{number}", options)
    originals, augmented = find_fold_folders(root)
    train = [originals / f"fold{fold}" / "Train", augmented / f"fold{fold}_AUG" / "Train"]
    pictures = sum(1 for part in train for file in part.rglob("*") if file.is_file())
    medians = {way: statistics.median(seconds) for way, seconds in times.items()}
    return {
        "pictures": pictures,
        "batch_size": batch_size,
        "seconds_an_epoch": {way: round(value, 4) for way, value in medians.items()},
        "spread_s": {way: [round(min(s), 4), round(max(s), 4)] for way, s in times.items()},
        "pictures_a_second": {way: round(pictures / value) for way, value in medians.items()},
        "timed_epochs": {way: len(seconds) for way, seconds in times.items()},
        "ratio": round(medians["usual"] / medians["mpoxcv"], 2),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "torch_threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "lightning": L.__version__},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with FOLDS and FOLDS_AUG; none generates one")
    parser.add_argument("--fold", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2, help="timed epochs a round")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("options", nargs="*", help="options of scripts/train.py, such as data=msld_v1")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.data
        if root is None:
            root = Path(folder) / "generated"
            write_synthetic(root, size=224, copies=14, folds=(arguments.fold,))
        result = measure(
            root.resolve(), arguments.fold, arguments.batch_size, arguments.rounds, arguments.epochs, arguments.options
        )
    result["data"] = "generated JPEGs of 224 x 224" if arguments.data is None else "JPEGs given with --data"
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
