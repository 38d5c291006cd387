"""What strangers send: configs, checkpoints, pictures, names, records. Nothing runs or is lost."""

import contextlib
import csv
import io
import json
import os
import pickle
import re
import shutil
import struct
import sys
import warnings
import zipfile
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.plugin_util import markdown_to_safe_html
from test_sweep import options

from mpoxcv.commands.predict import predict
from mpoxcv.datasets.unzip import unpack
from mpoxcv.errors import UserError, visible
from mpoxcv.evaluation.predictions import read_predictions, write_predictions
from mpoxcv.evaluation.summary import summarise
from mpoxcv.pictures.images import decode
from mpoxcv.pictures.tree import index_flat
from mpoxcv.report.figures import confusion_figure
from mpoxcv.report.report import write_report
from mpoxcv.storage.checkpoint_io import AtomicCheckpointIO
from mpoxcv.storage.files import read_json
from mpoxcv.storage.markup import folder_name, for_spreadsheets, markdown, one_line
from mpoxcv.storage.stored_config import load_config

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def assert_refused(done, *words: str) -> None:
    assert (
        done.code == 1 and done.err.count("error: ") == 1 and "Traceback" not in done.out + done.err
    ), done.err
    assert all(word in done.err for word in words), done.err


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(
        finished[0], tmp_path / "run", ignore=shutil.ignore_patterns("events*", "figures", "*.log")
    )


def change(run: Path, dotted: str, value: object) -> None:
    file = run / ".hydra/config.yaml"
    config = node = yaml.safe_load(file.read_text())
    *parents, last = dotted.split(".")
    for name in parents:
        node = node[name]
    node[last] = value
    file.write_text(yaml.safe_dump(config))


def call(target: str, *arguments: object, **more: object) -> dict[str, object]:
    return {"_target_": target, "_args_": list(arguments), **more}


