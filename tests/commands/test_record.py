"""What a run or a search began with, and what happens when it is to go on with something else."""

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from test_sweep import options
from test_train import interrupt_after

from conftest import CLASSES, PATTERN, write_picture
from mpoxcv.commands.record import finished_metrics
from mpoxcv.pictures.cache import digest_files, fingerprint
from mpoxcv.pictures.tree import index_folds
from mpoxcv.training.callbacks import provenance

# what Hydra writes before anybody is asked
UNASKED = ("train.log", ".lock", "multirun.yaml")


def small(root: Path, *more: str) -> list[str]:
    given = [o for o in options(root, Path("unused"), epochs=4) if not o.startswith("hydra.sweep")]
    quick = ["logger=none", "callbacks.baselines=null"]
    return ["fold=1", *given, *quick, "hydra.run.dir=run", *more]


def content(folder: Path) -> dict[Path, bytes]:
    files = [f for f in folder.rglob("*") if f.is_file() and f.name not in UNASKED]
    return {file.relative_to(folder): file.read_bytes() for file in files}


@pytest.fixture
def interrupted(run_script, tree, tmp_path, monkeypatch) -> Path:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert run_script("train", *small(tree)).code != 0
    return tmp_path / "run"


def assert_goes_on(run_script, tree: Path, run: Path) -> str:
    done = run_script("train", *small(tree), "resume=true")
    assert done.code == 0 and len(pd.read_csv(run / "learning_curves.csv")) == 4
    return done.err


def test_a_beginning_is_written_once_without_the_place_where_it_lies(
    run_script, tree, tmp_path, interrupted
):
    written = (interrupted / "beginning.json").read_bytes()
    assert str(tmp_path).encode() not in written
    assert json.loads(written)["data"].keys() == {"train", "val", "test"}
    # where things lie, what looks on, and how fast it goes, may differ
    tree.rename(tmp_path / "moved")
    more = ["data.cache_dir=other", "data.threads=1", "logger=csv", "resume=true"]
    done = run_script("train", *small(tmp_path / "moved"), *more)
    assert done.code == 0, done.err
    assert (interrupted / "beginning.json").read_bytes() == written


def test_other_options_do_not_go_on(run_script, tree, interrupted):
    before = content(interrupted)
    for option, said in (
        ("trainer.max_epochs=8", "trainer.max_epochs: 4 then, 8 now"),
        ("+trainer.max_steps=3", "trainer.max_steps: absent then, 3 now"),
        ("callbacks=early_stopping", "callbacks.early_stopping._target_: absent then"),
        ("scheduler=onecycle", "scheduler._target_: torch.optim.lr_scheduler.CosineAnnealingLR"),
    ):
        done = run_script("train", *small(tree), option, "resume=true")
        assert done.code == 1 and said in done.err and "Traceback" not in done.err
        new, on = (line.strip() for line in done.err.splitlines() if line.startswith("  python "))
        assert option in new and "resume" not in new
        assert option not in on and on.endswith("resume=true")
        assert content(interrupted) == before
    assert_goes_on(run_script, tree, interrupted)


