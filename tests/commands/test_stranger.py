"""A folder that a stranger sent, through whole commands: nothing of it runs, writes, hangs or lies.

Each test stands for a way that was open once; the matrix of all keys is in test_stranger_matrix.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_hostile import GOOD, assert_refused, change, packed, saved
from test_record import small
from test_sweep import options
from test_train import interrupt_after

from conftest import QUICK, write_tree
from mpoxcv.errors import UserError
from mpoxcv.evaluation.summary import summarise
from mpoxcv.explain import blaming
from mpoxcv.models import kernels
from mpoxcv.pictures import pixels
from mpoxcv.pictures.images import decode
from mpoxcv.storage.checkpoint_io import AtomicCheckpointIO, read_tensors
from mpoxcv.storage.stored_config import instantiable
from mpoxcv.training.classifier import require_sound_state

ESCAPE = "\x1b]0;evil\x07\x1b[2J"


@pytest.fixture
def run(finished, tmp_path):
    kept = shutil.ignore_patterns("events*", "figures", "*.log")
    return shutil.copytree(finished[0], tmp_path / "run", ignore=kept)


class Hangs(BaseException):
    """Which nothing catches."""


@pytest.fixture(autouse=True)
def no_hang():
    """End a test that waits for a pipe, or reads without an end."""

    def late(number, frame):
        raise Hangs

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(int(os.environ.get("MPOXCV_PATIENCE", "100")))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def victim(tmp_path):
    """A file of the user's, which no command was told of."""
    file = tmp_path / "home/.bashrc"
    file.parent.mkdir()
    file.write_text("export A=1\n")
    yield file
    assert file.read_text() == "export A=1\n" and [*file.parent.iterdir()] == [file]


def record(folder: Path, name: str, **fields: object) -> None:
    content = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
    (folder / name).write_text(json.dumps(content | fields))


def resumed(root: Path, folder: Path) -> list[str]:
    """The options that ``finished`` was trained with."""
    given = [o for o in options(root, Path("unused"), 2) if "sweep" not in o]
    given = [o for o in given if "callbacks" not in o] + QUICK
    return [*given, f"hydra.run.dir={folder}", "resume=true"]


# rows 2 and 3: links


@pytest.mark.parametrize("link", [
    "summary/.predictions.csv.partial", "summary/.report.html.partial", "summary/predictions.csv",
    "summary/report.md", "summary/tables/results.csv",
])  # fmt: skip
@pytest.mark.parametrize("output", [False, True])
def test_summarize_writes_through_no_link_to_a_file(run, run_script, victim, link, output):
    (run / link).parent.mkdir(parents=True, exist_ok=True)
    (run / link).symlink_to(victim)
    more = [f"output={run}/summary"] if output else []
    done = run_script("summarize", f"runs={run}", "folds=1", "replicates=5", *more)
    assert_refused(done, "Nothing is written through", link)


@pytest.mark.parametrize("link", ["summary", "summary/tables", "summary/figures", "summary/lenet"])
def test_summarize_writes_and_deletes_through_no_link_to_a_folder(run, run_script, victim, link):
    events = victim.with_name("events.out.tfevents.1")
    events.write_text("x")
    (run / link).parent.mkdir(parents=True, exist_ok=True)
    (run / link).symlink_to(victim.parent)
    done = run_script("summarize", f"runs={run}", "folds=1", "replicates=5")
    assert_refused(done, "Nothing is written through", link)
    events.unlink()


@pytest.mark.parametrize("link", [
    ".job.json.partial", "job.json", ".lock", "train.log", "hparams.yaml", "metrics.json",
    ".hydra/.config.yaml.partial", "checkpoints/.last.ckpt.partial", "checkpoints/previous.ckpt",
])  # fmt: skip
def test_a_run_goes_on_through_no_link(run, run_script, finished, victim, link):
    record(run, "provenance.json", status="interrupted")
    (run / link).unlink(missing_ok=True)
    (run / link).symlink_to(victim)
    done = run_script("train", *resumed(finished[1], run))
    assert_refused(done, "Nothing is written through", link)


def test_a_multirun_goes_on_through_no_link(run_script, tree, tmp_path, victim):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "fold=1").symlink_to(victim.parent)
    done = run_script("train", "-m", "fold=1", *options(tree, sweep))
    assert_refused(done, "Nothing is written through", "fold=1")