TOUCH = "touch executed"  # in the command's folder
# which Hydra itself does not refuse
WRITE = call("mpoxcv.storage.files.write_atomically", "executed", "")
CONFIGS = {
    "os.system": ("data.augment", call("os.system", TOUCH), "os.system"),
    "subprocess": ("model", call("subprocess.run", TOUCH, shell=True), "subprocess.run"),
    "exec": ("classifier.network", call("builtins.exec", "open('executed', 'w')"), "builtins.exec"),
    "eval, deep in lists": (
        "data.mean",
        [[[{"x": [call("builtins.eval", "1")]}]]],
        "builtins.eval",
    ),
    "open for writing": ("data.root", call("builtins.open", "executed", "w"), "builtins.open"),
    "pathlib": ("data.root", call("pathlib.Path.touch", "executed"), "pathlib.Path.touch"),
    "rmtree": ("data.exclude", [call("shutil.rmtree", ".")], "shutil.rmtree"),
    "partial": ("optimizer", call("os.system", TOUCH, _partial_=True), "os.system"),
    "not recursive": ("data.augment", call("os.system", TOUCH, _recursive_=False), "os.system"),
    "get_method": ("data.augment", call("hydra.utils.get_method", "os.system"), "refused"),
    "get_object": (
        "data.augment",
        {"_target_": "hydra.utils.get_object", "path": "os.system"},
        "os.system",
    ),
    "get_class": (
        "data.augment",
        {"_target_": "hydra.utils.get_class", "path": "subprocess.Popen"},
        "get_class",
    ),
    "instantiate": (
        "data.augment",
        call("hydra.utils.instantiate", {"_target_": "os.system"}),
        "hydra.utils",
    ),
    "_locate": ("data.augment", call("hydra._internal.utils._locate", "os.system"), "_locate"),
    "partial of functools": ("data.augment", call("functools.partial", 1), "functools.partial"),
    "torch.load": ("data.augment", call("torch.load", "x", weights_only=False), "torch.load"),
    "torch.hub": ("model", call("torch.hub.load", "someone/evil", "net"), "torch.hub.load"),
    "torch.save": ("data.augment", call("torch.save", 1, "executed"), "torch.save"),
    "through a module": (
        "optimizer",
        call("torch.optim.adam.sys.exit"),
        "torch.optim.adam.sys.exit",
    ),
    "through a class": ("model", call("torch.nn.Module.__init__.__globals__"), "__globals__"),
    "a function of ours": (
        "data.augment",
        call("mpoxcv.storage.files.write_atomically", "executed", ""),
        "write_atomically",
    ),
    "our module's os": (
        "data.augment",
        call("mpoxcv.storage.files.os.system", TOUCH),
        "mpoxcv.storage.files.os.system",
    ),
    "pickle": ("data.augment", call("pickle.loads", "x"), "pickle.loads"),
    "no text": ("data.augment", {"_target_": ["os.system"]}, "os.system"),
    "put together": ("data.augment", {"_target_": "${name}.system"}, "lenet.system"),
    "put in by a value": ("data.augment", {"_target_": "${positive_class}"}, "Monkeypox"),
    "spaces": ("data.augment", call(" os.system", TOUCH), "os.system"),
    "environment": ("data.name", "${oc.env:HOME}", "interpolates"),
    "decode": ("data.name", "${oc.decode:'${name}'}", "interpolates"),
    "create": ("data.augment", "${oc.create:'{_target_: os.system}'}", "interpolates"),
    "a resolver put together": ("data.name", "${${name}:HOME}", "interpolates"),
    "circles": ("data.name", "${data.name}", "circles"),
    "no data": ("data", None, "_target_"),
    "data that are text": ("data", "gone", "_target_"),
    "not ours": ("data.image_size", "large", "image_size"),
    "classes that are a number": ("data.classes", 5, "no len()"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_would_run_code_or_read_the_environment(run, run_script, tmp_path, case):
    where, value, word = CONFIGS[case]
    change(run, where, value)
    script = "test" if len(case) % 2 else "predict"
    assert_refused(
        run_script(script, f"run={run}", *(["images=."] if script == "predict" else [])), word
    )
    assert not list(tmp_path.rglob("executed")) and (run / "checkpoints/best.ckpt").is_file()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("callbacks.checkpoint.monitor", WRITE),
        ("callbacks.checkpoint.mode", WRITE),
        ("callbacks.stop", {**call("lightning.pytorch.callbacks.EarlyStopping"), "monitor": WRITE}),
        ("trainer.precision", WRITE),
    ],
)
def test_what_is_taken_over_from_a_run_that_is_run_again_is_plain(
    run, run_script, tmp_path, where, value
):
    change(run, where, value)
    run_script("reproduce", f"run={run}", "trainer=cpu", "logger=none")
    assert not list(tmp_path.rglob("executed"))


