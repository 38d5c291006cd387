"""From a composed config to a finished run."""

import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from mpoxcv.commands.run_folder import finished_metrics, resume_path
from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.errors import UserError
from mpoxcv.lockstep import lockstep
from mpoxcv.report.figures import SYNTHETIC_NOTE
from mpoxcv.storage.files import read_metrics
from mpoxcv.storage.stored_config import instantiable, load_config
from mpoxcv.training.classifier import LesionClassifier
from mpoxcv.training.tensorboard import SplitTensorBoardLogger

LOGGED_OPTIONS = (
    "fold", "seed", "data.name", "data.train_images", "data.image_size", "data.batch_size",
    "data.sampler", "data.augment", "model", "optimizer", "scheduler", "classifier.class_weights",
    "classifier.label_smoothing", "trainer.max_epochs", "trainer.precision",
)  # fmt: skip
HEADLINE = (
    "f1_macro", "balanced_accuracy", "accuracy", "auroc_macro", "precision_macro", "recall_macro",
    "loss", "ece",
)  # fmt: skip
# numpy's generator takes no more
MAX_SEED = 2**32 - 1


def train(cfg: DictConfig) -> Mapping[str, float | None]:
    """Fit, then validate and test the best checkpoint, and write all results.

    Args:
        cfg: ``conf/train.yaml`` as composed.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: an option, the data, or the checkpoint to resume from is not as it must be.
    """
    folder = Path(cfg.output_dir)
    if cfg.resume and (finished := finished_metrics(folder)):
        print(f"{folder} is finished: nothing to do.")
        return finished
    if cfg.resume and (folder / "checkpoints" / "last.ckpt").is_file():
        cfg.ckpt_path = "last"
    # not an interpolation any more: another run may begin before this one ends
    cfg.output_dir = str(folder)

    datamodule, classifier, trainer = build(cfg)
    resume = resume_path(cfg.ckpt_path, folder)
    member = lockstep.current()
    if member and (reason := member.join_in(classifier, datamodule, trainer)):
        print(f"{folder.name} is trained alone: {reason}.")
    trainer.fit(classifier, datamodule, ckpt_path=resume, weights_only=True)
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    metrics = score(trainer, classifier, datamodule, best)
    _log_hparams(trainer, cfg, metrics)
    if trainer.is_global_zero:
        print_results(metrics, datamodule, Path(cfg.output_dir))
    return metrics


def test(cfg: DictConfig) -> dict[str, float]:
    """Score a finished run's best checkpoint again, and say how the metrics differ from the run's.

    Args:
        cfg: ``conf/test.yaml`` as composed.

    Returns:
        The new metrics.

    Raises:
        UserError: the folder holds no finished run, or its data are gone or changed shape.
    """
    run = Path(cfg.run)
    config_file, checkpoint = run / ".hydra" / "config.yaml", run / "checkpoints" / "best.ckpt"
    for file in (config_file, checkpoint):
        if not file.is_file():
            raise UserError(
                f"{run} is not the folder of a trained run: it lacks {file.relative_to(run)}. "
                "Example: python scripts/test.py run=logs/runs/lenet/2026-01-31_12-00-00-000000"
            )

    stored = load_config(config_file, cfg.trust)
    if cfg.data.root:
        OmegaConf.update(stored, "data.root", cfg.data.root)
    parts = {
        key: instantiable(stored, key, config_file, cfg.trust) for key in ("data", "classifier")
    }
    ours = {key: cfg[key] for key in ("output_dir", "trainer", "callbacks", "logger")}
    config = OmegaConf.create({"seed": stored.get("seed", 0), **parts, **ours})
    datamodule, classifier, trainer = build(config)
    metrics = score(trainer, classifier, datamodule, str(checkpoint))
    if trainer.is_global_zero:
        stored_metrics = read_metrics(run / "metrics.json")
        print_results(metrics, datamodule, Path(cfg.output_dir), stored_metrics)
    return metrics


