"""Runs that ask for more than whole epochs are trained alone, and end as they would alone."""

import json

import lightning as L
import pytest
from lightning.pytorch import callbacks as theirs
from omegaconf import OmegaConf
from test_lockstep import LOCKSTEP
from test_sweep import options

from conftest import CLASSES, PATTERN, PROJECT
from mpoxcv import LeNet, LesionClassifier, MSLDDataModule
from mpoxcv.evaluation.runs import NEUTRAL
from mpoxcv.lockstep.alone import CALLBACKS, why_alone
from mpoxcv.training.callbacks import History, WithinEpochCheckpoint

EMA = "+callbacks.ema={_target_:lightning.pytorch.callbacks.EMAWeightAveraging,decay:0.5}"


class Batches(L.Callback):
    """Somebody's own: listens to nothing, which nobody can know."""


class Transfer(MSLDDataModule):
    """Somebody's own DataModule."""


def reason(
    tree, *callbacks: L.Callback, module=MSLDDataModule, classifier=None, **trainer_options
) -> str | None:
    """Return why a run with these callbacks and options is trained alone."""
    data = module(tree, CLASSES, PATTERN, fold=1)
    trainer = L.Trainer(
        callbacks=[*callbacks], logger=False, enable_progress_bar=False, accelerator="cpu",
        **{"enable_checkpointing": False, "max_epochs": 1, **trainer_options},
    )  # fmt: skip
    return why_alone(classifier or LesionClassifier(LeNet(3), CLASSES), data, trainer)


def test_what_keeps_out_of_an_epoch_takes_part(tree, tmp_path):
    assert reason(tree) is None
    callbacks = [
        theirs.EarlyStopping("val/loss"),
        theirs.ModelCheckpoint(tmp_path),
        History(tmp_path),
    ]
    assert reason(tree, *callbacks, enable_checkpointing=True, gradient_clip_val=1.0) is None


@pytest.mark.parametrize(
    ("callback", "says"),
    [
        (theirs.EMAWeightAveraging, "EMAWeightAveraging may listen"),
        (theirs.WeightAveraging, "WeightAveraging may listen"),
        (lambda: theirs.GradientAccumulationScheduler({0: 2}), "GradientAccumulationScheduler"),
        (lambda: theirs.Timer("00:01:00:00"), "Timer may listen"),
        (Batches, "Batches may listen"),
        (lambda: theirs.ModelCheckpoint(every_n_train_steps=1), "writes within epochs"),
        (lambda: WithinEpochCheckpoint(every_n_train_steps=1), "WithinEpochCheckpoint may listen"),
    ],
)
def test_callbacks_that_may_listen_to_steps_are_refused(tree, callback, says):
    assert says in reason(tree, callback(), enable_checkpointing=True)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_steps", 2), ("max_steps", 3), ("val_check_interval", 0.5), ("overfit_batches", 1),
        ("limit_train_batches", 2), ("detect_anomaly", True), ("profiler", "simple"),
        ("max_time", {"hours": 1}), ("reload_dataloaders_every_n_epochs", 1),
        ("gradient_clip_algorithm", "value"),
    ],
)  # fmt: skip
def test_options_that_reach_into_an_epoch_are_refused(tree, option, value):
    says = {"max_time": "Timer", "profiler": "SimpleProfiler"}.get(option, f"trainer.{option}")
    assert says in reason(tree, **{option: value})


def test_a_schedule_by_step_is_refused(tree):
    classifier = LesionClassifier(LeNet(3), CLASSES, scheduler_interval="step")
    assert "scheduler_interval=step" in reason(tree, classifier=classifier)


def test_a_datamodule_of_somebodys_own_is_refused(tree):
    assert "subclass of MSLDDataModule" in reason(tree, module=Transfer)


@pytest.mark.slow
def test_averaged_weights_are_those_of_runs_one_after_another(run_script, tree, tmp_path):
    """Averaged once an epoch in place of once a step they would be others."""
    for launcher, name in ((LOCKSTEP, "lockstep"), ("hydra/launcher=basic", "alone")):
        command = ["-m", "fold=1", launcher, EMA, *options(tree, tmp_path / name, epochs=2)]
        done = run_script("train", *command, "data.batch_size=4", "callbacks.baselines=null")
        assert done.code == 0, done.err
    one, two = (
        json.loads((tmp_path / name / "fold=1/metrics.json").read_text())
        for name in ("lockstep", "alone")
    )
    assert one == two


def test_every_callback_of_the_recipe_is_listed_where_it_has_to_be():
    """In lockstep, and among the options that make no other experiment."""
    recipe = OmegaConf.load(PROJECT / "conf/callbacks/default.yaml")
    ours = {node["_target_"] for node in recipe.values() if node["_target_"].startswith("mpoxcv")}
    listed = {f"mpoxcv.training.callbacks.{callback.__name__}" for callback in CALLBACKS}
    assert ours and ours <= listed
    assert {f"callbacks.{name}" for name in recipe} - NEUTRAL == {
        "callbacks.checkpoint",
        "callbacks.last",
    }
