"""The command as a user runs it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import write_picture, write_tree
from mpoxcv.datasets.synthetic import MARKER, write_synthetic

SCRIPT = Path(__file__).parents[2] / "scripts" / "get_data.py"
SMALL = ("data.classes=[Chickenpox,Cowpox,Measles]", "folds=2", "data.root=set")


def get_data(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_no_data(tmp_path: Path) -> None:
    done = get_data(tmp_path)
    assert done.returncode == 1
    assert str(tmp_path / "data/msld_v2") in done.stderr
    assert f"python {SCRIPT} source=kaggle\n" in done.stderr
    assert f"python {SCRIPT.with_name('train.py')} fold=3 data=synthetic\n" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_synthetic(tmp_path: Path) -> None:
    options = ("data=synthetic", "data.generator.size=16", "data.generator.copies=1")
    done = get_data(tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert "SYNTHETIC" in done.stdout and "≠" not in done.stdout and "published" not in done.stdout
    assert "the data can be used" in done.stdout
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        "synthetic",
        "synthetic.lock",
        "cache",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_damaged_pictures(tmp_path: Path, tree: Path, run_script: Callable) -> None:
    folder = tree / "FOLDS/fold1/Train/Cowpox"
    os.truncate(folder / "COW_0_01.jpg", 500)
    os.truncate(folder / "COW_1_01.jpg", 0)
    (tree / "FOLDS/fold2/Test/Measles/MEA_20_01.jpg").write_text("Not a picture at all.")
    done = run_script("get_data", *SMALL)
    assert done.code == 1
    assert "Cowpox/COW_0_01.jpg: cannot be decoded" in done.err
    assert "Cowpox/COW_1_01.jpg: is empty" in done.err
    assert "Measles/MEA_20_01.jpg: is not a picture" in done.err
    assert "data.exclude=" in done.err and "Traceback" not in done.err
    assert "FOLDS_AUG" in done.out and "can be used" not in done.out
    done = run_script(
        "get_data", *SMALL, "data.exclude=['*/COW_[01]_01.jpg','*/Measles/MEA_20_01.jpg']"
    )
    assert done.code == 0 and "all 84 files decode" in done.out


def test_differences_are_marked_and_no_error(tmp_path: Path, run_script: Callable) -> None:
    write_synthetic(tmp_path / "data/msld_v2", size=16, copies=0)
    (tmp_path / "data/msld_v2" / MARKER).unlink()
    next((tmp_path / "data/msld_v2/FOLDS/fold1/Test/Cowpox").iterdir()).unlink()
    done = run_script("get_data")
    assert done.code == 0
    assert "≠ 74" in done.out and done.out.count("≠ 75") == 3
    assert "6 counts differ from those published" in done.out and "the data can be used" in done.out


def test_fetch_and_check(tmp_path: Path, tree: Path, run_script: Callable) -> None:
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", tree)
    shutil.rmtree(tree)
    done = run_script("get_data", *SMALL, f"source={archive}")
    assert done.code == 0 and "Fetched into" in done.out and "can be used" in done.out
    done = run_script("get_data", *SMALL, "source=kaggle", "data.name=msld_v2")
    assert done.code == 0 and "Nothing to fetch" in done.out and "can be used" in done.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["source=kaggle", "data=synthetic"], "source=kaggle does not give data=synthetic"),
        (["source=kaggle", "data.name=mine"], "source=kaggle does not give data=mine"),
        (["source=nothere.zip"], "source=nothere.zip is not a file"),
        (["data.classes=null"], "name the class folders"),
        (["soruce=kaggle"], "Did you mean 'source'"),
    ],
)
def test_mistakes(run_script: Callable, arguments: list[str], says: str) -> None:
    done = run_script("get_data", *arguments)
    assert done.code == 1 and says in done.err and "Traceback" not in done.err


def test_torch_is_not_imported(tmp_path: Path) -> None:
    write_tree(tmp_path / "set")
    code = f"""import atexit, runpy, sys
atexit.register(lambda: print(*sys.modules))
sys.argv[0] = {str(SCRIPT)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    command = [sys.executable, "-c", code, *SMALL]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "the data can be used" in done.stdout
    modules = set(done.stdout.splitlines()[-1].split())
    assert "mpoxcv.datasets.check" in modules
    assert not modules & {"torch", "lightning", "torchvision", "matplotlib"}


SKIN = (
    "actinic keratosis", "basal cell carcinoma", "dermatofibroma", "melanoma", "nevus", "vascular lesion",
    "pigmented benign keratosis", "seborrheic keratosis", "squamous cell carcinoma",
)  # fmt: skip


@pytest.mark.parametrize("width", [100, 200])
def test_headings_are_not_broken_within_a_word(
    width: int, tmp_path: Path, run_script: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they do not fit, numbers stand for them."""
    for i, name in enumerate(SKIN):
        for split in ("Train", "Valid", "Test"):
            write_picture(tmp_path / f"set/FOLDS/fold1/{split}/{name}/{split}{i}_1.jpg", i)
    setenv = monkeypatch.setenv
    monkeypatch.setattr(monkeypatch, "setenv", lambda name, _: setenv(name, str(width)))
    classes = f"data.classes=[{','.join(SKIN)}]"
    done = run_script("get_data", "data=custom", classes, "data.root=set", "folds=1")
    assert done.code == 0, done.err
    heading = next(line for line in done.out.splitlines() if "total" in line)
    assert ("dermatofibroma" in heading) == (width == 200)
    assert ("2 basal cell carcinoma, 3 dermatofibroma" in done.out) == (width == 100)
