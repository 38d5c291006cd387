"""A data folder that changes while a run is going on, or that nothing may be written to."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import pytest

from conftest import CLASSES, PATTERN, PROJECT, write_picture
from mpoxcv import MSLDDataModule
from mpoxcv.audit.descriptions import Descriptions, describe, likenesses
from mpoxcv.audit.likeness import CERTAIN
from mpoxcv.datasets.synthetic import MARKER
from mpoxcv.errors import UserError
from mpoxcv.pictures.cache import digest_files, open_cache
from mpoxcv.pictures.pixels import Form
from mpoxcv.training.callbacks import Provenance

TEST = "FOLDS/fold1/Test"


def options(tree: Path) -> list[str]:
    shape = [
        f"data.root={tree}",
        f"data.classes=[{','.join(CLASSES)}]",
        f"data.name_pattern='{PATTERN}'",
    ]
    return [
        "fold=1",
        *shape,
        "trainer=cpu",
        "trainer.max_epochs=1",
        "callbacks.samples=null",
        "logger=none",
    ]


def results(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "predictions.csv")


def change(tree: Path) -> list[str]:
    """Change, delete and add a picture of Test; return what is to be said of it."""
    folder = tree / TEST / "Cowpox"
    write_picture(folder / "COW_20_01.jpg", 999)
    (folder / "COW_21_01.jpg").unlink()
    (folder / "COW_22_01.jpg").write_bytes(b"no picture")
    write_picture(folder / "COW_99_01.jpg", 1000)
    names = {
        "changed": "COW_20_01",
        "gone": "COW_21_01",
        "changed ": "COW_22_01",
        "new": "COW_99_01",
    }
    return [f"{word.strip()}: {TEST}/Cowpox/{name}.jpg" for word, name in names.items()]


def test_a_run_ends_right_and_says_what_changed(
    run_script: Callable, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_script("train", *options(tree), "hydra.run.dir=before").code == 0
    expected: list[str] = []
    write = Provenance.on_fit_end

    def change_after_fit(self: Provenance, trainer: L.Trainer, module: L.LightningModule) -> None:
        write(self, trainer, module)
        expected.extend(change(tree))

    monkeypatch.setattr(Provenance, "on_fit_end", change_after_fit)
    done = run_script("train", *options(tree), "hydra.run.dir=during")
    assert done.code == 0, done.err
    assert "have changed since the run began" in done.err and all(
        line in done.err for line in expected
    )
    before, during = (
        json.loads((tmp_path / run / "provenance.json").read_text()) for run in ("before", "during")
    )
    assert before["data"]["changes"] == {"count": 0, "examples": []}
    assert during["status"] == "finished" and during["data"]["changes"] == {
        "count": 4,
        "examples": expected,
    }
    assert during["data"]["fingerprint"] == before["data"]["fingerprint"]
    pd.testing.assert_frame_equal(results(tmp_path / "before"), results(tmp_path / "during"))
    assert (tmp_path / "during/figures/mistakes.png").is_file()


@pytest.fixture
def datamodule(tree: Path, tmp_path: Path) -> MSLDDataModule:
    data = MSLDDataModule(tree, CLASSES, PATTERN, fold=1, cache_dir=tmp_path / "cache")
    data.setup()
    assert data.changes() == []
    return data


def test_folders_that_are_gone_are_told(datamodule: MSLDDataModule, tree: Path) -> None:
    shutil.rmtree(tree / TEST / "Cowpox")
    gone = [f"gone: {TEST}/Cowpox/COW_{i}_01.jpg" for i in (20, 21, 22)]
    assert datamodule.changes() == gone
    shutil.rmtree(tree / "FOLDS/fold1/Train/Cowpox")
    assert "Class Cowpox has no folder" in datamodule.changes()[0]
    tree.rename(tree.with_name("elsewhere"))
    assert "There is no data" in datamodule.changes()[0]
    assert (
        len(datamodule.pictures("test"))
        == len(next(iter(datamodule.test_dataloader()))["label"])
        == 9
    )


def test_only_what_is_in_a_file_counts(datamodule: MSLDDataModule, tree: Path) -> None:
    touched, changed = (tree / datamodule.table("test")["path"][i] for i in (0, 1))
    touched.touch()
    before, data = changed.stat(), changed.read_bytes()
    changed.write_bytes(data[:-1] + b"\0")
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (
        changed.stat().st_mtime_ns == before.st_mtime_ns
        and changed.stat().st_size == before.st_size
    )
    assert datamodule.changes() == [f"changed: {datamodule.table('test')['path'][1]}"]


def test_a_picture_that_is_gone_is_shown_as_the_cache_has_it(
    datamodule: MSLDDataModule, tree: Path
) -> None:
    assert datamodule.original_picture("test", 0).shape == (40, 40, 3)
    (tree / datamodule.table("test")["path"][0]).unlink()
    assert np.array_equal(
        datamodule.original_picture("test", 0), datamodule.cached_picture("test", 0)
    )


def test_synthetic_data_stay_synthetic_without_their_marker(tree: Path, tmp_path: Path) -> None:
    (tree / MARKER).write_text("{}")
    data = MSLDDataModule(tree, CLASSES, PATTERN, fold=1, cache_dir=tmp_path / "cache")
    data.setup()
    (tree / MARKER).unlink()
    assert data.synthetic and data.source == "synthetic"


def test_a_file_that_changes_while_it_is_read_poisons_no_cache(tree: Path, tmp_path: Path) -> None:
    paths = [file.relative_to(tree).as_posix() for file in sorted(tree.rglob("*.jpg"))]
    digests = digest_files(tree, paths)
    write_picture(tree / paths[3], 999)
    for read in (lambda: open_cache(tree, paths, Form(16), tmp_path / "cache", digests=digests),
                 lambda: describe(tree, paths, digests, tmp_path / "cache")):  # fmt: skip
        with pytest.raises(UserError, match=r"was changed while it was read"):
            read()
    assert not list((tmp_path / "cache").glob("16px-*.npy"))
    assert str(digests[3]) not in Descriptions(tmp_path / "cache")


@pytest.mark.slow
def test_several_ask_for_one_cold_likeness(tree: Path, tmp_path: Path) -> None:
    paths = [file.relative_to(tree).as_posix() for file in sorted(tree.rglob("*.jpg"))]
    records = describe(tree, paths, digest_files(tree, paths), tmp_path / "cache")
    nobody = [""] * len(paths)
    for attempt in range(20):
        cold = tmp_path / f"cold{attempt}"
        asked = records, records, CERTAIN, cold, (nobody, nobody)
        with ThreadPoolExecutor(5) as pool:
            found = list(pool.map(lambda _: likenesses(*asked), range(5)))  # noqa: B023
        for pairs in found[1:]:
            pd.testing.assert_frame_equal(pairs, found[0])
        assert not list(cold.glob("*.partial"))


@pytest.fixture
def read_only(tree: Path, tmp_path: Path):
    """The tree, and an empty folder, on disks that can only be read."""
    (tmp_path / "locked").mkdir()
    mounted = []
    try:
        for folder in (tree, tmp_path / "locked"):
            if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
                pytest.skip("no permission to mount")
            mounted.append(folder)
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield tree
    finally:
        for folder in mounted:
            subprocess.run(["umount", folder], check=True)


def test_read_only_data(run_script: Callable, read_only: Path, tmp_path: Path) -> None:
    done = run_script("train", *options(read_only))
    assert done.code == 0, done.err
    done = run_script("train", *options(read_only), f"data.cache_dir={tmp_path}/locked")
    assert done.code == 1 and done.err.count("error: ") == 1 and "Traceback" not in done.err
    message = done.err.partition("error: ")[2]
    assert all(word in message for word in ("Read-only file system", "locked", "data.cache_dir"))


@pytest.mark.slow
def test_five_runs_race_for_one_cold_cache(tree: Path, tmp_path: Path) -> None:
    command = [sys.executable, PROJECT / "scripts/train.py", *options(tree)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [*command, f"hydra.run.dir=run{i}"],
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
        )
        for i in range(5)
    ]
    for run in runs:
        said = run.communicate(timeout=300)[1].decode().splitlines()
        # the tree's pictures are of a patient each
        assert len(said) == 1 and "pictures are of as many patients" in said[0], said
        assert run.returncode == 0
    tables = [results(tmp_path / f"run{i}") for i in range(5)]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    left = {file.name.partition("-")[0] for file in (tmp_path / "data/cache").glob("*.npy")}
    assert (
        left == {"32px", "audit", "likeness"}
        and len(list((tmp_path / "data/cache").glob("*.npy"))) == 3
    )
    assert not list((tmp_path / "data/cache").glob("*.partial"))
