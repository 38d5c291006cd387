"""A fit under options and callbacks of Lightning: nothing lost, nothing wrong, no traceback."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_train import small

from conftest import Finished
from killing import start
from mpoxcv import LeNet, LesionClassifier
from mpoxcv.errors import UserError
from mpoxcv.evaluation.predictions import read_predictions
from mpoxcv.use.stored_run import stored_parts

LIGHTNING = "lightning.pytorch.callbacks"
TORCH = "torch.optim.lr_scheduler"
EMA = f"+callbacks.ema={{_target_:{LIGHTNING}.EMAWeightAveraging,decay:0.9}}"
BACKBONE = f"+callbacks.b={{_target_:{LIGHTNING}.BackboneFinetuning,unfreeze_backbone_at_epoch:1}}"
SEQUENTIAL = [
    "scheduler=warmup_cosine", f"scheduler._target_={TORCH}.SequentialLR",
    '+scheduler.milestones=["1 epochs"]',
]  # fmt: skip
RESNET = ["model=torchvision", "model.name=resnet18"]


@pytest.fixture
def train(run_script, tree):
    """Train two epochs of seven steps into the folder ``run``."""

    def run(*more: str) -> Finished:
        quick = [
            f"callbacks.{name}=null" for name in ("figures", "samples", "progress", "baselines")
        ]
        command = [*small(tree), "data.batch_size=4", "trainer.max_epochs=2", "logger=none", *quick]
        return run_script("train", *command, "hydra.run.dir=run", *more)

    return run


def sound(done: Finished) -> Finished:
    assert done.code == 0, done.err
    return done


def refused(done: Finished) -> str:
    """Return a command's error, which is for people."""
    assert done.code == 1 and "Traceback" not in done.err, done.err
    return done.err.partition("\nerror: ")[2]


def curves(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "learning_curves.csv")


def provenance(run: Path) -> dict:
    return json.loads((run / "provenance.json").read_text())


@pytest.mark.parametrize("launcher", ["basic", pytest.param("lockstep", marks=pytest.mark.slow)])
def test_a_fold_that_diverges_has_failed_and_costs_no_other(run_script, tree, tmp_path, launcher):
    command = [
        "-m", "optimizer.lr=1e30,0.001", *small(tree), "optimizer=sgd", "trainer.max_epochs=2", "logger=none",
        "callbacks.figures=null", "callbacks.samples=null", "callbacks.progress=null", f"hydra/launcher={launcher}",
        "hydra.sweep.dir=both", "+trainer.enable_progress_bar=false", "data.batch_size=4", "callbacks.baselines=null",
    ]  # fmt: skip
    for again in ([], ["resume=true"])[: 1 + (launcher == "basic")]:
        done = run_script("train", *command, *again)
        assert done.code == 1 and "Go on with" in done.err
        failed, fine = tmp_path / "both/fold=1,optimizer.lr=1e30", tmp_path / "both"
        [failed] = [run for run in fine.iterdir() if "lr=1e" in run.name]
        [fine] = [run for run in fine.iterdir() if "lr=0.001" in run.name]
        job = json.loads((failed / "job.json").read_text())
        assert job["status"] == "failed" and "loss on val is nan, in epoch 0" in job["cause"]
        assert "trainer.gradient_clip_val" in job["cause"]
        assert provenance(failed)["status"] == "failed"
        assert not (failed / "metrics.json").exists() and not (failed / "checkpoints").exists()
        assert provenance(fine)["status"] == "finished"


def test_a_diverged_run_is_not_finished(train, tmp_path):
    options = ["optimizer=sgd", "optimizer.lr=1e30"]
    assert "loss on val is nan, in epoch 0 (the first is 0)" in refused(train(*options))
    again = train(*options, "resume=true")
    assert "nothing to do" not in again.out and "has diverged" in refused(again)


def test_rates_are_those_that_the_epochs_were_trained_at(train, tmp_path):
    sound(train("scheduler=cosine", "optimizer.lr=0.1", "trainer.max_epochs=3"))
    expected = [0.1 * (1 + np.cos(np.pi * epoch / 3)) / 2 for epoch in range(3)]
    assert np.allclose(curves(tmp_path / "run")["lr"], expected)


def test_rates_by_step_have_lengths_in_epochs(train, tmp_path):
    options = ["scheduler=cosine", "classifier.scheduler_interval=step", "optimizer.lr=0.1"]
    logged = ["logger=csv", "callbacks.learning_rate.logging_interval=step"]
    sound(train(*options, *logged, "trainer.max_epochs=3", "+trainer.accumulate_grad_batches=3"))
    # 7 batches make 3 steps, the last of one batch
    steps = 0.1 * (1 + np.cos(np.pi * np.arange(9) / 9)) / 2
    assert np.allclose(curves(tmp_path / "run")["lr"], steps[::3])
    logged = pd.read_csv(tmp_path / "run/csv/metrics.csv")["lr-AdamW"].dropna()
    assert np.allclose(logged.unique(), steps)