def test_links_within_a_folder_and_to_it_are_the_users_own(run, run_script, tmp_path):
    (run / "latest").symlink_to("checkpoints")
    (tmp_path / "named").symlink_to(run)
    done = run_script("summarize", "runs=named", "folds=1", "replicates=5")
    assert done.code == 0 and (run / "summary/report.html").is_file(), done.err


def test_a_pipe_in_a_folder_does_not_let_a_run_wait(run, run_script, finished):
    record(run, "provenance.json", status="interrupted")
    (run / "train.log").unlink(missing_ok=True)
    os.mkfifo(run / "train.log")
    assert_refused(run_script("train", *resumed(finished[1], run)), "train.log", "no file")


# row 4: what a checkpoint names


def test_a_checkpoint_that_goes_on_has_no_other_file_removed_or_scored(
    run_script, tree, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert run_script("train", *small(tree)).code != 0
    folder, thesis = tmp_path / "run", tmp_path / "thesis.ckpt"
    thesis.write_bytes(b"mine")
    last = folder / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    for state in content["callbacks"].values():
        if "best_model_path" in state:
            far = f"{folder}/checkpoints/../../thesis.ckpt"
            state |= {"best_model_path": far, "kth_best_model_path": far, "last_model_path": far}
            state |= {"best_k_models": {far: torch.tensor(-1.0)}, "dirpath": str(last.parent)}
            state |= {"kth_value": torch.tensor(-1.0), "best_model_score": torch.tensor(-1.0)}
    last.write_bytes(saved(content))
    done = run_script("train", *small(tree), "resume=true")
    assert done.code == 0 and thesis.read_bytes() == b"mine", done.err
    kept = AtomicCheckpointIO().load_checkpoint(last)["callbacks"].values()
    assert not [state for state in kept if "thesis" in str(state)]


# row 5: where a stored config says


@pytest.mark.parametrize(("changes", "said"), [
    ({"data.cache_dir": "home/cache"}, None),
    ({"data.split_file": "home/folds.csv", "data.protocol": "grouped"}, "are not there"),
    ({"data.protocol": "grouped", "data.root": "home/set"}, "no data in"),
    ({"data.root": "home/set", "data.generator": {"_target_": "mpoxcv.write_synthetic",
      "_partial_": True, "copies": 0, "folds": [1]}}, "no data in"),
    ({"data.name": {"_target_": "mpoxcv.write_synthetic", "root": "home/set", "folds": [1]}},
     "write_synthetic"),
    ({"data.makes_folds": True, "data.split_file": "home/folds.csv", "data.protocol": "grouped"},
     "are not there"),
])  # fmt: skip
@pytest.mark.parametrize("script", ["test", "reproduce", "predict"])
def test_nothing_is_written_where_a_stored_config_says(
    run, run_script, finished, victim, changes, said, script
):
    for key, value in changes.items():
        change(run, key, value)
    more = [f"images={finished[1]}/FOLDS/fold1/Test", "held_out=true"] * (script == "predict")
    done = run_script(script, f"run={run}", *(more or ["trainer=cpu"]))
    if said and (script != "predict" or "write_synthetic" in said):
        assert_refused(done, said)
    assert "Traceback" not in done.err


# row 6: what is resolved twice, or fetched


@pytest.mark.parametrize("option", [
    {"pretrained": True}, {"pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/x.pth"}},
    {"checkpoint_path": "x.pth"}, {"cache_dir": "home"}, {"pretrained_cfg": {"file": "x"}},
])  # fmt: skip
def test_a_networks_options_fetch_no_weights(run, run_script, option):
    network = {"_target_": "mpoxcv.create_model", "name": "resnet18", "num_classes": 3} | option
    change(run, "classifier.network", network)
    done = run_script("predict", f"run={run}", "images=.")
    assert_refused(done, next(iter(option)), "model.weights")


# row 7: what a terminal would obey


def test_no_command_prints_what_steers_a_terminal(run, run_script, finished, tmp_path):
    sent = tmp_path / f"sent{ESCAPE}"
    run.rename(sent)
    change(sent, "data.name", ESCAPE)
    for name in ("provenance.json", "beginning.json", "job.json"):
        record(sent, name, **{ESCAPE: ESCAPE})
    content = json.loads((sent / "provenance.json").read_text())
    content["data"] |= {"name": ESCAPE, "fingerprint": ESCAPE, "citation": ESCAPE}
    content |= {"git": {"commit": ESCAPE}, "command": ESCAPE, "platform": ESCAPE}
    (sent / "provenance.json").write_text(json.dumps(content))
    began = json.loads((sent / "beginning.json").read_text())
    (sent / "beginning.json").write_text(json.dumps(began | {"versions": {ESCAPE: ESCAPE}}))
    pictures = f"images={finished[1]}/FOLDS/fold1/Test"
    for script, more in (
        ("test", ["trainer=cpu"]), ("predict", [pictures]), ("reproduce", ["trainer=cpu"]),
    ):  # fmt: skip
        done = run_script(script, f"run={tmp_path}/{sent.name}", *more)
        assert not re.search("[\x07\x1b]", done.out + done.err), (script, done.out, done.err)
    record(sent, "provenance.json", status=5)
    done = run_script("summarize", f"runs={tmp_path}", f"output={tmp_path}/out")
    assert not re.search("[\x07\x1b]", done.out + done.err) and "is damaged" in done.out


