"""Runs in lockstep leave what separate runs leave, but for float noise."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from test_recovery import NETWORK
from test_sweep import break_picture, options, summary_of

from mpoxcv import LeNet
from mpoxcv.lockstep.grouped import GroupedLeNet

LOCKSTEP = "hydra/launcher=lockstep"


@pytest.mark.parametrize("way", ["own kernels", "convolutions", "products"])
def test_gradients_of_the_first_step_are_those_of_separate_networks(way):
    torch.manual_seed(0)
    own = way == "own kernels"
    networks = [LeNet(6, own).to(memory_format=torch.channels_last) for _ in range(3)]
    # an epoch's last batches may be smaller
    images = [torch.rand(n, 3, 32, 32) for n in (8, 8, 5)]
    labels = [torch.randint(0, 6, (len(batch),)) for batch in images]
    expected = []
    for network, x, y in zip(networks, images, labels, strict=True):
        F.cross_entropy(network(x), y).backward()
        expected.append([p.grad.clone() for p in network.parameters()])
    grouped = GroupedLeNet(networks)
    grouped.as_products = way == "products"
    scores = [s[: len(batch)] for s, batch in zip(grouped(images), images, strict=True)]
    for network, x, own in zip(networks, images, scores, strict=True):
        assert torch.allclose(network(x), own, atol=1e-5)
    for network in networks:
        network.zero_grad()
    sum(F.cross_entropy(own, y) for own, y in zip(scores, labels, strict=True)).backward()
    for network, gradients in zip(networks, expected, strict=True):
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            assert torch.allclose(parameter.grad, gradient, atol=1e-5)


def files_of(sweep: Path) -> set[str]:
    found = (str(file.relative_to(sweep)) for file in sweep.rglob("*") if file.is_file())
    return {name for name in found if "events.out" not in name}


@pytest.mark.parametrize(
    "more",
    [
        ["data.batch_size=4"],
        # of AdamW the size of a step hardly hangs on the gradient's
        pytest.param(
            ["optimizer=sgd", "optimizer.lr=0.5", "trainer.gradient_clip_val=0.02"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["callbacks=early_stopping", "callbacks.early_stopping.patience=1"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_multirun_in_lockstep_leaves_what_separate_runs_leave(run_script, tree, tmp_path, more):
    for picture in sorted(
        (tree / "FOLDS_AUG/fold2_AUG").rglob("*_1_1.jpg")
    ):  # so that epochs have different lengths
        picture.unlink()
    epochs = 6 if "callbacks=early_stopping" in more else 2
    for name, launcher in (("basic", []), ("lockstep", [LOCKSTEP])):
        done = run_script(
            "train", "-m", "fold=1,2", *launcher, *options(tree, tmp_path / name, epochs), *more
        )
        assert done.code == 0, done.err
    assert files_of(tmp_path / "basic") == files_of(tmp_path / "lockstep")
    for fold in ("fold=1", "fold=2"):
        basic, lockstep = tmp_path / "basic" / fold, tmp_path / "lockstep" / fold
        one, two = (pd.read_csv(run / "predictions.csv") for run in (basic, lockstep))
        columns = [c for c in one if c.startswith("p_")]
        assert (one["image"] == two["image"]).all() and np.allclose(
            one[columns], two[columns], atol=2e-3
        )
        one, two = (pd.read_csv(run / "learning_curves.csv") for run in (basic, lockstep))
        assert one.shape == two.shape and np.allclose(
            one["train/loss"], two["train/loss"], atol=1e-3
        )
        one, two = (
            torch.load(run / "checkpoints/last.ckpt", weights_only=True)
            for run in (basic, lockstep)
        )
        assert one["global_step"] == two["global_step"] and one["epoch"] == two["epoch"]
        loops = [checkpoint["loops"]["fit_loop"] for checkpoint in (one, two)]
        for part in (
            "epoch_progress",
            "epoch_loop.batch_progress",
            "epoch_loop.automatic_optimization.optim_progress",
        ):
            assert loops[0][part] == loops[1][part], part
        assert all(
            value.untyped_storage().nbytes() < 500_000 for value in two["state_dict"].values()
        )


def test_a_failing_fold_costs_no_other_and_goes_on(run_script, tree, tmp_path):
    picture, sweep = break_picture(tree), tmp_path / "s"
    saved = next(tree.rglob("FOLDS/fold1/Test/*/*.jpg")).read_bytes()
    command = ["-m", "fold=2,1", LOCKSTEP, *options(tree, sweep), "callbacks.baselines=null"]
    done = run_script("train", *command)
    (problem,) = summary_of(sweep)["problems"]
    assert (
        done.code == 1
        and problem["fold"] == 2
        and picture.name in problem["cause"]
        and "Traceback" not in done.err
    )
    # the command that is printed goes on by the same launcher
    assert LOCKSTEP in done.err.rpartition("Go on with:")[2]
    assert (sweep / "fold=1/predictions.csv").is_file()
    picture.write_bytes(saved)
    assert run_script("train", *command, "resume=true").code == 0 and summary_of(sweep)["complete"]


def test_what_cannot_be_grouped_is_trained_alone_and_said_so(run_script, tree, tmp_path):
    quick = [*options(tree, tmp_path / "s"), "callbacks.baselines=null"]
    done = run_script("train", "-m", "fold=1,2", LOCKSTEP, *quick, NETWORK)
    assert done.code == 0 and "fold=1 is trained alone: the network is Sequential" in done.out
    assert json.loads((tmp_path / "s/summary/summary.json").read_text())["complete"]
