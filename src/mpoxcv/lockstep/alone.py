"""Which runs are trained alone: those of which something asks for more than an epoch as a whole.

In lockstep a run's Trainer sees one step an epoch. Whatever listens to batches or optimizer steps,
or changes them, would silently give another result. So this is a list of what may take part.
"""

from collections.abc import Iterator

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
    ours.Results, ours.SamplePictures,
}  # fmt: skip
# W&B has one run open in a process, and lockstep's would share it
LOGGERS = {
    loggers.CSVLogger, loggers.MLFlowLogger, loggers.TensorBoardLogger, SplitTensorBoardLogger,
}  # fmt: skip
# options of the trainer that reach into an epoch, with the value that does not
WHOLE_EPOCHS = {
    "max_steps": -1, "min_steps": None, "limit_train_batches": 1.0, "overfit_batches": 0,
    "val_check_interval": 1.0, "reload_dataloaders_every_n_epochs": 0, "barebones": False,
    "accumulate_grad_batches": 1,
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

    if trainer.world_size > 1 or trainer.precision != "32-true":
        yield "trainer.strategy or trainer.precision is not the default"
    for option, default in WHOLE_EPOCHS.items():
        if (value := getattr(trainer, option)) != default:
            yield f"trainer.{option}={value} reaches into an epoch"
    if trainer.gradient_clip_algorithm not in (None, GradClipAlgorithmType.NORM):
        yield "trainer.gradient_clip_algorithm is not norm"
    if not isinstance(trainer.profiler, PassThroughProfiler):  # type: ignore[attr-defined]
        yield "trainer.profiler measures steps"
    # no public name tells (seen in Lightning 2.6.6)
    if trainer._detect_anomaly:
        yield "trainer.detect_anomaly=true watches steps"
    for logger in trainer.loggers:
        if type(logger) not in LOGGERS:
            yield f"the logger {type(logger).__name__} may listen to steps"

    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = type(callback).__name__
        if isinstance(callback, ours.WithinEpochCheckpoint):
            yield "callbacks=frequent writes within epochs"
        if type(callback) not in CALLBACKS:
            yield f"the callback {name} may listen to steps"
        if getattr(callback, "logging_interval", "epoch") != "epoch":
            yield f"the callback {name} logs steps: set its logging_interval=epoch"
        # no public name tells them apart (seen in Lightning 2.6.6)
        if isinstance(callback, theirs.ModelCheckpoint) and (
            callback._every_n_train_steps or callback._train_time_interval
        ):
            yield f"the callback {name} writes within epochs"
