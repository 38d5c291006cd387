"""What all tests share: small trees of pictures, and scripts called as a user calls them.

``MPOXCV_TRAINER=gpu`` lets those train on a GPU that ask for no other accelerator than the CPU.
"""

import importlib.util
import os
import re
import runpy
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import settings
from PIL import Image

from mpoxcv.command_line import as_typed

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # tests side by side: a thread each, and each of the commands they call
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # under nohup and the like, and inherited by every command
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "repeatable", derandomize=True
)  # --hypothesis-profile=default looks further
settings.load_profile("repeatable")

PROJECT = Path(__file__).parents[1]
CLASSES = ["Chickenpox", "Cowpox", "Measles"]
PATTERN = r"(?P<original>(?P<patient>[A-Z]+_\d+)_\d+)(?P<copy>_\w+)?"
# without what a test does not look at
QUICK = [f"callbacks.{name}=null" for name in ("figures", "samples", "baselines", "progress")]


@dataclass
class Finished:
    code: int
    out: str
    err: str


def printed_commands(text: str) -> list[str]:
    """Return the commands in a text: from "python scripts/" to the line's end or a backtick."""
    return re.findall(r"\bpython \S*scripts/\w+\.py[^`\n]*", text)


def assert_composes(command: str) -> None:
    """Assert that a shell takes a command apart as it should, and Hydra composes its config."""
    quotes = r"""'[^']*'|"(?:\\.|[^"])*"|\\."""
    bare = re.sub(quotes, "", command.partition(" #")[0])
    assert not re.search(r"[][{}()<>*?!$;|&…]", bare), f"not quoted for a shell: {command}"
    _, script, *arguments = shlex.split(command, comments=True)
    verb = Path(script).stem
    overrides = []
    for argument in as_typed(arguments, dict):
        if not argument.startswith("-"):
            override = OverridesParser.create().parse_override(argument)
            assert "-m" in arguments or not override.is_sweep_override(), command
            values = override.sweep_string_iterator() if override.is_sweep_override() else ()
            value = next(iter(values), argument.partition("=")[2])
            overrides.append(f"{argument.partition('=')[0]}={value}")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        compose(verb, overrides)


@pytest.fixture
def run_script(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Finished]:
    """Call ``run_script("train", "fold=3", …)`` in tmp_path: exit code and what the user saw."""

    def run(name: str, *arguments: str) -> Finished:
        spec = importlib.util.spec_from_file_location(
            f"script_{name}", PROJECT / "scripts" / f"{name}.py"
        )
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        trainer = os.environ.get("MPOXCV_TRAINER", "cpu")
        given = [f"trainer={trainer}" if a == "trainer=cpu" else a for a in arguments]
        monkeypatch.setattr(sys, "argv", [f"scripts/{name}.py", *given])
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "120")
        capfd.readouterr()
        try:
            module.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capfd.readouterr()
        for command in printed_commands(f"{out}\n{err}"):
            assert_composes(command)
        return Finished(code, out, err)

    return run


def write_picture(path: Path, seed: int, size: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)


def write_tree(root: Path, folds: int = 2, pictures: int = 3, aug: int = 2, size: int = 40) -> Path:
    """Write FOLDS and FOLDS_AUG with ``pictures`` a class and split, each of another patient."""
    seed = 0
    for fold in range(1, folds + 1):
        for s, split in enumerate(("Train", "Valid", "Test")):
            for name in CLASSES:
                for i in range(pictures):
                    stem = f"{name[:3].upper()}_{max(10, pictures) * s + i}_01"
                    write_picture(
                        root / f"FOLDS/fold{fold}/{split}/{name}/{stem}.jpg", seed := seed + 1, size
                    )
                    for copy in range(aug if split == "Train" else 0):
                        file = root / f"FOLDS_AUG/fold{fold}_AUG/Train/{name}/{stem}_{copy}_1.jpg"
                        write_picture(file, seed := seed + 1, size)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "set")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run of two epochs on fold 1, without baselines and figures, and its data set."""
    folder = tmp_path_factory.mktemp("finished")
    tree = write_tree(folder / "set", folds=1)
    command = [
        f"data.root={tree}", f"data.classes=[{','.join(CLASSES)}]", f"data.name_pattern='{PATTERN}'",
        "trainer=cpu", "trainer.max_epochs=2", *QUICK, "+trainer.enable_progress_bar=false",
        "hydra.run.dir=run",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [str(PROJECT / "scripts/train.py"), *command])
        runpy.run_path(sys.argv[0], run_name="__main__")
    return folder / "run", tree


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs, one folder a class."""
    folder = os.environ.get("MPOXCV_REAL_DATA")
    if not folder:
        pytest.skip("no real photographs: set MPOXCV_REAL_DATA to their folder")
    return Path(folder)