# row 8: checkpoints that torch reads otherwise than the check


@pytest.mark.parametrize("behind", [b"", b"x" * 14, b"x" * 70_000, b"PK\5\6" + b"\0" * 18])
def test_a_packed_checkpoint_is_refused_whatever_lies_behind_it(tmp_path, behind):
    file = tmp_path / "a.ckpt"
    file.write_bytes(packed(saved({"state_dict": {"x": torch.zeros(10**6)}})) + behind)
    with pytest.raises(UserError, match="cannot be read"):
        AtomicCheckpointIO().load_checkpoint(file)
    file.write_bytes(saved(GOOD))
    assert AtomicCheckpointIO().load_checkpoint(file)["state_dict"].keys() == {"x"}


@pytest.mark.parametrize("fields", [
    {"history": [5]}, {"history": [{"epoch": "x"}]}, {"steps": [1]}, {"callbacks": {"a": 5}},
    {"state_dict": {"x": 1}}, {"loops": 3}, {"epoch": "x"}, {"hyper_parameters": {"classes": "x"}},
])  # fmt: skip
def test_a_checkpoint_with_fields_of_other_kinds_is_refused(tmp_path, fields):
    (tmp_path / "a.ckpt").write_bytes(saved(GOOD | fields))
    with pytest.raises(UserError, match=f"has another {next(iter(fields))}"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("missing", ["loops", "callbacks", "optimizer_states", "lr_schedulers"])
def test_a_checkpoint_without_what_a_run_goes_on_with(run, run_script, finished, missing):
    last = run / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    content[missing] = type(content[missing])()
    last.write_bytes(saved(content))
    record(run, "provenance.json", status="interrupted")
    done = run_script("train", *resumed(finished[1], run))
    assert "Traceback" not in done.err and done.err.count("error: ") == done.code, done.err


# row 9: advice


def shell_runs(command: str, folder: Path) -> list[str]:
    """Return what a shell makes of a printed command's arguments."""
    line = command.replace("python", f"{shlex.quote(sys.executable)} -c 'import sys,json;"
                           "print(json.dumps(sys.argv[1:]))'", 1)  # fmt: skip
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "name", ["$(touch x).jpg", "`touch x`.jpg", "a'$(touch x)'.jpg", '";touch x;".jpg']
)
def test_the_way_to_leave_a_bad_picture_out_is_not_run_by_a_shell(
    run_script, tmp_path, name, finished
):
    tree = write_tree(tmp_path / "set", folds=1)
    (tree / "FOLDS/fold1/Train/Cowpox" / name).write_bytes(b"\xff\xd8\xff bad")
    given = [o for o in options(tree, tmp_path) if "sweep" not in o and "pattern" not in o]
    given.append("data.name_pattern='(?P<original>(?P<patient>.+))'")
    given.append("data.train_images=original")
    done = run_script("train", "fold=1", *given)
    (option,) = re.findall(r"\(paths; \* stands for anything\): (.*)", done.err)
    (argument,) = shell_runs(f"python {option}", tmp_path)
    assert not (tmp_path / "x").exists() and argument.startswith("data.exclude=[")
    done = run_script("train", "fold=1", *given, argument)
    assert done.code == 0, done.err


HOSTILE_OPTIONS = [
    "+callbacks.progress.x={_target_: os.system, _args_: [touch x]}", "--config-dir=/tmp/evil",
    "hydra.searchpath=[file:///tmp/evil]", "model._target_=evil.Net", "data.cache_dir=/home/me/.ssh",
    "callbacks.checkpoint.dirpath=/home/me", "experiment=../../../tmp/evil", "-cp=/tmp/evil",
    "+trainer.x=${oc.env:HOME}", "hydra/launcher=../../evil", "hydra.launcher.setup=[touch x]",
    "hydra.launcher._target_=os.system", "ckpt_path=/tmp/evil.ckpt", "--multirun", "x;touch x",
    "output_dir=elsewhere", "logger.mlflow.tracking_uri=http://evil",
]  # fmt: skip


