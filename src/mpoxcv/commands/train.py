"""From a composed config to a finished run."""

import math
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.callbacks import (
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    WeightAveraging,
)
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from mpoxcv.command_line import command_for, shell
from mpoxcv.commands.record import begin, check, finished_metrics, options_of, tell
from mpoxcv.commands.run_folder import complete_config, goes_on, leads, resume_path
from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.errors import UserError
from mpoxcv.evaluation.groups import REPLICATES, bootstrap, pooled
from mpoxcv.evaluation.predictions import read_predictions
from mpoxcv.evaluation.runs import MAX_SEED, flat
from mpoxcv.explain import blaming
from mpoxcv.lockstep import lockstep
from mpoxcv.report.figures import SYNTHETIC_NOTE
from mpoxcv.storage.checkpoint_io import AtomicCheckpointIO
from mpoxcv.storage.files import read_metrics
from mpoxcv.storage.stored_config import resolved
from mpoxcv.terminal import console, say
from mpoxcv.training.callbacks.provenance import versions
from mpoxcv.training.classifier import LesionClassifier
from mpoxcv.training.loggers import ended, open_loggers, unfailing
from mpoxcv.training.memory import memory_explained
from mpoxcv.training.tensorboard import SplitTensorBoardLogger
from mpoxcv.use.stored_run import stored_parts

LOGGED_OPTIONS = (
    "fold", "seed", "data.name", "data.train_images", "data.image_size", "data.batch_size", "data.sampler", "data.augment",
    "model", "optimizer", "scheduler", "classifier.class_weights", "classifier.label_smoothing", "trainer.max_epochs",
    "trainer.precision",
)  # fmt: skip
HEADLINE = (
    "f1_macro", "balanced_accuracy", "accuracy", "auroc_macro", "precision_macro", "recall_macro", "loss", "ece",
)  # fmt: skip
Metrics = Mapping[str, float | None]


def train(cfg: DictConfig) -> Metrics:
    """Fit, validate and test the best checkpoint, write all results; return what metrics.json has.

    ``cfg`` is ``conf/train.yaml`` as composed.

    Raises:
        UserError: an option, the data, or the checkpoint to resume from is not as it must be.
    """
    folder = Path(cfg.output_dir)
    # before anything is made of them, which resolves some
    options = options_of(cfg)
    # a multirun's folder was looked at when it began
    in_multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    again = in_multirun or goes_on(cfg)
    if leads():
        check(options, folder, again)
    if again and (finished := finished_metrics(folder)):
        say(f"{folder} is finished: nothing to do.")
        return finished
    if again and (folder / "checkpoints" / "last.ckpt").is_file():
        cfg.ckpt_path = "last"
    # not an interpolation any more: another run may begin before this one ends
    cfg.output_dir = str(folder)

    datamodule, classifier, trainer = build(cfg)
    if leads():
        complete_config(folder, datamodule.preprocessing())
    with ended(trainer.loggers):
        resume = resume_path(cfg.ckpt_path, folder)
        member = lockstep.current()
        if member and (reason := member.join_in(classifier, datamodule, trainer)):
            say(f"{folder.name} is trained alone: {reason}.")
        with memory_explained(datamodule):
            if leads():
                now = {"options": options, **beginning(datamodule)}
                if weights := getattr(classifier.network, "weights", None):
                    now["weights"] = {weights.source: weights.sha256}
                begin(folder, now, Path(resume).absolute().parent.parent if resume else None)
            with blaming(resume):
                trainer.fit(classifier, datamodule, ckpt_path=resume, weights_only=True)
        with blaming(resume):
            metrics = score(trainer, classifier, datamodule, best_checkpoint(trainer))
        _log_hparams(trainer, cfg, metrics)
    if trainer.is_global_zero:
        print_results(metrics, datamodule, folder)
    return metrics


def beginning(datamodule: MSLDDataModule) -> dict[str, Any]:
    """Return the data, which are read for it, and the versions that a run begins with."""
    datamodule.prepare_data()
    datamodule.setup()
    return {"data": datamodule.contents(), "versions": versions()}