def build(cfg: DictConfig) -> tuple[MSLDDataModule, LesionClassifier, L.Trainer]:
    """Seed the random generators and instantiate what the config names.

    Raises:
        UserError: the seed or an option is not as it must be.
    """
    seed = cfg.seed
    if not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed={seed} should be a whole number from 0 to {MAX_SEED}.")
    torch.manual_seed(seed)
    # for augmentation of somebody's own
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002

    datamodule = instantiate(cfg.data)
    classifier = instantiate(cfg.classifier)
    callbacks = [instantiate(c) for c in (cfg.get("callbacks") or {}).values() if c]
    loggers = [instantiate(logger) for logger in (cfg.get("logger") or {}).values() if logger]
    # Lightning refuses the monitor without a logger
    if not loggers:
        callbacks = [c for c in callbacks if not isinstance(c, LearningRateMonitor)]
    options = {}
    # lockstep has a progress bar of its own
    if lockstep.current():
        callbacks = [c for c in callbacks if not isinstance(c, ProgressBar)]
        options["enable_progress_bar"] = False
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, **options)
    return datamodule, classifier, trainer


def score(
    trainer: L.Trainer,
    classifier: LesionClassifier,
    datamodule: MSLDDataModule,
    checkpoint: str | None,
) -> dict[str, float]:
    """Validate and test a checkpoint (None: the weights as they are) and return the metrics."""
    options: Any = {"ckpt_path": checkpoint, "verbose": False, "weights_only": True}
    trainer.validate(classifier, datamodule, **options)
    trainer.test(classifier, datamodule, **options)
    return classifier.metrics["val"] | classifier.metrics["test"]


def print_results(
    metrics: Mapping[str, float],
    datamodule: MSLDDataModule,
    folder: Path,
    before: Mapping[str, float | None] | None = None,
) -> None:
    """Print the headline metrics, the majority class's accuracy, and where everything is.

    Args:
        metrics: of val and test.
        datamodule: that they come from.
        folder: that holds the results.
        before: metrics of an earlier scoring of the same checkpoint, to compare with.
    """
    console = Console(markup=False, highlight=False)
    table = Table(title=f"{datamodule.source}, fold {datamodule.fold}", title_justify="left")
    if datamodule.synthetic:
        table.title = f"{table.title} ({SYNTHETIC_NOTE})"
    for column in ("metric", "val", "test", *(("test before",) if before else ())):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name in HEADLINE:
        row = [metrics.get(f"val/{name}"), metrics.get(f"test/{name}")]
        row += [before.get(f"test/{name}")] if before else []
        table.add_row(name, *("" if value is None else f"{value:.4f}" for value in row))
    console.print(table)

    counts = datamodule.class_counts()
    commonest = datamodule.classes[counts.index(max(counts))]
    share = (datamodule.table("test")["class"] == commonest).mean()
    console.print(
        f"Always saying {commonest}, the commonest class in Train, has test accuracy {share:.4f}."
    )
    if before:
        differing = [k for k in before if k in metrics and not _same(before[k], metrics[k])]
        console.print(
            f"{len(differing)} of {len(before)} metrics differ from those in metrics.json of the run."
        )
    console.print(
        f"Everything is in {folder}: predictions.csv, metrics.json, figures.", soft_wrap=True
    )
    console.print(f"See it: tensorboard --logdir {folder.parent}", soft_wrap=True)


def _same(before: float | None, now: float) -> bool:
    return before == now if before is not None else math.isnan(now)


def _log_hparams(trainer: L.Trainer, cfg: DictConfig, metrics: Mapping[str, float]) -> None:
    """Give every logger the options, and TensorBoard's HPARAMS page their final metrics."""
    options = dict(
        pair for key in LOGGED_OPTIONS for pair in _options(key, OmegaConf.select(cfg, key))
    )
    final = {f"val_best/{name}": metrics[f"val/{name}"] for name in HEADLINE}
    final |= {f"test/{name}": metrics[f"test/{name}"] for name in HEADLINE}
    for logger in trainer.loggers:
        if isinstance(logger, SplitTensorBoardLogger):
            logger.log_final(options, final)
        else:
            logger.log_hyperparams(options)


def _options(key: str, value: Any) -> Iterator[tuple[str, bool | int | float | str]]:
    """Yield plain options by dotted names; of a ``_target_`` its last part stands for the whole."""
    if isinstance(value, DictConfig):
        if "_target_" in value:
            yield key, value._target_.rpartition(".")[2]
        for name in map(str, value):
            if not name.startswith("_"):
                yield from _options(f"{key}.{name}", value[name])
    else:
        yield key, value if isinstance(value, bool | int | float | str) else str(value)