def test_what_an_interpolation_gave_is_not_resolved_again(run, run_script, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    change(run, "zz", "$")
    change(run, "name", "${zz}{oc.env:SECRET}")
    done = run_script("reproduce", f"run={run}", "trainer=cpu", "hydra.run.dir=again")
    assert "hunter2" not in done.out + done.err
    files = [file for file in Path("again").rglob("*") if file.is_file()]
    assert files and not [file for file in files if b"hunter2" in file.read_bytes()]
    change(run, "data.name", "${zz}{oc.env:SECRET}")
    assert_refused(run_script("reproduce", f"run={run}", "trainer=cpu"), "its data interpolates")


BILLION = "a: &a [x, x]\n" + "\n".join(f"b{i}: &b{i} [*a, *a]" for i in range(9))
SWELL = "\n".join(f"k{i}: ${{k{i + 1}}}${{k{i + 1}}}" for i in range(60)) + "\nk60: x"
FILES = {
    "python tag": "fold: !!python/object/apply:os.system ['touch executed']",
    "another tag": "fold: !!binary aGk=",
    "aliases": BILLION,
    "swelling interpolations": SWELL,
    "swelling lists": "\n".join(f"k{i}: ['${{k{i + 1}}}', '${{k{i + 1}}}']" for i in range(60))
    + "\nk60: x",
    "deep": "fold: " + "[" * 5000,
    "deep and closed": "fold: " + "[" * 500 + "]" * 500,
    "large": "fold: " + "x" * 2**21,
    "empty": "",
    "a list": "[1, 2]",
    "a word": "hello",
    "no YAML": "{]: : -",
    "bytes": b"\xff\xfe\x00\x01",
    "a bell": "fold: \x07",
    "twice": "fold: 1\nfold: 2",
    "a huge number": "fold: " + "9" * 5000,
    "broken interpolation": "fold: ${",
    "nested interpolations": "name: " + "${len:" * 9000 + "}" * 9000,
}


@pytest.mark.parametrize("case", FILES)
def test_a_config_file_that_is_none(run, run_script, tmp_path, case):
    content = FILES[case]
    (run / ".hydra/config.yaml").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    assert_refused(run_script("predict", f"run={run}", "images=."), "refused", str(run))
    done = run_script("summarize", f"runs={run}")
    assert_refused(done, "There is no run")
    assert not list(tmp_path.rglob("executed"))


def test_ones_own_class_needs_trust(run, run_script, finished, tmp_path, monkeypatch):
    (tmp_path / "own_code.py").write_text(
        "open('imported', 'w')\ndef flip(images):\n    return images\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    change(run, "data.augment", call("own_code.flip", _partial_=True))
    done = run_script("test", f"run={run}", "trainer=cpu")
    assert_refused(done, "own_code.flip", "trust=['own_code.flip']", "Nothing of it was run")
    assert not (tmp_path / "imported").exists()
    done = run_script(
        "predict", f"run={run}", f"images={finished[1]}/FOLDS/fold1/Test", "trust=[own_code]"
    )
    assert done.code == 0 and (tmp_path / "imported").exists(), done.err
    sys.modules.pop("own_code")
    assert_refused(
        run_script("predict", f"run={run}", "images=.", "output=b.csv", "trust=[own_cod]"),
        "own_code.flip",
    )


class Evil:
    def __reduce__(self):
        return os.system, (TOUCH,)


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def packed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


def legacy(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


GOOD = {"state_dict": {"x": torch.zeros(3)}}
CHECKPOINTS = {
    "a pickle that runs code": lambda: saved({**GOOD, "evil": Evil()}),
    "the same in the old format": lambda: legacy({**GOOD, "evil": Evil()}),
    "in the weights": lambda: saved({"state_dict": {"x": Evil()}}),
    "a bare pickle": lambda: pickle.dumps(Evil()),
    "a whole module": lambda: saved({"state_dict": torch.nn.Linear(2, 2)}),
    "packed": lambda: packed(saved(GOOD)),
    "cut": lambda: saved(GOOD)[:-200],
    "empty": lambda: b"",
    "text": lambda: b"hello",
    "a list": lambda: saved([1]),
    "no weights": lambda: saved({"epoch": 3}),
    "weights that are none": lambda: saved({"state_dict": {"x": "y"}}),
    "another network's": lambda: saved(GOOD),
    "10^12 numbers of four bytes": lambda: saved(
        {"state_dict": {"x": torch.zeros(1).expand(10**12)}}
    ),
    "a history of numbers": lambda: saved({**GOOD, "history": 5}),
    "classes that are none": lambda: saved({**GOOD, "hyper_parameters": {"classes": [1, 2]}}),
    "options that are none": lambda: saved({**GOOD, "hyper_parameters": 1}),
    "a version that is none": lambda: saved({**GOOD, "pytorch-lightning_version": 3}),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_that_is_none(run, run_script, finished, tmp_path, case):
    monkey = CHECKPOINTS[case]()
    (run / "checkpoints/best.ckpt").write_bytes(monkey)
    done = run_script("predict", f"run={run}", f"images={finished[1]}/FOLDS/fold1/Test")
    assert_refused(done, "checkpoint")
    assert (
        not list(tmp_path.rglob("executed"))
        and (run / "checkpoints/best.ckpt").read_bytes() == monkey
    )


@pytest.mark.parametrize("script", ["test", "train"])
def test_code_in_a_checkpoint_does_not_run_in_test_and_resume(
    run, run_script, finished, tmp_path, script
):
    (run / "checkpoints/best.ckpt").write_bytes(saved({**GOOD, "evil": Evil()}))
    if script == "test":
        done = run_script("test", f"run={run}", "trainer=cpu")
    else:
        given = [option for option in options(finished[1], tmp_path, 2) if "sweep" not in option]
        done = run_script("train", *given, f"ckpt_path={run}/checkpoints/best.ckpt")
    assert_refused(done, "best.ckpt cannot be read", "more than tensors")
    assert not list(tmp_path.rglob("executed"))


@pytest.mark.parametrize(
    "path", ["http://h/a.ckpt", "https://h/a.ckpt", "s3://b/a.ckpt", "file:///a", "a::b://c"]
)
def test_a_checkpoint_of_an_address_is_not_fetched(run_script, finished, tmp_path, path):
    given = [option for option in options(finished[1], tmp_path) if "sweep" not in option]
    assert_refused(run_script("train", *given, f"ckpt_path='{path}'"), "refused", "only files")


def test_a_checkpoint_cannot_have_other_files_removed(tmp_path):
    """Lightning removes what a checkpoint calls its predecessors, whole folders too."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis.txt").touch()
    (tmp_path / "old.ckpt").touch()
    files, own = AtomicCheckpointIO(), tmp_path / "run"
    files.save_checkpoint({"state_dict": {}}, own / "best.ckpt")
    for name in ("thesis", "thesis.txt", "old.ckpt", "gone.ckpt", "run/../old.ckpt"):
        files.remove_checkpoint(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis", "thesis.txt", "old.ckpt", "run"}
    files.remove_checkpoint(own / "best.ckpt")
    assert not list(own.iterdir())


def encode(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


SMALL = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(executed) (w) file closefile\nshowpage\n%%EOF\n"
BAD_PICTURES = {
    "empty.jpg": b"",
    "text.jpg": b"no picture",
    "drawing.jpg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "page.png": b"<!doctype html><script>alert(1)</script>",
    "script.jpg": EPS,
    "ppm.jpg": b"P6 1 1 255 abc",
    "bomb.png": png(100_000, 100_000),
    "wide.png": png(2**31 - 1, 1),
    "none.png": png(0, 0),
    "cut.jpg": encode(SMALL, "JPEG")[:500],
    "cut.png": encode(SMALL)[:500],
    "cut.gif": encode(SMALL, "GIF")[:60],
    "cut.webp": encode(SMALL, "WEBP")[:60],
    "cut.tif": encode(SMALL, "TIFF")[:60],
    "head.jpg": b"\xff\xd8\xff\xe0" + b"\0" * 90,
    "float.tif": encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"),
    "archive.jpg": b"PK\3\4" + b"\0" * 90,
    "control\x1b[2J.jpg": encode(SMALL, "JPEG"),
    "line\nbreak.jpg": encode(SMALL, "JPEG"),
    "turned\u202egpj.exe.jpg": encode(SMALL, "JPEG"),
    os.fsdecode(b"latin\xe9.jpg"): encode(SMALL, "JPEG"),
}
GOOD_PICTURES = {
    "tall.png": encode(Image.new("L", (1, 60_000))),
    "wrong suffix.jpg": encode(SMALL),
    "animated.gif": encode(SMALL, "GIF", save_all=True, append_images=[SMALL.rotate(90)]),
    "print.jpg": encode(SMALL.convert("CMYK"), "JPEG"),
    "sixteen.png": encode(Image.fromarray(np.full((9, 9), 40_000, np.uint16))),
    "polyglot.jpg": encode(SMALL, "JPEG") + b"<script>alert(1)</script>PK\3\4",
    "comment.jpg": encode(SMALL, "JPEG", comment=b"<?php system('touch executed') ?>"),
    "=HYPERLINK(1).jpg": encode(SMALL),
    "+1.jpg": encode(SMALL),
    "@SUM(A1).jpg": encode(SMALL),
    "-rf.jpg": encode(SMALL),
    "[bold red]x[bold red].jpg": encode(SMALL),
    "{{ 7 * 7 }}.jpg": encode(SMALL),
    "a,b;\"c'.jpg": encode(SMALL),
    "ünï 图 \u0647.jpg": encode(SMALL),
    "a" * 251 + ".jpg": encode(SMALL),
}


@pytest.fixture(scope="module")
def predicted(finished, tmp_path_factory):
    """One call of predict.py on all pictures: what it said, and its table."""
    folder = tmp_path_factory.mktemp("predicted")
    for name, data in {**BAD_PICTURES, **GOOD_PICTURES}.items():
        (folder / name).write_bytes(data)
    config = {
        "run": str(finished[0]),
        "images": "*",
        "output": "predictions.csv",
        "overwrite": False,
        "temperature": None,
        "level": 0.9,
        "held_out": False,
        "flips": False,
        "model": {"weights": None},
    }
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        patch.chdir(folder)
        predict(OmegaConf.create(config | {"trust": [], "data": {"root": None}}))
    table = list(csv.DictReader((folder / "predictions.csv").open(encoding="utf-8")))
    return said.getvalue(), table, folder


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_picture_that_is_none_is_left_out_and_named(predicted, name):
    said, table, folder = predicted
    assert one_line(name) in said and "Traceback" not in said and "\x1b" not in said
    assert (
        name not in {row["image"] for row in table}
        and (folder / name).read_bytes() == BAD_PICTURES[name]
    )
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("name", GOOD_PICTURES)
def test_an_odd_picture_is_classified(predicted, name):
    _, table, folder = predicted
    (row,) = [row for row in table if Path(row["image"]).name == name]
    assert (folder / row["image"]).is_file() and not row["image"].startswith(tuple("=+-@"))


NAMES = [
    "two words", "quote'\"", "a,b;c", "=1+1", "+1", "-1+cmd|' /c calc'!A0", "@SUM(1)", "\t=1", "=cmd|'/c calc'!A1",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"><svg onload=alert(1)>", "{{ 7 * 7 }}", "<a href='http://evil'>x</a>",
    "{% include '/etc/passwd' %}", "[link](javascript:alert(1))", "![x](http://evil/x.png)", "`code`", "a|b|c",
    "\\input{/etc/passwd}", "50% & $x_1^2$ #~{}", "[bold red]x[/]", "[/]", "\x1b[2J\x1b]0;evil\x07", "line\nbreak",
    "\r\n=1", "\u202egpj.exe", "ünï 图 \u0647 🦠", "../../etc/passwd", "..", "/etc/passwd", "-rf", "con", "a" * 255, "é" * 127,
    "</title></script><script>alert(1)</script>", "&lt;script&gt;", "NA", "nan", "1e5", "True",
]  # fmt: skip


def test_a_name_is_no_formula_in_a_figure(tmp_path):
    table = pd.DataFrame(
        {
            "label": ["$\\frac$", "b"] * 5,
            "prediction": ["$\\frac$", "b", "b"] * 3 + ["b"],
            "data": "x",
            "fold": 1,
            "split": "test",
            "image": "i",
            "patient": "$x",
        }
    )
    confusion_figure(table.assign(**{"p_$\\frac$": 0.5, "p_b": 0.5})).savefig(
        tmp_path / "figure.png"
    )


class Page(HTMLParser):
    """Collects what a browser would run or load."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.active += [
            f"{tag} {k}" for k, v in attributes if k.startswith("on") or "javascript:" in (v or "")
        ]
        # a figure, in which nothing runs: the pictures of these runs are not there
        figure = tag == "img" and dict(attributes)["src"].startswith("data:image/svg+xml;base64,")
        self.active += [tag] * (tag in ("svg", "iframe", "object", "img") and not figure)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of two runs whose classes, patients, pictures and options have hostile names."""
    folder = tmp_path_factory.mktemp("report")
    classes = [name for name in NAMES if "\0" not in name]
    rng = np.random.default_rng(0)
    for number, name in enumerate(
        ("=1+1<script>alert(1)</script>[x](http://evil)|\\input{x}", "../" * 60)
    ):
        where = folder / "runs" / str(number)
        (where / ".hydra").mkdir(parents=True)
        config = {
            "fold": 1,
            "seed": 0,
            "name": name,
            "positive_class": NAMES[9],
            "data": {"root": "x"},
            "extra": name,
        }
        (where / ".hydra/config.yaml").write_text(yaml.safe_dump(config))
        (where / ".hydra/overrides.yaml").write_text(yaml.safe_dump(["fold=1", f"+extra={name}"]))
        (where / "provenance.json").write_text(json.dumps({
            "status": "finished", "command": name, "data": {"name": name, "citation": "<script>alert(1)</script>"},
        }))  # fmt: skip
        (where / "metrics.json").write_text(json.dumps({"test/balanced_accuracy": 0.5}))
        rows = [
            (split, label, i) for split in ("val", "test") for label in classes for i in range(2)
        ]
        table = pd.DataFrame({
            "image": [f"{label}/{i}{split}.jpg" for split, label, i in rows], "patient": [label for _, label, _ in rows],
            "data": name, "fold": 1, "split": [s for s, _, _ in rows], "label": [label for _, label, _ in rows],
            "prediction": rng.choice(classes, len(rows)),
        })  # fmt: skip
        p = rng.dirichlet(np.ones(len(classes)), len(rows)).astype(np.float32)
        table = pd.concat(
            [table, pd.DataFrame(p, columns=[f"p_{label}" for label in classes])], axis=1
        )
        write_predictions(table, where / "predictions.csv")
        pd.testing.assert_frame_equal(  # the ledger comes back as it was, to the bit
            read_predictions(where / "predictions.csv").astype({n: np.float32 for n in table if n.startswith("p_")}),
            table, check_dtype=False,
        )  # fmt: skip
    summary = summarise([folder / "runs"], replicates=20)
    write_report(summary, folder / "out")
    return folder / "out"


def test_nothing_in_the_page_runs_or_loads(report):
    page = Page()
    page.feed((report / "report.html").read_text())
    assert page.active == []
    assert {path.name for path in report.parent.iterdir()} == {"runs", "out"}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_text(report, name):
    markdown_text = (report / "report.md").read_text()
    assert markdown(name) in markdown_text
    assert "<" not in markdown(name) and not re.search(r"(?<!\\)(\\\\)*[\[`|]", markdown(name))
    assert not re.search("<(?!/?p>)", markdown_to_safe_html(f"x {markdown(name)}")), (
        "of TensorBoard"
    )
    assert one_line(name) == visible(one_line(name))
    cells = [
        cell
        for row in csv.reader((report / "tables/per_class.csv").open(newline=""))
        for cell in row
    ]
    assert not [
        cell
        for cell in cells
        if cell.strip()[:1] in ("=", "+", "@", "|", "%") or (cell[:1] in "\t\r\n" and cell)
    ]
    assert not [
        cell for cell in cells if cell.startswith("-") and not re.fullmatch(r"[-\d. to()]+", cell)
    ]
    tex = (report / "tables/per_class.tex").read_text()
    assert (
        "\\input" not in tex
        and "\x1b" not in tex
        and tex.count("\\begin") == tex.count("\\end") == 1
    )
    folder = folder_name(name)
    assert "/" not in folder and folder not in ("", ".", "..") and len(folder.encode()) < 255


RECORDS = [
    "", "null", "[]", "3", '"text"', "{", "[" * 5000, "\xff", '{"status": []}', '{"status": "finished", "data": 5}',
    '{"status": "finished", "data": {"counts": [1]}}', '{"status": "finished", "data": {"counts": {"a": {"b": 1}}}}',
    '{"status": "finished", "packages": "x", "git": 1, "durations": {"total_s": "x"}, "accelerator": []}',
    '{"test/accuracy": "high", "test/balanced_accuracy": [1], "host": 1, "pid": "x", "since": 2}',
    '{"host": 1, "pid": -1, "since": 2}', '{"test/balanced_accuracy": 1e999}', '{"host": "x", "pid": 1e400, "since": 0}',
]  # fmt: skip


@pytest.mark.parametrize("name", ["provenance.json", "metrics.json", "job.json"])
@pytest.mark.parametrize("content", RECORDS, ids=range(len(RECORDS)))
def test_records_of_other_types_give_no_traceback(run, name, content):
    (run / name).write_bytes(content.encode("latin-1"))
    summary = summarise([run], replicates=10)
    assert summary.content["expected"] >= 1 and isinstance(read_json(run / name), dict)


def test_a_record_of_other_types_makes_a_failed_run(run):
    for damaged in ('{"counts": [1]}', '{"originals": 3}', '{"citation": ["x"]}'):
        (run / "provenance.json").write_text(f'{{"status": "finished", "data": {damaged}}}')
        (problem,) = summarise([run], folds=1, replicates=10).content["problems"]
        assert problem["status"] == "failed" and "provenance.json is damaged" in problem["cause"]


TABLES = {
    "empty": "",
    "no table": "hello",
    "bytes": b"\xff\xfe\0",
    "words for probabilities": "image,patient,data,fold,split,label,prediction,p_A\nA/1,1,d,1,test,A,A,x\n",
    "no number for a probability": "image,patient,data,fold,split,label,prediction,p_A\nA/1,1,d,1,test,A,A,nan\n",
    "probabilities above one": "image,patient,data,fold,split,label,prediction,p_A\nA/1,1,d,1,test,A,A,7\n",
    "no probabilities": "image,patient,data,fold,split,label,prediction\nA/1,1,d,1,test,A,A\n",
    "another class": "image,patient,data,fold,split,label,prediction,p_A\nA/1,1,d,1,test,A,B,1\n",
    "no test": "image,patient,data,fold,split,label,prediction,p_A\nA/1,1,d,1,val,A,A,1\n",
    "torn": 'image,patient\n"A,1\n1,2,3,4',
}


@pytest.mark.parametrize("case", TABLES)
def test_predictions_that_are_none_make_a_failed_run(run, case):
    content = TABLES[case]
    (run / "predictions.csv").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    (problem,) = [p for p in summarise([run], folds=1, replicates=10).content["problems"]]
    assert problem["status"] == "failed" and "predictions" in problem["cause"]


@pytest.mark.parametrize(
    "name", ["a\x1bb.jpg", "a\nb.jpg", "a\u202eb.jpg", os.fsdecode(b"a\xffb.jpg"), "a\x7f.jpg"]
)
def test_names_that_no_table_can_hold_are_refused_before_training(tmp_path, name):
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / name).touch()
    with pytest.raises(UserError, match="Rename them") as refused:
        index_flat(tmp_path, ["A"], "(?P<original>(?P<patient>.+))")
    str(refused.value).encode()
    assert "\x1b" not in str(refused.value)


# what hypothesis makes up

ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@FEW
@given(ANY)
def test_any_text_is_safe_in_every_format(text):
    text_cell = for_spreadsheets(pd.DataFrame({"x": [text]}))["x"][0]
    assert text_cell.strip()[:1] not in ("=", "+", "@") and text_cell.lstrip("'") == text.lstrip(
        "'"
    )
    assert "<" not in markdown(text) and "\n" not in markdown(text)
    folder_name(text).encode()
    assert "/" not in folder_name(text) and folder_name(text) not in (".", "..")
    visible(text).encode()


@FEW
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1),
        min_size=1,
        unique=True,
    )
)
def test_any_names_come_back_from_predictions(tmp_path, names):
    table = pd.DataFrame(
        {"image": names, "patient": names, "data": names, "fold": 1, "split": "test"}
    )
    table = table.assign(label=names, prediction=names, p_A=np.float32(0.1))
    write_predictions(table, tmp_path / "predictions.csv")
    assert read_predictions(tmp_path / "predictions.csv")["patient"].tolist() == names


@FEW
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"II*\0"]),
)
def test_any_bytes_are_a_picture_or_refused(data, head):
    try:
        assert decode(head + data).shape[2] == 3
    except UserError:
        pass


@FEW
@given(
    st.one_of(
        st.binary(max_size=200), st.text("{}[]:&*!|>-'\"$ax\n ,", max_size=80).map(str.encode)
    )
)
def test_any_bytes_are_a_config_or_refused(tmp_path, data):
    (tmp_path / "config.yaml").write_bytes(data)
    (tmp_path / "data.json").write_bytes(data)
    assert isinstance(read_json(tmp_path / "data.json"), dict)
    try:
        load_config(tmp_path / "config.yaml")
    except UserError:
        pass


@FEW
@given(st.lists(ANY.filter(bool), min_size=1, max_size=3), st.integers(0, 2**16 - 1))
def test_any_members_unpack_inside_or_not_at_all(tmp_path_factory, names, mode):
    top = tmp_path_factory.mktemp("zip")
    (top / "in").mkdir()
    try:
        with zipfile.ZipFile(top / "a.zip", "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of duplicate names
            for name in names:
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                archive.writestr(info, b"x")
    except (UnicodeEncodeError, ValueError):
        return
    try:
        unpack(top / "a.zip", top / "in", "a.zip")
    except (UserError, OSError):
        pass
    assert {path.name for path in top.iterdir()} == {"a.zip", "in"}
    assert not [path for path in (top / "in").rglob("*") if path.is_symlink()]