def test(cfg: DictConfig) -> dict[str, float]:
    """Score a finished run's best checkpoint again, say what differs, and return the metrics.

    ``cfg`` is ``conf/test.yaml`` as composed.

    Raises:
        UserError: the folder holds no finished run, or its data are gone or changed shape.
    """
    run = Path(cfg.run)
    checkpoint = Path("checkpoints", "best.ckpt")
    for file in (Path(".hydra", "config.yaml"), checkpoint):
        if not (run / file).is_file():
            example = command_for("test", "run=logs/runs/lenet/2026-01-31_12-00-00-000000")
            reason = f"it lacks {file}. Example: {example}"
            raise UserError(f"{run} is not the folder of a trained run: {reason}")

    ours = {key: cfg[key] for key in ("output_dir", "trainer", "callbacks", "logger")}
    with blaming(run):
        stored, parts = stored_parts(run, cfg.trust, cfg.data, "score", cfg.model.weights)
        seed = resolved(stored, "seed", run / ".hydra" / "config.yaml")
        config = OmegaConf.create({"seed": seed, **parts, **ours})
        datamodule, classifier, trainer = build(config)
        # features have no mirror image
        classifier.flips = datamodule.as_pictures = cfg.flips
        if leads():
            tell(run, beginning(datamodule))
        with ended(trainer.loggers):
            metrics = score(trainer, classifier, datamodule, str(run / checkpoint))
    if trainer.is_global_zero:
        if cfg.flips:
            say("Each picture was scored together with its mirror image, left for right.")
        print_results(metrics, datamodule, Path(cfg.output_dir), read_metrics(run / "metrics.json"))
    return metrics


def build(cfg: DictConfig) -> tuple[MSLDDataModule, LesionClassifier, L.Trainer]:
    """Seed the random generators and instantiate what the config names.

    Raises:
        UserError: the seed or an option is not as it must be.
    """
    if (tasks := os.environ.get("SLURM_NTASKS", "1")) != "1" and cfg.trainer.devices == 1:
        ways = "Give the job one task (--ntasks=1), or let them train as one: trainer=ddp"
        raise UserError(f"This is a Slurm job of {tasks} tasks, and trainer.devices=1. {ways}.")
    seed = cfg.seed
    if not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed={seed} should be a whole number from 0 to {MAX_SEED}.")
    torch.manual_seed(seed)
    # for augmentation of somebody's own
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002

    datamodule = instantiate(cfg.data)
    classifier = instantiate(cfg.classifier)
    for part, kind in ((datamodule, MSLDDataModule), (classifier, LesionClassifier)):
        if not isinstance(part, kind):
            raise UserError(
                f"The config names a {type(part).__name__} in place of a {kind.__name__}."
            )
    datamodule.prepare_for(classifier.network)
    for name, value in datamodule.preprocessing().items():
        OmegaConf.update(cfg, f"data.{name}", value)
    callbacks = [
        instantiate(c) for c in (cfg.get("callbacks") or {}).values() if c and "_target_" in c
    ]
    loggers = open_loggers([config for config in (cfg.get("logger") or {}).values() if config])
    # Lightning refuses the monitor without a logger
    if not loggers:
        callbacks = [c for c in callbacks if not isinstance(c, LearningRateMonitor)]
    options = {}
    # lockstep has a progress bar of its own
    if lockstep.current():
        callbacks = [c for c in callbacks if not isinstance(c, ProgressBar)]
        options["enable_progress_bar"] = False
    for bar in [callback for callback in callbacks if isinstance(callback, ProgressBar)]:
        unfailing(bar, L.Callback)
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, **options)
    if isinstance(files := trainer.strategy.checkpoint_io, AtomicCheckpointIO):
        own = [c.dirpath for c in callbacks if isinstance(c, ModelCheckpoint) and c.dirpath]
        files.folders.update(map(os.path.realpath, own))
    return datamodule, classifier, trainer


def best_checkpoint(trainer: L.Trainer) -> str | None:
    """Return the best checkpoint after a fit, the last weights where no epoch was validated."""
    callback: Any = trainer.checkpoint_callback
    # without one the weights are scored as they are
    if callback is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    if not callback.best_model_path:
        callback.best_model_path = callback.format_checkpoint_name({})
        trainer.save_checkpoint(callback.best_model_path)
        if trainer.is_global_zero:
            say("No epoch was validated, so that none is best: the last weights are scored.")
    return str(callback.best_model_path)


def score(
    trainer: L.Trainer, classifier: LesionClassifier, data: MSLDDataModule, checkpoint: str | None
) -> dict[str, float]:
    """Validate and test a checkpoint (None: the weights as they are) and return the metrics.

    What Lightning is told to leave out (``trainer.limit_val_batches=0``) is missing, and said.
    """
    # a checkpoint holds averaged weights in place of the others, which this would put back
    averaging, callbacks = WeightAveraging, trainer.callbacks  # type: ignore[attr-defined]
    trainer.callbacks = [c for c in callbacks if not isinstance(c, averaging)]  # type: ignore[attr-defined]
    options: Any = {"ckpt_path": checkpoint, "verbose": False, "weights_only": True}
    with memory_explained(data):
        trainer.validate(classifier, data, **options)
        trainer.test(classifier, data, **options)
    for split in ("val", "test"):
        if split not in classifier.metrics and trainer.is_global_zero:
            files = "metrics.json and predictions.csv are without it"
            say(f"There is no {split}, by trainer.limit_{split}_batches=0: {files}.")
    return classifier.metrics.get("val", {}) | classifier.metrics.get("test", {})