def test_a_printed_command_repeats_no_code_of_a_stored_one(run, run_script, finished, tmp_path):
    good = ["fold=1", "data.root=/data/set", "scheduler=cosine", "++optimizer.lr=0.1"]
    (run / ".hydra/overrides.yaml").write_text(json.dumps([*good, *HOSTILE_OPTIONS]))
    done = run_script("train", *resumed(finished[1], run)[:-1])
    (command,) = [line.strip() for line in done.err.splitlines() if line.startswith("  python")]
    given = shell_runs(command, tmp_path)
    assert given[1:] == [*good, f"hydra.run.dir={run}", "resume=true"]
    assert f"without {len(HOSTILE_OPTIONS)} stored option(s)" in command
    sweep = tmp_path / "sweep"
    (sweep / "summary").mkdir(parents=True)
    plan = {"arguments": good, "launcher": HOSTILE_OPTIONS, "jobs": [], "options": {}}
    (sweep / "summary/expected.json").write_text(json.dumps(plan))
    done = run_script("train", "-m", "fold=1", *options(finished[1], sweep))
    (command,) = [line.strip() for line in done.err.splitlines() if line.startswith("  python")]
    assert shell_runs(command, tmp_path)[1:] == [
        "-m",
        *good,
        f"hydra.sweep.dir={sweep}",
        "resume=true",
    ]


def test_a_printed_command_repeats_what_was_typed_just_now(run_script, tree, tmp_path):
    own = ["data.cache_dir=cache", "+callbacks.x={_target_: lightning.pytorch.callbacks.Timer}"]
    given = [o for o in options(tree, tmp_path) if "sweep" not in o] + own
    given = ["fold=1", *given, "trainer.max_epochs=1", "hydra.run.dir=run"]
    assert run_script("train", *given).code == 0
    done = run_script("train", *given)
    assert "cache_dir=cache" in done.err and "callbacks.Timer" in done.err
    assert "stored option(s)" not in done.err


# row 10: what never ends


@pytest.mark.parametrize("name", [
    "provenance.json", ".hydra/config.yaml", ".hydra/overrides.yaml", "predictions.csv",
    "metrics.json", "job.json", "baselines.csv", "checkpoints/best.ckpt",
])  # fmt: skip
@pytest.mark.parametrize("kind", ["pipe", "a link to one", "/dev/zero", "folder"])
def test_files_that_never_end_are_refused(run, run_script, finished, tmp_path, name, kind):
    (run / name).unlink(missing_ok=True)
    if kind == "folder":
        (run / name).mkdir()
    elif kind == "/dev/zero":
        (run / name).symlink_to(kind)
    else:
        pipe = run / name if kind == "pipe" else tmp_path / "pipe"
        os.mkfifo(pipe)
        if pipe != run / name:
            (run / name).symlink_to(pipe)
    pictures = f"images={finished[1]}/FOLDS/fold1/Test/Cowpox"
    for script, *given in (
        ("summarize", f"runs={run}", "folds=1", "replicates=5", "output=out"),
        ("predict", f"run={run}", pictures, "output=out.csv", "overwrite=true"),
    ):
        done = run_script(script, *given)
        assert "Traceback" not in done.err and done.err.count("error: ") == done.code, done.err


def test_pictures_that_never_end_are_named(run_script, run, tmp_path):
    (tmp_path / "new").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "new/a.jpg").symlink_to("/dev/zero")
    (tmp_path / "new/b.jpg").symlink_to(tmp_path / "pipe")
    (tmp_path / "new/c").symlink_to("/dev/zero")
    done = run_script("predict", f"run={run}", "images=new")
    assert_refused(done, "a.jpg cannot be read: it is no regular file", "b.jpg")


def test_the_whole_disk_is_no_data_set(run, run_script):
    change(run, "data.root", "/")
    done = run_script("test", f"run={run}", "trainer=cpu")
    assert done.code == 1 and "Traceback" not in done.err, done.err
    done = run_script("summarize", f"runs={run}", "folds=1", "replicates=5")
    assert done.code == 0, done.err


# row 11: the user's own pictures


