"""Paths as people type them, and commands as we print them."""

import os
import re
import shlex
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from conftest import CLASSES, PATTERN, PROJECT, write_picture, write_tree
from mpoxcv.command_line import as_typed, command_for, leaving_out, setting, shell

NAMES = [
    "pics (1)", "müller", "猴痘", "John's pics", "Skin & Lesion", "a,b", "{x}", "null", "1e3", "[x]", " leading",
    "trailing ", "Colab Notebooks/run/fold=1", "IMG_1, copy.jpg", "a=b", "back\\slash", "at the end\\", 'say "x"',
    "true", "12", "1.5", "a b", "x#y", "50%", "a:b", "$HOME", "a;b", "`x`", "*", "what?", "!x", "^x", "-x", "+x",
    "~x", "x~", "@x", "a|b", "<x>", "choice(a,b)", "'quoted'", '"quoted"', "\\'", "nan", "...", "${x}", "(", "]",
    unicodedata.normalize("NFD", "Röteln"), "a.b_c-d",
]  # fmt: skip
DATA = [f"data.classes=[{','.join(CLASSES)}]", f"data.name_pattern={PATTERN}"]
QUICK = [
    "trainer=cpu", "trainer.max_epochs=1", "logger=none", "callbacks.progress=null", "callbacks.figures=null",
    "callbacks.samples=null", "callbacks.baselines=null",
]  # fmt: skip


def nothing() -> dict:
    raise AssertionError("not asked for")


@pytest.fixture(scope="module")
def two_folds(tmp_path_factory) -> Path:
    return write_tree(tmp_path_factory.mktemp("two_folds") / "set")


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_taken_as_it_is_typed(name, two_folds, run_script, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).symlink_to(two_folds)
    # the last is not there yet
    options = [f"data.root={name}", f"data.cache_dir={name}_cache", f"report={name}_1.html"]
    if "${" in name:
        options[1:] = []
    done = run_script("get_data", "folds=2", *DATA, *options)
    assert done.code == 0, done.err
    if len(options) > 1:
        assert (tmp_path / f"{name}_cache").is_dir() and (tmp_path / f"{name}_1.html").is_file()