def test_other_defaults_do_not_go_on(run_script, tree, tmp_path, monkeypatch):
    """Composed configs are compared, not what was typed."""
    mine = tmp_path / "mine/optimizer/mine.yaml"
    mine.parent.mkdir(parents=True)
    text = "_target_: torch.optim.SGD\n_partial_: true\nlr: 0.1\nmomentum: ${oc.env:MOMENTUM}\n"
    mine.write_text(text)
    monkeypatch.setenv("MOMENTUM", "0.5")
    given = [f"hydra.searchpath=[file://{tmp_path / 'mine'}]", "optimizer=mine"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert run_script("train", *small(tree), *given).code != 0
    monkeypatch.setenv("MOMENTUM", "0.9")
    mine.write_text(text.replace("0.1", "0.2"))
    done = run_script("train", *small(tree), *given, "resume=true")
    assert done.code == 1 and "optimizer.lr: 0.1 then, 0.2 now" in done.err
    assert "optimizer.momentum: 0.5 then, 0.9 now" in done.err


def test_a_finished_run_stays_as_it_is(run_script, tree, tmp_path):
    assert run_script("train", *small(tree)).code == 0
    before = content(tmp_path / "run")
    done = run_script("train", *small(tree), "trainer.max_epochs=8", "resume=true")
    assert done.code == 1 and "holds a finished run with other options" in done.err
    assert "trainer.max_epochs: 4 then, 8 now" in done.err
    for more in ("resume=true", "ckpt_path=last"):
        done = run_script("train", *small(tree), more, "data.cache_dir=other")
        assert done.code == 0 and "nothing to do" in done.out
    assert content(tmp_path / "run") == before
    write_picture(next((tree / "FOLDS/fold1/Test").rglob("*.jpg")), 999)
    done = run_script("test", "run=run", "trainer=cpu")
    assert done.code == 0 and "  test: 9 pictures" in done.err and "train:" not in done.err


@pytest.mark.slow
def test_a_multirun_goes_on_as_it_began(run_script, tree, tmp_path):
    sweep = tmp_path / "sweep"
    given = [o for o in options(tree, sweep) if not o.startswith("trainer.max_epochs")]
    command = ["-m", "fold=2,1", *given, "trainer.max_epochs=1"]
    assert run_script("train", *command).code == 0
    before = {f: b for f, b in content(sweep).items() if f.parts[0].startswith("fold")}
    for more, said in (
        ("trainer.max_epochs=2", "trainer.max_epochs: 1 then, 2 now"),
        ("fold=1,2,3", "fold: 1, 2 then, 1, 2, 3 now"),
    ):
        done = run_script("train", *command, more, "resume=true")
        assert done.code == 1 and said in done.err and "Traceback" not in done.err
    # in another order, with another cache, and moved
    sweep.rename(tmp_path / "moved")
    again = ["-m", "fold=1,2", *given[:-1], f"hydra.sweep.dir={tmp_path / 'moved'}"]
    done = run_script("train", *again, "trainer.max_epochs=1", "data.cache_dir=c", "resume=true")
    assert done.code == 0 and done.out.count("nothing to do") == 2, done.err
    assert {f: b for f, b in content(tmp_path / "moved").items() if f in before} == before


def test_other_pictures_do_not_go_on(run_script, tree, tmp_path, interrupted):
    checkpoint = (interrupted / "checkpoints/last.ckpt").read_bytes()
    for change in ("gone", "changed", "relabelled"):
        shutil.copytree(tree, tmp_path / "kept")
        picture = next((tree / "FOLDS_AUG/fold1_AUG/Train/Cowpox").iterdir())
        if change == "gone":
            picture.unlink()
        elif change == "changed":
            write_picture(picture, 999)
        else:
            picture.rename(tree / "FOLDS_AUG/fold1_AUG/Train/Measles" / picture.name)
        done = run_script("train", *small(tree), "resume=true")
        assert done.code == 1 and "Traceback" not in done.err
        assert "train: 27 pictures" in done.err and "  test: " not in done.err
        assert f"{26 if change == 'gone' else 27} pictures" in done.err.partition(" then, ")[2]
        assert (interrupted / "checkpoints/last.ckpt").read_bytes() == checkpoint
        shutil.rmtree(tree)
        (tmp_path / "kept").rename(tree)
    assert_goes_on(run_script, tree, interrupted)


def test_other_versions_go_on_and_both_are_recorded(
    run_script, tree, tmp_path, interrupted, monkeypatch
):
    version = provenance.package_version
    other = lambda name: "2.0" if name == "torch" else version(name)  # noqa: E731
    monkeypatch.setattr(provenance, "package_version", other)
    assert f"packages.torch: {version('torch')} then, 2.0 now" in assert_goes_on(
        run_script, tree, interrupted
    )
    record = json.loads((interrupted / "provenance.json").read_text())
    assert record["packages"]["torch"] == "2.0"
    [earlier] = record["earlier"]
    assert earlier["packages"]["torch"] == version("torch")


def test_a_checkpoint_of_another_fold_is_refused(run_script, tree, tmp_path, interrupted):
    """It was trained on pictures that this fold tests on."""
    given = [o for o in small(tree) if not o.startswith(("fold=", "hydra.run.dir"))]
    last = interrupted / "checkpoints/last.ckpt"
    done = run_script("train", "fold=2", *given, f"ckpt_path={last}", "hydra.run.dir=other")
    assert done.code == 1 and "fold: 1 then, 2 now" in done.err
    assert not (tmp_path / "other/beginning.json").exists()


@pytest.mark.slow
def test_a_run_whose_multirun_lost_its_plan_is_not_overwritten(run_script, tree, tmp_path):
    command = ["-m", "fold=1", *options(tree, tmp_path / "sweep")]
    assert run_script("train", *command).code == 0
    shutil.rmtree(tmp_path / "sweep/summary")
    before = content(tmp_path / "sweep")
    done = run_script("train", *command, "data.batch_size=32")
    assert done.code == 1 and "data.batch_size: 64 then, 32 now" in done.err
    assert {f: b for f, b in content(tmp_path / "sweep").items() if f in before} == before


def git(*arguments: str, folder: Path) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=n@x"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_that_refuses_is_not_git_that_is_absent(tmp_path, monkeypatch):
    file = tmp_path / "clone/a/module.py"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr(provenance, "__file__", str(file))
    assert provenance.git_state() is None
    git("init", "-q", folder=tmp_path / "clone")
    # in the environment of somebody's project, and no part of it
    assert provenance.git_state() is None
    git("add", ".", folder=tmp_path / "clone")
    git("commit", "-qm", "x", folder=tmp_path / "clone")
    assert provenance.git_state()["changed"] is False
    file.write_text("x")
    assert provenance.git_state()["changed"] is True
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert "git cannot be run" in provenance.git_state()["unreadable"]
    (tmp_path / "clone/.git/HEAD").write_text("broken")
    assert "fatal" in provenance.git_state()["unreadable"]


def test_fingerprints_are_of_all_pictures_and_of_test(finished):
    run, tree = finished
    table = index_folds(tree, CLASSES, PATTERN, [1])
    recorded = json.loads((run / "provenance.json").read_text())["data"]
    for name, part in (
        ("fingerprint", table),
        ("test_fingerprint", table[table["split"] == "test"]),
    ):
        digests = digest_files(tree, part["path"].tolist())
        assert recorded[name] == fingerprint(part["path"], digests), name


@pytest.mark.parametrize("status", ["fitted", "fitting", "interrupted", "finished"])
def test_a_run_is_finished_when_it_is_scored(status, tmp_path):
    """A fit leaves metrics of its own nowhere; a score that was cut may leave metrics.json."""
    (tmp_path / "provenance.json").write_text(json.dumps({"status": status}))
    (tmp_path / "metrics.json").write_text('{"test/loss": 1.0}')
    expected = {"test/loss": 1.0} if status == "finished" else None
    assert finished_metrics(tmp_path) == expected