def test_the_warm_up_recipe_rises_and_falls_to_zero(train, tmp_path):
    sound(train("scheduler=warmup_cosine", "optimizer.lr=0.1", "trainer.max_epochs=8"))
    steps = np.arange(0, 56, 7)
    warm = np.minimum(1, 0.01 + 0.99 * steps / 35)
    expected = 0.1 * warm * (1 + np.cos(np.pi * steps / 56)) / 2
    assert np.allclose(curves(tmp_path / "run")["lr"], expected)
    # the stored config, with its schedules in a schedule, can be read
    assert "classifier" in stored_parts(tmp_path / "run", [], {}, "predict")[1]


def test_schedules_one_after_another(train, tmp_path):
    sound(train(*SEQUENTIAL, "optimizer.lr=0.1", "trainer.max_epochs=3"))
    # after the first epoch the cosine begins anew
    assert np.allclose(
        curves(tmp_path / "run")["lr"], [0.001, 0.1, 0.1 * (1 + np.cos(np.pi / 3)) / 2]
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("optimizer.lr=-1", "optimizer cannot be taken as it is: Invalid learning rate"),
        ("scheduler=cosine scheduler.T_max=0", "scheduler cannot be taken as it is"),
        ("scheduler=onecycle scheduler.total_steps=1", "Tried to step"),
        ("scheduler=cosine scheduler.T_max=epochs", "scheduler.T_max='epochs' is no length"),
        ("scheduler=cosine trainer.max_epochs=-1 +trainer.max_steps=5", "give trainer.max_epochs"),
        ("classifier.scheduler_interval=batch", "is not one of epoch, step"),
        (
            f"scheduler=warmup_cosine scheduler.schedulers=[{{_target_:{TORCH}.ReduceLROnPlateau,_partial_:true}}]"
            f" scheduler._target_={TORCH}.SequentialLR +scheduler.milestones=[]",
            "does not support `ReduceLROnPlateau`",
        ),
        ("scheduler=warmup_cosine +callbacks.g={_target_:lightning.pytorch.callbacks.GradientAccumulationScheduler,"
         "scheduling:{1:2}}", "cannot be told under GradientAccumulationScheduler"),
        (f"+callbacks.c={{_target_:{LIGHTNING}.BatchSizeFinder}}", "Set data.batch_size"),
        (f"+callbacks.c={{_target_:{LIGHTNING}.LearningRateFinder}}", "Set optimizer.lr"),
        (f"+callbacks.c={{_target_:{LIGHTNING}.ModelPruning,pruning_fn:l1_unstructured}}", "ModelPruning is not"),
        (f"+callbacks.c={{_target_:{LIGHTNING}.StochasticWeightAveraging,swa_lrs:0.1}}", "WeightAveraging."),
        (f"classifier.network={{_target_:torch.nn.Flatten}} {BACKBONE}", "is of one part"),
        ("model=torchvision model.name=resnet18 data.image_size=32 data.batch_size=1", "data.batch_size=2 or more"),
        ("callbacks=early_stopping +trainer.limit_val_batches=0", "val/f1_macro"),
        ("+trainer.val_check_interval=99", "See trainer.val_check_interval"),
        ("scheduler=plateau +trainer.limit_val_batches=0", "val/loss"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_a_sentence(train, options, says):
    assert says in refused(train(*options.split()))


def test_few_batches_to_overfit_are_the_same_in_every_epoch(train, tmp_path, monkeypatch):
    seen: list[list[int]] = []
    step = LesionClassifier.training_step
    monkeypatch.setattr(
        LesionClassifier,
        "training_step",
        lambda self, batch, i: (seen.append(batch["index"].tolist()), step(self, batch, i))[1],
    )
    done = sound(train("+trainer.overfit_batches=2", "data.sampler=weighted"))
    assert len(seen) == 4 and seen[:2] == seen[2:] and seen[0] != seen[1]
    assert "shuffling" not in done.err


@pytest.mark.parametrize("option", ["+trainer.limit_val_batches=0", "+trainer.max_steps=2"])
def test_without_a_validated_epoch_the_last_weights_are_scored(train, run_script, tmp_path, option):
    done = sound(train(option, "logger=tensorboard"))
    assert "No epoch was validated" in done.out
    written = json.loads((tmp_path / "run/metrics.json").read_text())
    validated = "max_steps" in option
    assert "test/f1_macro" in written and ("val/f1_macro" in written) == validated
    assert ("There is no val, by trainer.limit_val_batches=0" in done.out) != validated
    assert provenance(tmp_path / "run")["status"] == "finished"
    again = sound(run_script("test", "run=run", "trainer=cpu"))
    assert "\n0 of " in again.out


def test_without_a_test_the_rest_is_kept(train, tmp_path):
    done = sound(train("+trainer.limit_test_batches=0", "logger=tensorboard"))
    assert "There is no test, by trainer.limit_test_batches=0" in done.out
    assert set(read_predictions(tmp_path / "run/predictions.csv")["split"]) == {"val"}
    assert "val/f1_macro" in json.loads((tmp_path / "run/metrics.json").read_text())


def test_averaged_weights_are_what_is_tested_and_kept(train, run_script, tmp_path):
    sound(train(EMA, "optimizer.lr=0.01"))
    best = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    raw, averaged = (best[key]["network.fc3.bias"] for key in ("current_model_state", "state_dict"))
    assert not torch.equal(raw, averaged)
    assert "\n0 of " in sound(run_script("test", "run=run", "trainer=cpu")).out


def test_the_sanity_check_of_validation_is_no_epoch(train, tmp_path):
    sound(train("trainer.num_sanity_val_steps=1", "+trainer.check_val_every_n_epoch=2"))
    assert curves(tmp_path / "run")["val/loss"].isna().tolist() == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("size", [13, 9])
def test_a_last_picture_alone_is_joined_where_the_network_has_batchnorm(train, tmp_path, size):
    """27 pictures: 13 + 13 + 1, and 9 + 9 + 9."""
    one = ["trainer.max_epochs=1", f"data.batch_size={size}"]
    done = sound(train(*RESNET, *one))
    says = "The last training batch would have 1 picture, too few for BatchNorm: it is joined to the one before, which has 14."
    assert (says in done.out) == (size == 13)
    assert provenance(tmp_path / "run")["status"] == "finished"


def test_lenets_last_picture_stays_a_batch(train, tmp_path):
    assert "joined" not in sound(train("data.batch_size=13", "trainer.max_epochs=1")).out
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 3


@pytest.mark.slow
def test_shares_of_a_batch_have_two_pictures_where_the_network_has_batchnorm(tree, tmp_path):
    """27 pictures in batches of 8 are shares of 4, and 3 at the end: 2 and 1."""
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=8"]
    options = [*small(tree), *RESNET, "trainer.max_epochs=1", "hydra.run.dir=run", *two]
    process = start([o for o in options if o != "trainer=cpu"], tmp_path)
    process.join(200)
    log = (tmp_path / "log.txt").read_text()
    assert process.exitcode == 0, log
    assert log.count("would have 3 pictures, too few for BatchNorm") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["scheduler=warmup_cosine", "+trainer.accumulate_grad_batches=2", EMA],
        [*SEQUENTIAL, BACKBONE],
    ],
)
def test_schedules_and_averages_go_on_to_the_bit(tree, tmp_path, options):
    command = [
        *small(tree), "data.batch_size=4", "trainer.max_epochs=2", "logger=none", "callbacks=frequent",
        "callbacks.within_epoch.every_n_train_steps=2", *options, "callbacks.figures=null", "callbacks.samples=null",
        "callbacks.progress=null", "callbacks.baselines=null",
    ]  # fmt: skip
    for run, moments in (("whole", [None]), ("killed", ["training_step", None])):
        for moment in moments:
            again = ["resume=true"] if (tmp_path / run).exists() else []
            process = start([*command, f"hydra.run.dir={run}", *again], tmp_path, moment, 11)
            process.join(200)
            assert process.exitcode == (-9 if moment else 0), (tmp_path / "log.txt").read_text()
    for file in ("predictions.csv", "metrics.json", "learning_curves.csv"):
        one, two = ((tmp_path / run / file).read_bytes() for run in ("whole", "killed"))
        assert one == two, file