def test_a_report_shows_no_pictures_of_a_folder_that_a_stranger_names(run, run_script, finished):
    table = pd.read_csv(run / "predictions.csv", dtype=str)
    columns = [c for c in table if c.startswith("p_")]
    wrong = {
        name: columns[(columns.index(f"p_{name}") + 1) % 3] for name in table["label"].unique()
    }
    table["prediction"] = [wrong[name].removeprefix("p_") for name in table["label"]]
    for i, name in enumerate(table["label"]):
        table.loc[i, columns] = ["1" if c == wrong[name] else "0" for c in columns]
    table.to_csv(run / "predictions.csv", index=False)
    given = ["summarize", f"runs={run}", "folds=1", "replicates=5"]
    assert run_script(*given).code == 0
    page = run / "summary/report.html"
    assert "image/jpeg" not in page.read_text()
    assert run_script(*given, f"data.root={finished[1]}").code == 0
    assert "image/jpeg" in page.read_text()


# row 12: one bad record


def test_a_bad_record_is_named_and_costs_no_other(run, run_script, finished, tmp_path):
    for name, fields in {
        "audit": {"data": {"audit": [5]}},
        "leaks": {"data": {"audit": {"leaks": 5}}},
        "seconds": {"durations": {"total_s": 10**400}},
        "counts": {"data": {"counts": {"a": 5}}},
    }.items():
        copy = tmp_path / "runs" / name
        copy.parent.mkdir(exist_ok=True)
        subprocess.run(["cp", "-r", run, copy], check=True)
        record(copy, "provenance.json", **fields)
    (tmp_path / "runs/seed").mkdir()
    for name, key, value in (
        ("seed", "seed", "9" * 4000), ("excluded", "data.exclude", "5"), ("train", "model.train", "[]"),
    ):  # fmt: skip
        copy = tmp_path / "runs" / name
        subprocess.run(["cp", "-rT", run, copy], check=True)
        change(copy, key, 0)
        file = copy / ".hydra/config.yaml"
        last = key.rpartition(".")[2]
        file.write_text(re.sub(rf"(\b{last}): 0\b", rf"\1: {value}", file.read_text()))
    change(
        subprocess.run(["cp", "-rT", run, tmp_path / "runs/fold"]) and tmp_path / "runs/fold",
        "fold",
        2,
    )
    subprocess.run(["cp", "-r", run, tmp_path / "runs/good"], check=True)
    done = run_script("summarize", f"runs={tmp_path}/runs", "folds=1", "replicates=5", "output=out")
    assert done.code == 0 and "Traceback" not in done.err, done.err
    content = json.loads((tmp_path / "out/summary.json").read_text())
    assert content["finished"] == 1
    told = done.err + json.dumps(content["problems"])
    for name in ("audit", "leaks", "seconds", "counts", "seed", "excluded", "train", "fold"):
        assert f"runs/{name}" in told, name


@pytest.mark.parametrize("content", [
    "model,x\na,b\n", "\xff", "model,image,patient,data,fold,split,label,prediction,p_Chickenpox\n",
    None, "nan", "double", "text",
])  # fmt: skip
def test_bad_baselines_are_left_out(run, content):
    table = pd.read_csv(run / "predictions.csv", dtype=str)
    table.insert(0, "model", "majority class")
    if content == "nan":
        table["p_Cowpox"] = "nan"
    elif content == "text":
        table["p_Cowpox"] = "high"
    elif content == "double":
        table = pd.concat([table, table])
    if content in ("nan", "text", "double", None):
        table.to_csv(run / "baselines.csv", index=False)
    else:
        (run / "baselines.csv").write_text(content, encoding="latin-1")
    (group,) = summarise([run], folds=1, replicates=5).content["groups"]
    assert bool(group["baselines"]) == (content is None)


@pytest.mark.parametrize("threads", ["x", -1, 10**9, 1.5, [1], {"a": 1}])
def test_a_number_of_threads_that_is_none(run, run_script, threads):
    content = json.loads((run / "provenance.json").read_text())
    content["accelerator"]["threads"] = threads
    (run / "provenance.json").write_text(json.dumps(content))
    before = torch.get_num_threads()
    done = run_script("reproduce", f"run={run}", "trainer=cpu")
    torch.set_num_threads(before)
    assert "Traceback" not in done.err and "accelerator.threads" in done.out


