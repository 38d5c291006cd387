"""Which runs are trained alone: those of which something asks for more than an epoch as a whole.

In lockstep a run's Trainer sees one step an epoch. Whatever listens to batches or optimizer steps,
or changes them, would silently give another result. So this is a list of what may take part.
"""

from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch import callbacks as theirs
from lightning.pytorch import loggers
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import GradClipAlgorithmType

from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.models.lenet import LeNet
from mpoxcv.training import callbacks as ours
from mpoxcv.training.classifier import LesionClassifier
from mpoxcv.training.tensorboard import SplitTensorBoardLogger

CALLBACKS = {
    theirs.EarlyStopping, theirs.LearningRateMonitor, theirs.ModelCheckpoint, theirs.ModelSummary,
    theirs.RichModelSummary, ours.Baselines, ours.Figures, ours.History, ours.Provenance,
    ours.Reference, ours.Results, ours.SamplePictures,
}  # fmt: skip
# loggers and profilers; W&B has one run open in a process, and lockstep's would share it
OTHERS = {
    loggers.CSVLogger, loggers.MLFlowLogger, loggers.TensorBoardLogger, SplitTensorBoardLogger,
    PassThroughProfiler,
}  # fmt: skip
# options of the trainer that reach into a step or an epoch, with the values that do not; no public
# name tells of detect_anomaly (seen in Lightning 2.6.6)
TRAINER: dict[str, tuple[Any, ...]] = {
    "max_steps": (-1,), "min_steps": (None,), "limit_train_batches": (1.0,),
    "overfit_batches": (0,), "val_check_interval": (1.0,), "accumulate_grad_batches": (1,),
    "reload_dataloaders_every_n_epochs": (0,), "barebones": (False,), "_detect_anomaly": (False,),
    "world_size": (1,), "precision": ("32-true",),
    "gradient_clip_algorithm": (None, GradClipAlgorithmType.NORM),
}  # fmt: skip


def why_alone(
    classifier: LesionClassifier, datamodule: MSLDDataModule, trainer: L.Trainer
) -> str | None:
    """Return why a run's epochs cannot be computed with others', or None."""
    return next(_reasons(classifier, datamodule, trainer), None)


def _reasons(
    classifier: LesionClassifier, datamodule: MSLDDataModule, trainer: L.Trainer
) -> Iterator[str]:
    for part, kind in ((classifier, LesionClassifier), (datamodule, MSLDDataModule)):
        if type(part) is not kind:
            yield f"{type(part).__name__} is a subclass of {kind.__name__}"
    if type(classifier.network) is not LeNet:
        yield f"the network is {type(classifier.network).__name__}, and only LeNets are grouped"
    if datamodule.form.size != LeNet.IMAGE_SIZE:
        yield f"data.image_size={datamodule.form.size}"
    if classifier.compiled:
        yield "classifier.compile=true"
    if classifier.mix is not None:
        yield "classifier.mix mixes the pictures of a batch"
    if classifier.scheduler_interval != "epoch":
        yield f"classifier.scheduler_interval={classifier.scheduler_interval}"

    for option, values in TRAINER.items():
        if (value := getattr(trainer, option)) not in values:
            yield f"trainer.{option.lstrip('_')}={value} reaches into an epoch"
    listeners = [*trainer.loggers, trainer.profiler, *trainer.callbacks]  # type: ignore[attr-defined]
    for listener in listeners:
        name = type(listener).__name__
        if type(listener) not in CALLBACKS | OTHERS:
            yield f"{name} may listen to steps"
        if getattr(listener, "logging_interval", "epoch") != "epoch":
            yield f"{name} logs steps: set its logging_interval=epoch"
        # no public name tells them apart (seen in Lightning 2.6.6)
        if isinstance(listener, theirs.ModelCheckpoint) and (
            listener._every_n_train_steps or listener._train_time_interval
        ):
            yield f"{name} writes within epochs"
