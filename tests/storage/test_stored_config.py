"""Configs of runs that were made before the package had one address are still read."""

import json

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf
from test_sweep import options

from mpoxcv.errors import UserError
from mpoxcv.storage.stored_config import ALLOWED, MOVED_TARGETS, instantiable


def test_every_old_target_is_one_that_may_be_built_now():
    for target in MOVED_TARGETS.values():
        assert callable(get_object(target)) and ALLOWED.fullmatch(target)


def test_an_old_target_that_never_was_is_refused(tmp_path):
    config = OmegaConf.create({"data": {"_target_": "mpoxcv.data.MSLDDataModules"}})
    with pytest.raises(UserError, match="MSLDDataModules"):
        instantiable(config, "data", tmp_path / "config.yaml")


def test_an_old_run_is_scored_again_with_the_same_numbers(run_script, tree, tmp_path):
    flip = "+data.augment={_target_:mpoxcv.RandomFlip}"
    run = tmp_path / "run"
    train = [*options(tree, tmp_path / "unused")[:-1], f"hydra.run.dir={run}"]
    assert run_script("train", "fold=1", "experiment=lenet_original", flip, *train).code == 0
    file = run / ".hydra/config.yaml"
    text = file.read_text()
    for old, new in MOVED_TARGETS.items():
        # no run of one of these options alone names write_synthetic
        assert f"_target_: {new}\n" in text or new.endswith("write_synthetic")
        text = text.replace(f"_target_: {new}\n", f"_target_: {old}\n")
    file.write_text(text)
    done = run_script("test", f"run={run}", f"hydra.run.dir={tmp_path / 'again'}")
    assert done.code == 0, done.err
    before = json.loads((run / "metrics.json").read_text())
    assert json.loads((tmp_path / "again/metrics.json").read_text()) == before
