"""Finished runs run again."""

import json
import os
import subprocess
import sys

import pytest
from test_sweep import options

from conftest import PROJECT, write_picture, write_tree


def small(root) -> list[str]:
    return [o for o in options(root, "unused", epochs=3) if not o.startswith("hydra.sweep")]


def test_a_run_is_reproduced_with_moved_data_and_another_cache(run_script, tree, tmp_path):
    stopping = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1"]
    stopping += ["callbacks.checkpoint.monitor=val/loss", "callbacks.checkpoint.mode=min"]
    more = [*stopping, "data.batch_size=4", "seed=3", "scheduler=cosine"]
    assert run_script("train", "fold=2", *small(tree), *more, "hydra.run.dir=run").code == 0
    tree.rename(tmp_path / "moved")
    done = run_script(
        "reproduce", "run=run", "data.root=moved", "data.cache_dir=elsewhere", "hydra.run.dir=again"
    )
    assert done.code == 0, done.err
    assert "Identical" in done.out
    for name in ("predictions.csv", "metrics.json", "learning_curves.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_what_differs_is_named(run_script, tree, tmp_path):
    assert run_script("train", "fold=1", *small(tree), "hydra.run.dir=run").code == 0
    write_picture(next((tree / "FOLDS/fold1/Train").rglob("*.jpg")), 999)
    record = json.loads((tmp_path / "run/provenance.json").read_text())
    record["packages"]["torch"] = "2.0"
    (tmp_path / "run/provenance.json").write_text(json.dumps(record))
    done = run_script("reproduce", "run=run", "hydra.run.dir=again")
    assert done.code == 1 and "Traceback" not in done.err
    assert "The results differ" in done.err and "packages.torch, data.fingerprint" in done.err


def test_only_finished_runs_are_run_again(run_script, tmp_path):
    (tmp_path / "run/.hydra").mkdir(parents=True)
    done = run_script("reproduce", "run=run")
    assert done.code == 1 and "not the folder of a finished run" in done.err


@pytest.mark.slow
def test_a_run_of_another_clone_is_reproduced_to_the_bit(tmp_path):
    tree = write_tree(tmp_path / "set", pictures=6, aug=4)
    for name in ("one", "two"):
        subprocess.run(["git", "clone", "-q", PROJECT, tmp_path / name], check=True)
    calls = (
        ("one", "train", ["fold=1", *small(tree), "hydra.run.dir=run"]),
        ("two", "reproduce", [f"run={tmp_path}/one/run"]),
    )
    for name, script, arguments in calls:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / name / "src")}
        command = [sys.executable, f"scripts/{script}.py", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path / name, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert "Identical" in done.stdout and (tmp_path / "two/data/cache").is_dir()