def test_a_backbone_is_frozen_and_joins_later(train, tmp_path):
    sound(train(BACKBONE, "optimizer.lr=0.01", "trainer.max_epochs=1"))
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    torch.manual_seed(42)
    begun = LeNet(3).state_dict()
    moved = {n for n, w in begun.items() if not torch.equal(w, last["state_dict"][f"network.{n}"])}
    assert moved == {"fc3.weight", "fc3.bias"}
    sound(train(BACKBONE, "optimizer.lr=0.01", "hydra.run.dir=longer", "scheduler=cosine"))
    longer = torch.load(tmp_path / "longer/checkpoints/last.ckpt", weights_only=True)
    assert all(not torch.equal(w, longer["state_dict"][f"network.{n}"]) for n, w in begun.items())


@pytest.mark.parametrize(
    "options",
    [
        "+trainer.accumulate_grad_batches=2 trainer.precision=bf16-mixed",
        "trainer.gradient_clip_val=0.5 +trainer.gradient_clip_algorithm=value",
        "+trainer.max_time=00:00:00:01 trainer.max_epochs=1000",
        "+trainer.fast_dev_run=true",
        "+trainer.limit_train_batches=2 +trainer.val_check_interval=0.5",
        "+trainer.val_check_interval=3 +trainer.check_val_every_n_epoch=null",
        "+trainer.reload_dataloaders_every_n_epochs=1 +trainer.profiler=simple",
        "trainer.max_epochs=0",
        "+trainer.limit_train_batches=0",
        "+trainer.enable_checkpointing=false callbacks.checkpoint=null callbacks.last=null",
    ],
)
def test_siblings_end_without_a_traceback(train, tmp_path, options):
    sound(train(*options.split()))
    assert (tmp_path / "run/predictions.csv").is_file()


def test_what_no_fit_can_have_is_refused():
    with pytest.raises(UserError, match="scheduler_interval=never"):
        LesionClassifier(LeNet(3), ["a", "b", "c"], scheduler_interval="never")
