"""Every hostile value at every key of a run's config and every field of its records.

All go through what the commands call, in one process: each is refused with a sentence, or passes,
and nothing runs, is written elsewhere, or tells the environment. MPOXCV_EVERY=1 tries them all,
=23 every 23rd.
"""

import contextlib
import copy
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from test_hostile import FEW
from test_record import small

from conftest import PROJECT
from mpoxcv.commands import record, reproduce, run_folder, summarize, train
from mpoxcv.commands.predict import predict
from mpoxcv.evaluation.summary import summarise
from mpoxcv.explain import explain
from mpoxcv.report import report
from mpoxcv.resolvers import flatten
from mpoxcv.storage.files import read_json
from mpoxcv.training.callbacks.provenance import Provenance
from mpoxcv.training.classifier import LesionClassifier

pytestmark = pytest.mark.slow
# of so many cases one is tried, another for each command
STEP = int(os.environ.get("MPOXCV_EVERY", "101"))
SECRET = "hunter2"
CODE = {"_target_": "mpoxcv.storage.files.write_atomically", "_args_": ["executed", ""]}
DEEP: list = []
for _ in range(300):
    DEEP = [DEEP]
# nothing that Hydra itself would refuse
OF_CONFIGS = [
    CODE, [CODE], [[{"x": CODE}]], CODE | {"_partial_": True}, CODE | {"_recursive_": False},
    {"_target_": "mpoxcv.write_synthetic", "root": "executed", "copies": 0, "folds": [1]},
    {"_target_": "torch.load", "f": "evil.pkl", "weights_only": False},
    {"_target_": "hydra.utils.get_method", "path": "os.system"},
    {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1},
    "${oc.env:SECRET}", "${zz}{oc.env:SECRET}", "${seed}", "${no.such}", "\x1b[2J\x07", "$(touch executed)",
    "/dev/zero", "../../home/executed", "", "x", "x" * 10_000, None, True, -1, 0, 1.5, 10**30, float("nan"),
    [], [[]], [None], {}, {"a": {"b": 1}}, ["x", 1],
]  # fmt: skip
OF_RECORDS = [
    CODE, [CODE], "${oc.env:SECRET}", "\x1b[2J\x07", "$(touch executed)", "<script>alert(1)</script>",
    "/dev/zero", "", "x" * 10_000, "\ud800", None, True, -1, 10**400, 1.5, float("nan"), float("inf"),
    [], [None], [5], [[]], DEEP, {}, {"": None}, {"a": {"b": 1}}, {"\x1b": "\x07"},
]  # fmt: skip
RECORDS = ("provenance.json", "metrics.json", "job.json", "beginning.json", "summary/expected.json")


