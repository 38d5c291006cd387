"""Runs with a frozen backbone, by the commands: trained, gone on with, scored, used, reproduced."""

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_sweep import options

from conftest import CLASSES, Finished, write_tree
from mpoxcv import create_model

NAME = "shufflenet_v2_x0_5"
BACKBONE = "network.backbone."


def write_weights(file: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    state = create_model(NAME, 2).backbone.state_dict()
    for name, tensor in state.items():
        # so that pictures differ
        if name.endswith("running_var"):
            tensor.fill_(0.2)
    torch.save(state, file)
    return file


def train(run: Callable[..., Finished], folder: Path, name: str, *given: str) -> Finished:
    always = options(folder / "set", folder, epochs=2)[:-1]
    network = [
        "model=torchvision",
        f"model.name={NAME}",
        "data.image_size=32",
        "model.train=head",
        "data.augment=null",
    ]
    places = [f"data.cache_dir={folder / 'cache'}", f"hydra.run.dir={folder / name}"]
    return run("train", "fold=1", *always, *network, "data.batch_size=8", *places, *given)


@pytest.fixture
def frozen(run_script, tmp_path) -> Path:
    """A folder with a finished run, ``run``, on the weights in ``backbone.pth``."""
    write_tree(tmp_path / "set", folds=1)
    file = write_weights(tmp_path / "backbone.pth", 1)
    done = train(run_script, tmp_path, "run", f"model.weights={file}")
    assert done.code == 0, done.err
    assert "made for other pictures" in done.out
    return tmp_path


def checkpoint_of(run: Path, name: str = "best") -> dict:
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)


def test_it_is_scored_used_and_reproduced(frozen, run_script):
    checkpoint = checkpoint_of(frozen / "run")
    assert set(checkpoint["state_dict"]) == {"network.head.1.weight", "network.head.1.bias"}
    done = run_script("test", "run=run", "trainer=cpu")
    assert done.code == 0, done.err
    assert "\n0 of " in done.out or " 0 of " in done.out

    pictures = frozen / "set/FOLDS/fold1/Test"
    done = run_script("predict", "run=run", f"images={pictures}", "temperature=1")
    assert done.code == 0, done.err
    table = pd.read_csv(frozen / "predictions.csv")
    scored = pd.read_csv(frozen / "run/predictions.csv").query("split == 'test'")
    for one in (table, scored):
        one["name"] = [Path(image).name for image in one["image"]]
    both = table.merge(scored, on="name", suffixes=("", "_scored"))
    assert len(both) == len(table) == 9
    for name in CLASSES:
        assert np.abs(both[f"p_{name}"] - both[f"p_{name}_scored"]).max() < 1e-4
    assert table[f"p_{CLASSES[0]}"].std() > 1e-6

    done = run_script("reproduce", "run=run", "trainer=cpu")
    assert done.code == 0 and "Identical" in done.out, done.err


@pytest.mark.slow
def test_it_goes_on_to_the_same_end(frozen, run_script, monkeypatch):
    from mpoxcv import LesionClassifier

    step, left = LesionClassifier.training_step, [5]

    def interrupted(self, batch, batch_idx):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LesionClassifier, "training_step", interrupted)
        weights = f"model.weights={frozen / 'backbone.pth'}"
        assert train(run_script, frozen, "again", weights).code
    assert checkpoint_of(frozen / "again", "last")["epoch"] == 0
    # the lock of the folder goes with what the traceback holds
    gc.collect()
    done = train(run_script, frozen, "again", weights, "resume=true")
    assert done.code == 0, done.err
    for name in ("predictions.csv", "learning_curves.csv", "metrics.json"):
        assert (frozen / "again" / name).read_bytes() == (frozen / "run" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["test", "predict", "resume", "reproduce"])
def test_other_weights_than_it_was_trained_on_are_refused(verb, frozen, run_script):
    shutil.copy(frozen / "backbone.pth", frozen / "kept.pth")
    write_weights(frozen / "backbone.pth", 2)
    if verb == "resume":
        provenance = frozen / "run/provenance.json"
        content = json.loads(provenance.read_text()) | {"status": "interrupted"}
        provenance.write_text(json.dumps(content))
        weights = f"model.weights={frozen / 'backbone.pth'}"
        done = train(run_script, frozen, "run", weights, "resume=true")
    else:
        given = {"predict": ["images=set/FOLDS/fold1/Test"]}.get(verb, ["trainer=cpu"])
        done = run_script(verb, "run=run", *given)
    assert done.code == 1 and "Traceback" not in done.err
    if verb == "resume":
        assert "holds a run with other weights:\n  backbone.pth: " in done.err
    elif verb != "reproduce":
        assert "other weights of the backbone: SHA-256" in done.err
    (frozen / "backbone.pth").unlink()
    if verb in ("test", "predict"):
        done = run_script(verb, "run=run", *given)
        assert done.code == 1 and "There is no file" in done.err and "Traceback" not in done.err


@pytest.mark.slow
def test_a_random_backbone_is_kept_in_the_checkpoint(run_script, tmp_path):
    write_tree(tmp_path / "set", folds=1)
    done = train(run_script, tmp_path, "run")
    assert done.code == 0, done.err
    state = checkpoint_of(tmp_path / "run")["state_dict"]
    kept = {name.removeprefix(BACKBONE) for name in state if name.startswith(BACKBONE)}
    assert kept == set(create_model(NAME, 2).backbone.state_dict())
    done = run_script("test", "run=run", "trainer=cpu")
    assert done.code == 0 and " 0 of " in f" {done.out}".replace("\n", " "), done.err


@pytest.mark.slow
def test_a_run_begins_with_what_another_learned(run_script, tmp_path):
    """Ali et al. begin so with HAM10000; the classes are others, and the head is new."""
    write_tree(tmp_path / "set", folds=1)
    done = train(run_script, tmp_path, "first", "model.train=all", "trainer.max_epochs=1")
    assert done.code == 0, done.err
    checkpoint = tmp_path / "first/checkpoints/best.ckpt"
    state = checkpoint_of(tmp_path / "first")["state_dict"]
    network = create_model(NAME, 7, weights=str(checkpoint))
    ours = network.backbone.state_dict()
    assert all(torch.equal(tensor, state[f"{BACKBONE}{name}"]) for name, tensor in ours.items())
    classes = "data.classes=[Chickenpox,Cowpox]"
    second = [classes, "data.ignore_classes=[Measles]", f"model.weights={checkpoint}"]
    done = train(run_script, tmp_path, "second", *second, "model.train=all")
    assert done.code == 0, done.err
    # whatever it began with may be gone, where checkpoints hold all
    shutil.rmtree(tmp_path / "first")
    done = run_script("test", "run=second", "trainer=cpu")
    assert done.code == 0, done.err
