"""Multiruns: their summary, what failing, killed and interrupted folds cost, and how they go on."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from conftest import CLASSES, PATTERN, PROJECT, write_picture, write_tree
from mpoxcv.commands import sweep as sweep_module

NO_BASELINES = "callbacks.baselines=null"
TRAIN = [sys.executable, str(PROJECT / "scripts" / "train.py")]


def options(root: Path, sweep: Path, epochs: int = 1) -> list[str]:
    given = [
        f"data.root={root}",
        f"data.classes=[{','.join(CLASSES)}]",
        f"data.name_pattern='{PATTERN}'",
        "trainer=cpu",
    ]
    given += [
        f"trainer.max_epochs={epochs}",
        "callbacks.figures=null",
        "callbacks.samples=null",
        "callbacks.progress=null",
    ]
    return [*given, "+trainer.enable_progress_bar=false", f"hydra.sweep.dir={sweep}"]


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary" / "summary.json").read_text())


def break_picture(root: Path) -> Path:
    picture = next((root / "FOLDS/fold2/Test").rglob("*.jpg"))
    picture.write_bytes(b"broken")
    return picture


def test_a_multirun_ends_with_its_summary(run_script, tree, tmp_path):
    sweep = tmp_path / "sweep"
    done = run_script("train", "-m", "fold=1,2", *options(tree, sweep))
    assert done.code == 0, done.err
    assert sorted(p.name for p in sweep.iterdir() if p.is_dir()) == ["fold=1", "fold=2", "summary"]
    found = summary_of(sweep)
    assert found["complete"] and [r["fold"] for r in found["groups"][0]["runs"]] == [1, 2]
    ledger = pd.read_csv(sweep / "summary/predictions.csv")
    assert len(ledger) == 18 and set(ledger["run"]) == {"fold=1", "fold=2"}
    assert set(found["groups"][0]["baselines"]) == {"majority class", "colours alone"}
    # one TensorBoard run a fold
    shown = {file.parent for file in sweep.rglob("events.out.tfevents.*")}
    assert shown == {sweep / name for name in ("fold=1", "fold=2")}
    assert list((sweep / "summary/figures").rglob("*.png"))
    assert "balanced accuracy" in done.out and "report.html" in done.out
    # the same from runs made one by one, without the multirun's own plan
    (sweep / "summary/expected.json").unlink()
    again = run_script("summarize", f"runs={sweep}", "folds=2", f"output={tmp_path / 'again'}")
    assert again.code == 0, again.err
    one, two = found, json.loads((tmp_path / "again/summary.json").read_text())
    assert one["groups"] == two["groups"] and two["complete"]


def test_a_glob_is_a_sweep_and_a_part_of_test_is_compared(run_script, tree, tmp_path):
    part = ["data.eval_batch_size=2", "+trainer.limit_test_batches=2"]
    done = run_script(
        "train", "-m", "fold=1", "scheduler=glob(con*)", *part, *options(tree, tmp_path / "sweep")
    )
    assert done.code == 0, done.err
    found = summary_of(tmp_path / "sweep")
    assert found["complete"] and found["expected"] == 1 and found["groups"][0]["pictures"] == 4
    assert set(found["groups"][0]["baselines"]) == {"majority class", "colours alone"}


def test_a_full_disk_at_the_end_is_one_clear_message(run_script, tree, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "figure.png")

    monkeypatch.setattr(sweep_module, "write_figures", fail)
    given = [*options(tree, tmp_path / "sweep"), NO_BASELINES]
    done = run_script("train", "-m", "fold=1", *given)
    assert done.code == 1 and "No space left" in done.err and "Traceback" not in done.err
    assert summary_of(tmp_path / "sweep")["complete"]


def test_summaries_that_take_long_are_not_written_after_every_job(
    run_script, tree, tmp_path, monkeypatch
):
    monkeypatch.setattr(sweep_module, "QUICK", 0)
    monkeypatch.setattr(sweep_module, "SHARE", 1e-6)
    write, written = sweep_module.write_summary_of, []
    monkeypatch.setattr(
        sweep_module,
        "write_summary_of",
        lambda *given: written.append(write(*given)) or written[-1],
    )
    given = [*options(tree, tmp_path / "sweep"), NO_BASELINES]
    done = run_script("train", "-m", "fold=1,2", *given)
    assert done.code == 0, done.err
    assert [summary.content["finished"] for summary in written] == [
        1,
        2,
    ]  # after the first job, and at the end
    assert summary_of(tmp_path / "sweep")["complete"]


def test_a_failing_fold_costs_no_other_and_the_sweep_goes_on(run_script, tree, tmp_path):
    sweep = tmp_path / "sweep"
    picture = break_picture(tree)
    command = ["-m", "fold=2,1", *options(tree, sweep), NO_BASELINES]
    done = run_script("train", *command)
    assert done.code == 1 and "Traceback" not in done.err
    (problem,) = summary_of(sweep)["problems"]
    assert (
        problem["fold"] == 2 and problem["status"] == "failed" and picture.name in problem["cause"]
    )
    assert picture.name in (sweep / "summary/report.html").read_text() and picture.name in done.out
    assert "Traceback" in (sweep / "fold=2/error.log").read_text()
    assert f"hydra.sweep.dir={sweep} resume=true" in done.err
    first = (sweep / "fold=1/predictions.csv").stat().st_mtime_ns

    refused = run_script("train", *command)
    assert refused.code != 0 and "holds a multirun already" in refused.err
    refused = run_script("train", *command, "seed=7", "resume=true")
    assert refused.code != 0 and "other options" in refused.err

    write_picture(picture, 5)
    done = run_script("train", *command, "resume=true")
    assert done.code == 0, done.err
    assert (
        summary_of(sweep)["complete"]
        and (sweep / "fold=1/predictions.csv").stat().st_mtime_ns == first
    )


def test_honest_and_leaking_folds_side_by_side(run_script, tree, tmp_path):
    honest, leaking = tmp_path / "honest", tmp_path / "leaking"
    given = [*options(tree, honest), NO_BASELINES]
    assert run_script("train", "-m", "fold=1,2", *given).code == 0
    done = run_script("train", "fold=leaking", *given, f"hydra.run.dir={leaking}")
    assert done.code == 0 and "TRAINED ON" in done.out
    assert "TRAINED ON" in pd.read_csv(leaking / "predictions.csv")["data"].iloc[0]
    done = run_script(
        "summarize", f"runs=[{honest},{leaking}]", "folds=2", f"output={tmp_path / 'both'}"
    )
    assert done.code == 0 and "lenet, fold=leaking LEAKS" in done.out
    found = json.loads((tmp_path / "both/summary.json").read_text())
    assert [g["protocol"] for g in found["groups"]] == ["published", "leaking"] and found[
        "comparisons"
    ] == []


@pytest.mark.parametrize("runs", ["nowhere", "empty"])
def test_no_runs_is_one_clear_message(run_script, tmp_path, runs):
    (tmp_path / "empty").mkdir()
    done = run_script("summarize", f"runs={runs}")
    assert done.code == 1 and f"{runs}" in done.err and "Traceback" not in done.err


def start(command: list[str], folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*TRAIN, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    tree = write_tree(folder / "set", pictures=12, aug=8)
    process = start(["-m", "fold=1,2", *options(tree, folder / "basic", epochs=60)], folder)
    assert process.wait(300) == 0, process.stderr.read()
    return folder, tree


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sweep_goes_on_to_the_same_numbers(undisturbed, kill):
    folder, tree = undisturbed
    sweep = folder / kill.name
    command = ["-m", "fold=1,2", *options(tree, sweep, epochs=60)]
    process = start(command, folder)
    while not (sweep / "fold=2/checkpoints/last.ckpt").is_file():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(kill)
    err = process.communicate(timeout=120)[1].decode()
    assert process.returncode != 0
    assert not (sweep / "fold=2/metrics.json").exists() and (sweep / "fold=1/metrics.json").exists()
    if kill == signal.SIGINT:
        assert "resume=true" in err and "Traceback" not in err
        (problem,) = summary_of(sweep)["problems"]
        assert problem["fold"] == 2 and problem["status"] == "interrupted"
    assert start([*command, "resume=true"], folder).wait(300) == 0
    for name in ("predictions.csv", "tables/results.csv"):
        assert (sweep / "summary" / name).read_bytes() == (
            folder / "basic/summary" / name
        ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_give_the_same_summary_to_the_last_digit(undisturbed, launcher):
    folder, tree = undisturbed
    sweep = folder / launcher
    process = start(
        ["-m", "fold=1,2", f"hydra/launcher={launcher}", *options(tree, sweep, epochs=60)], folder
    )
    assert process.wait(300) == 0, process.stderr.read()
    for name in ("predictions.csv", "tables/results.csv", "tables/per_class.csv"):
        assert (sweep / "summary" / name).read_bytes() == (
            folder / "basic/summary" / name
        ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_name_a_failing_fold(undisturbed, launcher, tmp_path):
    tree = write_tree(tmp_path / "set")
    picture = break_picture(tree)
    process = start(
        ["-m", "fold=1,2", f"hydra/launcher={launcher}", *options(tree, tmp_path / "s")], tmp_path
    )
    process.communicate(timeout=300)
    (problem,) = summary_of(tmp_path / "s")["problems"]
    assert process.returncode == 1 and problem["fold"] == 2 and picture.name in problem["cause"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_job_that_is_killed_costs_no_finished_one(undisturbed, launcher):
    folder, tree = undisturbed
    sweep = folder / f"killed_{launcher}"
    two = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    command = [
        "-m",
        "fold=2,1",
        f"hydra/launcher={launcher}",
        *two,
        *options(tree, sweep, epochs=60),
    ]
    process = start(command, folder)
    while not (sweep / "fold=2/checkpoints/last.ckpt").is_file():
        assert process.poll() is None
        time.sleep(0.02)
    job = json.loads((sweep / "fold=2/job.json").read_text())
    os.kill(job["pid"], signal.SIGKILL)
    err = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 1 and f"hydra/launcher={launcher}" in err and "resume=true" in err
    causes = {problem["fold"]: problem["cause"] for problem in summary_of(sweep)["problems"]}
    assert "killed" in causes[2] and (
        launcher == "joblib" or len(causes) == 1
    )  # joblib ends all jobs at work
    assert start([*command, "resume=true"], folder).wait(300) == 0
    for name in ("predictions.csv", "tables/results.csv"):
        assert (sweep / "summary" / name).read_bytes() == (
            folder / "basic/summary" / name
        ).read_bytes()


@pytest.mark.slow
def test_folds_side_by_side_see_a_gpu_each(tmp_path, monkeypatch):
    tree = write_tree(tmp_path / "set", folds=4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    given = [
        "hydra/launcher=joblib_gpus",
        "hydra.launcher.n_jobs=2",
        *options(tree, tmp_path / "s", epochs=20),
    ]
    process = start(["-m", "fold=1,2,3,4", *given], tmp_path)
    assert process.wait(300) == 0, process.stderr.read().decode()
    found = [
        json.loads(file.read_text()) for file in (tmp_path / "s").glob("fold=*/provenance.json")
    ]
    assert {run["accelerator"]["visible"] for run in found} == {"5", "7"}


@pytest.mark.slow
def test_a_multirun_of_two_processes_a_fold(undisturbed, tmp_path):
    _, tree = undisturbed
    for name, ddp in (
        ("one", []),
        ("two", ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]),
    ):
        given = [
            o for o in options(tree, tmp_path / name, epochs=2) if not (ddp and o == "trainer=cpu")
        ]
        process = start(["-m", "fold=1,2", *given, *ddp], tmp_path)
        assert process.wait(300) == 0, process.stderr.read().decode()
    one, two = (pd.read_csv(tmp_path / name / "summary/predictions.csv") for name in ("one", "two"))
    assert (one["image"] == two["image"]).all() and len(one) == 72
    columns = [c for c in one if c.startswith("p_")]
    assert (one[columns] - two[columns]).abs().max().max() < 1e-4
    assert not (tmp_path / "logs").exists()


def test_options_with_interpolations_stay_as_they_are_typed(run_script, tree, tmp_path):
    own = ["name=own_${seed}", "callbacks.checkpoint.dirpath=${output_dir}/kept"]
    command = ["-m", "fold=1", *options(tree, tmp_path / "s"), NO_BASELINES, *own]
    assert run_script("train", *command).code == 0
    assert json.loads((tmp_path / "s/summary/expected.json").read_text())["arguments"][-2:] == own
    assert (tmp_path / "s/fold=1/kept/best.ckpt").is_file()
    done = run_script("train", *command, "resume=true")
    assert done.code == 0 and "fold=1 is finished" in done.out