@pytest.mark.slow
def test_arrays_that_are_none_are_made_again(run, run_script, tmp_path, finished):
    given = [f"run={run}", "trainer=cpu", "data.cache_dir=cache"]
    assert run_script("test", *given).code == 0
    (descriptions,) = tmp_path.glob("cache/audit-*.npy")
    (cached,) = tmp_path.glob("cache/32px*.npy")
    for file in (descriptions, cached):
        whole = file.read_bytes()
        with file.open("wb") as stream:
            np.savez(stream, a=np.zeros(3))
        assert run_script("test", *given).code == 0
        header = whole[:10] + whole[10:].replace(b"(27,", b"(10**12,", 1)
        assert file.read_bytes() == whole
        shape = re.search(rb"'shape': \((\d+),", whole)[1]
        huge = whole.replace(b"(" + shape + b",", b"(9" + shape[1:] + b"00000000,", 1)
        file.write_bytes(huge[: len(whole)])
        assert run_script("test", *given).code == 0 and header


# row 13: C


@pytest.mark.parametrize("picture", [
    np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32),
    np.zeros((0, 4, 3), np.uint8), np.zeros((4, 0, 3), np.uint8),
])  # fmt: skip
def test_c_takes_no_pixels_of_another_shape(picture):
    for function in (
        lambda: pixels.resize(picture, pixels.Form(8)), lambda: pixels.grey(picture, 8),
        lambda: pixels.edges_and_colours(picture, 2),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="uint8"):
            function()


def test_c_takes_no_weights_of_another_shape():
    if kernels.name() is None:
        pytest.skip("no compiled kernels")
    images = [torch.zeros(2, 3, 32, 32)]
    good = torch.zeros(6, 3, 5, 5), torch.zeros(6), torch.zeros(16, 6, 5, 5), torch.zeros(16)
    assert kernels.convolve(images, *good).shape == (1, 2, 400)
    for position, bad in enumerate(
        (torch.zeros(6, 3, 3, 3), torch.zeros(5), torch.zeros(6, 6, 5, 5))
    ):
        weights = [*good[:position], bad, *good[position + 1 :]]
        with pytest.raises(ValueError, match="shape"):
            kernels.convolve(images, *weights)
    for images in ([torch.zeros(2, 3, 28, 28)], [torch.zeros(2, 1, 32, 32)], []):
        with pytest.raises(ValueError, match="shape"):
            kernels.convolve(images, *good)


def test_a_picture_of_too_many_bytes_is_refused(tmp_path, monkeypatch):
    with (tmp_path / "a.jpg").open("wb") as stream:
        stream.truncate(2**31)
    from mpoxcv.pictures.cache import read_file

    with pytest.raises(UserError, match="more than"):
        decode(read_file(tmp_path / "a.jpg"))


def test_errors_of_the_users_own_code_keep_their_traceback(tmp_path):
    for place, kind in (("<ours>", UserError), (str(tmp_path / "my_file.py"), ZeroDivisionError)):
        code = compile("with blaming('the run'):\n    1 / 0\n", place, "exec")
        with pytest.raises(kind):
            exec(code, {"blaming": blaming})


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq", "step"])
def test_a_fused_optimizer_gets_no_state_of_another_shape(name):
    weight = torch.nn.Parameter(torch.zeros(1000))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.sum().backward()
    optimizer.step()
    require_sound_state(optimizer)
    for value in (torch.zeros(0), torch.zeros(2), torch.zeros(1000, dtype=torch.float64), "x"):
        optimizer.state[weight][name] = value
        with pytest.raises(UserError, match=name):
            require_sound_state(optimizer)


@pytest.mark.parametrize(
    "target", ["torch.optim.SGD.step", "mpoxcv.LeNetty", "xtorch.optim.SGD", "torch.nn.Linear "]
)
def test_a_target_is_allowed_to_its_last_letter(target, tmp_path):
    file = tmp_path / "config.yaml"
    for good in ("torch.optim.SGD", "mpoxcv.LeNet", "torch.nn.Linear"):
        assert instantiable({"_target_": good}, "model", file)._target_ == good
    with pytest.raises(UserError, match="it would call"):
        instantiable({"_target_": target}, "model", file)


def test_a_packed_checkpoint_is_refused_for_being_packed(tmp_path):
    """Nothing else differs from the one that is read."""
    content = {"state_dict": {"weight": torch.ones(3)}}
    torch.save(content, tmp_path / "good.pt")
    assert read_tensors(tmp_path / "good.pt")["state_dict"]["weight"].equal(torch.ones(3))
    with (
        zipfile.ZipFile(tmp_path / "good.pt") as good,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for part in good.infolist():
            packed.writestr(part.filename, good.read(part))
    with pytest.raises(UserError, match="packed"):
        read_tensors(tmp_path / "packed.pt")