def print_results(
    metrics: Mapping[str, float], data: MSLDDataModule, folder: Path, before: Metrics | None = None
) -> None:
    """Print the headline metrics, the majority class's accuracy, and where everything is.

    ``before`` has the metrics of an earlier scoring of the same checkpoint, to compare with. Where
    predictions.csv is in the folder, Test's metrics have their intervals.
    """
    out = console()
    note = f" ({SYNTHETIC_NOTE})" if data.synthetic else ""
    table = Table("metric", title=f"{data.source}, fold {data.fold}{note}", title_justify="left")
    tested = data.table("test")
    columns = {split: _texts(metrics, split) for split in ("val", "test")}
    columns[f"test: 95 % interval over {tested['patient'].nunique()} patients"] = intervals(folder)
    if before:
        columns["test before"] = _texts(before, "test")
    for column in columns:
        table.add_column(column, justify="right")
    for name in HEADLINE:
        table.add_row(name, *(texts.get(name, "") for texts in columns.values()))
    out.print(table)

    commonest = data.classes[int(np.argmax(data.class_counts()))]
    share = (tested["class"] == commonest).mean()
    always = f"Always saying {commonest}, the commonest class in Train,"
    out.print(f"{always} has test accuracy {share:.3f}.")
    if before:
        scored = {name: value for name, value in metrics.items() if not math.isnan(value)}
        differing = sum(before[name] != scored.get(name) for name in before if name in metrics)
        count = f"{differing} of {len(before)}"
        out.print(f"{count} metrics differ from those in metrics.json of the run.")
    files = "predictions.csv, metrics.json, figures"
    out.print(f"Everything is in {folder}: {files}.", soft_wrap=True)
    out.print(f"See it: {shell('tensorboard', '--logdir', str(folder))}", soft_wrap=True)


def _texts(metrics: Metrics, split: str) -> dict[str, str]:
    """Return a split's metrics by name, with the digits that a test set of hundreds can have."""
    values = {name: metrics.get(f"{split}/{name}") for name in HEADLINE}
    return {name: f"{value:.3f}" for name, value in values.items() if value is not None}


def intervals(folder: Path) -> dict[str, str]:
    """Return the 95 % interval over patients of each metric of a run's Test, as the report's.

    Empty where predictions.csv was not written (callbacks.results=null), or has no Test.
    """
    if not (folder / "predictions.csv").is_file():
        return {}
    predictions = read_predictions(folder / "predictions.csv")
    rows = predictions[predictions["split"] == "test"].assign(seed=0, weight=1.0)
    if rows.empty:
        return {}
    estimates = pooled(rows, bootstrap(rows, REPLICATES))
    # a resample's is larger than the sample's
    del estimates["ece"]
    ends = {name: (low, high) for name, (_, low, high) in estimates.items() if low < high}
    return {name: f"{low:.3f} to {high:.3f}" for name, (low, high) in ends.items()}


def _log_hparams(trainer: L.Trainer, cfg: DictConfig, metrics: Mapping[str, float]) -> None:
    """Give every logger the options, and TensorBoard's HPARAMS page their final metrics."""
    options: dict[str, bool | int | float | str] = {}
    for key in LOGGED_OPTIONS:
        value = OmegaConf.select(cfg, key)
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for name, option in flat({key: plain}).items():
            parent, _, last = name.rpartition(".")
            # the class stands for the whole
            if last == "_target_":
                options[parent] = option.rpartition(".")[2]
            elif not last.startswith("_"):
                options[name] = option if isinstance(option, bool | int | float) else str(option)
    splits = {"val": "val_best", "test": "test"}
    final = {
        f"{logged}/{name}": metrics[f"{split}/{name}"]
        for split, logged in splits.items() for name in HEADLINE if f"{split}/{name}" in metrics
    }  # fmt: skip
    for logger in trainer.loggers:
        if isinstance(logger, SplitTensorBoardLogger):
            logger.log_final(options, final)
        else:
            logger.log_hyperparams(options)