class Sent:
    """A run's folder that a stranger changes, the commands that read it, and what must not be."""

    def __init__(self, finished: tuple[Path, Path], top: Path) -> None:
        self.run, self.set = top / "a/b/sent", finished[1]
        kept = shutil.ignore_patterns("events*", "figures", "*.log")
        shutil.copytree(finished[0], self.run, ignore=kept)
        self.home, self.work = top / "home", top / "a/b/work"
        self.home.mkdir()
        self.work.mkdir()
        options: list[str] = []
        plan = {"arguments": options, "launcher": options, "jobs": [{"fold": "1"}], "options": {}}
        (self.run / "summary").mkdir()
        (self.run / "summary/expected.json").write_text(json.dumps(plan))
        self.commands: dict[str, Callable[[], object]] = {
            "predict": self.predict, "test": self.test, "reproduce": self.reproduce,
            "summarize": self.summarize, "resume": self.resume, "load": self.load,
        }  # fmt: skip
        self.tried = 0
        self.configs = {}
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
            for verb, more in {
                "predict": [f"images={self.set}/FOLDS/fold1/Test/Cowpox", "overwrite=true"],
                "test": ["trainer=cpu", "output_dir=out", "callbacks.progress=null",
                         "+trainer.enable_progress_bar=false", "callbacks.figures=null"],
                "reproduce": ["trainer=cpu", "output_dir=again", "logger=none"],
                "train": ["fold=1", *small(self.set)[1:-1], "logger=none", "resume=true", "output_dir=x"],
            }.items():  # fmt: skip
                where = [] if verb == "train" else [f"run={self.run}"]
                self.configs[verb] = compose(verb, [*where, *more])

    def config(self, verb: str) -> DictConfig:
        return OmegaConf.create(OmegaConf.to_container(self.configs[verb]))

    def predict(self) -> None:
        predict(self.config("predict"))

    def test(self) -> None:
        train.test(self.config("test"))

    def reproduce(self) -> None:
        # in place of training, which takes long, what it builds of the config
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "train", train.build)
            reproduce.reproduce(self.config("reproduce"))

    def summarize(self) -> None:
        jobs = summarize.read_plan(self.run).get("jobs")
        summary = summarise([self.run], jobs, folds=1, replicates=2)
        report.write_report(summary, "summary")
        report.print_summary(summary, Path("summary"))

    def resume(self) -> None:
        run_folder.complete_config(self.run, {"image_size": 32})
        record.tell(self.run, {"options": {}, "data": {}, "versions": {}})
        record._going_on(self.run)
        Provenance(self.run, 0)
        record.check({"seed": "7"}, self.run, True)

    def going_on(self, folder: Path) -> DictConfig:
        config = self.config("train")
        config.output_dir = str(folder)
        return config

    def load(self) -> None:
        LesionClassifier.load_from_checkpoint(self.run / "checkpoints/best.ckpt")

    def try_all(self, verb: str, what: object) -> None:
        """Run a command; what ends it has a sentence for people, and nothing has happened."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                self.commands[verb]()
            except Exception as error:
                sentence = explain(error, PROJECT / "conf", verb, [])
                if sentence is None:
                    raise AssertionError(f"{verb}, {what}: {error!r}") from error
                said.write(sentence)
        self.tried += 1
        assert SECRET not in said.getvalue(), (verb, what)
        assert not (self.work / "executed").exists() and not any(self.home.iterdir()), (verb, what)


@pytest.fixture(scope="module")
def sent(finished, tmp_path_factory) -> Iterator[Sent]:
    made = Sent(finished, tmp_path_factory.mktemp("sent"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.work)
        patch.setenv("SECRET", SECRET)
        patch.setenv("HOME", str(made.home))
        patch.setattr(sys, "argv", ["scripts/train.py"])
        # figures take most of the time, and have tests of their own
        patch.setattr(report, "draw_all", lambda *rows: {})
        patch.setattr(report, "folds_figure", lambda groups: Figure())
        before = torch.get_num_threads()
        yield made
        torch.set_num_threads(before)


@contextlib.contextmanager
def changed(file: Path, content: str) -> Iterator[None]:
    whole = file.read_bytes()
    file.write_text(content)
    try:
        yield
    finally:
        file.write_bytes(whole)


def places(node: object, path: tuple = ()) -> Iterator[tuple]:
    """Yield the way to each value of nested mappings and lists."""
    pairs = node.items() if isinstance(node, dict) else ()
    pairs = enumerate(node) if isinstance(node, list) else pairs
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


def put(node: object, place: tuple, value: object) -> object:
    """Return a copy with a value at a place."""
    made = json.loads(json.dumps(node))
    inner = made
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return made


@pytest.mark.parametrize("verb", ["predict", "reproduce", "load", "resume", "summarize", "test"])
def test_every_value_at_every_key_of_a_config(sent, verb):
    file = sent.run / ".hydra/config.yaml"
    whole = yaml.safe_load(file.read_text()) | {"zz": "$"}
    keys = [tuple(name.split(".")) for name, _ in flatten(whole)]
    step = STEP * (3 if verb in ("test", "summarize") and STEP > 1 else 1)
    cases = [(key, value) for key in keys for value in OF_CONFIGS]
    before = sent.tried
    for key, value in cases[len(verb) % step :: step]:
        with changed(file, yaml.safe_dump(put(whole, key, value), allow_unicode=True)):
            sent.try_all(verb, (key, value))
    print(f"{verb}: {sent.tried - before} of {len(cases)}")


@pytest.mark.parametrize("verb", ["predict", "reproduce", "resume", "summarize", "test"])
@pytest.mark.parametrize("name", RECORDS)
def test_every_value_at_every_field_of_a_record(sent, verb, name):
    file = sent.run / name
    whole = read_json(file)
    step = STEP * (3 if verb in ("test", "predict") and STEP > 1 else 1)
    cases = [(place, value) for place in places(whole) for value in OF_RECORDS]
    before = sent.tried
    for place, value in cases[len(verb) % step :: step]:
        with changed(file, json.dumps(put(whole, place, value))):
            sent.try_all(verb, (name, place, value))
    print(f"{verb}, {name}: {sent.tried - before} of {len(cases)}")


def plain_places(node: object, path: tuple = ()) -> Iterator[tuple]:
    """Yield the way to each value of a checkpoint but its weights."""
    for place in places(node, path):
        if place[0] != "state_dict" or len(place) < 3:
            yield place


OF_CHECKPOINTS = [
    None, "x", "../../home/executed", -1, 10**30, 1.5, float("nan"), [], [5], {}, {"a": {"b": 1}},
    torch.tensor(-1.0), torch.zeros(0), torch.zeros(2, 3),
]  # fmt: skip


def test_every_value_at_every_field_of_a_checkpoint_that_goes_on(sent, tmp_path):
    whole = torch.load(sent.run / "checkpoints/last.ckpt", weights_only=True)
    whole = {**whole, "state_dict": dict(whole["state_dict"])}
    places_of = list(plain_places(whole))
    cases = [(place, value) for place in places_of for value in OF_CHECKPOINTS]
    before = sent.tried
    for number, (place, value) in enumerate(cases[:: 3 * STEP]):
        folder = tmp_path / str(number)
        (folder / "checkpoints").mkdir(parents=True)
        inner = changed_copy = copy.deepcopy(whole)
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        torch.save(changed_copy, folder / "checkpoints/last.ckpt")
        sent.commands["go on"] = lambda folder=folder: train.train(sent.going_on(folder))
        sent.try_all("go on", (place, value))
    print(f"checkpoint: {sent.tried - before} of {len(cases)}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@FEW
@given(data=st.data())
def test_any_records_are_summed_up_or_named(sent, data):
    name = data.draw(st.sampled_from(RECORDS))
    whole = read_json(sent.run / name)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(list(places(whole))))
        whole = put(whole, place, data.draw(JSON))
    with changed(sent.run / name, json.dumps(whole)):
        sent.try_all("summarize", (name, whole))


@FEW
@given(data=st.data())
def test_any_table_is_summed_up_or_named(sent, data):
    name = data.draw(st.sampled_from(["predictions.csv", "baselines.csv"]))
    rows = (sent.run / "predictions.csv").read_text().splitlines()
    cells = [
        ("model," if i == 0 else "x,") * (name == "baselines.csv") + row
        for i, row in enumerate(rows)
    ]
    table = [row.split(",") for row in cells]
    for _ in range(data.draw(st.integers(1, 3))):
        row, column = (data.draw(st.integers(0, len(part) - 1)) for part in (table, table[0]))
        text = st.sampled_from(
            ["", "nan", "inf", "-1", "1e400", "\x1b", "=1", "test", "val", "Cowpox", "2"]
        )
        table[row][column] = data.draw(text | st.text("ab1.,\"'\n<", max_size=6))
    file = sent.run / name
    file.touch()
    with changed(file, "\n".join(map(",".join, table))):
        sent.try_all("summarize", (name, table))
    if not file.stat().st_size:
        file.unlink()
