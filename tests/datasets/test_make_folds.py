import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from conftest import PROJECT, write_picture
from mpoxcv.datasets import make_folds as module
from mpoxcv.datasets.make_folds import make_folds, next_command
from mpoxcv.errors import UserError
from mpoxcv.pictures.tree import index_folds

CLASSES = ["Mpox", "Other ones"]
PATTERN = r"(?P<original>(?P<patient>.+)_\d+)(?P<copy>_aug\d+)?"


@pytest.fixture(scope="module")
def config():
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return compose("make_folds")


@pytest.fixture(scope="module")
def augment(config):
    return instantiate(config.augment)


@pytest.fixture
def source(tmp_path):
    """Two classes of seven patients; two of them have two pictures."""
    for c, name in enumerate(CLASSES):
        for patient in range(7):
            for image in range(1 + (patient < 2)):
                file = tmp_path / "flat" / name / f"{name[0]}{patient}_{image}.jpg"
                write_picture(file, seed=100 * c + 10 * patient + image, size=32)
    return tmp_path / "flat"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def make(source, output, augment, **options):
    return make_folds(
        source,
        output,
        None,
        PATTERN,
        augment,
        **{"copies": 2, "size": 32, "cache_dir": source.parent.parent / "cache", **options},
    )


def test_what_it_makes_is_what_the_index_reads(source, tmp_path, augment, capsys):
    output = tmp_path / "deep" / "out"
    folds = make(source, output, augment)
    table = index_folds(output, CLASSES, PATTERN)
    originals, copies = table[~table["augmented"]], table[table["augmented"]]
    keys = ["image", "patient", "class", "fold", "split"]
    in_order = [
        t[keys].sort_values(["fold", "image"], ignore_index=True) for t in (originals, folds)
    ]
    pd.testing.assert_frame_equal(*in_order, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_csv(output / "folds.csv"), folds, check_dtype=False)
    for path, image in zip(originals["path"], originals["image"], strict=True):
        assert (output / path).read_bytes() == (source / image).read_bytes()

    # each copy's original is in Train of the same fold, with the same class and patient;
    # two copies of each
    train = originals[originals["split"] == "train"]
    both = ["fold", "class", "original", "patient"]
    counts = copies.groupby(both).size()
    assert sorted(counts.index) == sorted(train[both].itertuples(index=False, name=None))
    assert (counts == 2).all()
    assert set(copies["path"].map(lambda p: Path(p).stem[-6:])) == {"_aug01", "_aug02"}
    for path in copies["path"][:3]:
        with Image.open(output / path) as image:
            assert (image.size, image.mode, image.format) == ((32, 32), "RGB", "JPEG")

    # a file is written once and linked into the other folds
    same = [p for p in output.rglob("M0_0_aug01.jpg")]
    assert len(same) > 1
    assert all(p.samefile(same[0]) for p in same)

    out = capsys.readouterr().out
    assert "patients 7 7 14" in " ".join(out.split())
    assert "Patients: 14, told from 18 file names" in out
    assert "WARNING" not in out
    record = json.loads((output / "folds.json").read_text())
    assert record["classes"]["Mpox"] == {"pictures": 9, "patients": 7}
    assert {"seed", "copies", "warnings", "augment", "versions"} < set(record)
    assert listing(tmp_path / "deep") == ["out"]


def test_byte_identical_whatever_the_threads_and_the_state_of_torch(source, tmp_path, augment):
    make(source, tmp_path / "a", augment, threads=1)
    before, torch_threads = torch.get_rng_state(), torch.get_num_threads()
    torch.manual_seed(5)
    (tmp_path / "b").mkdir()  # an empty folder is fine
    make(source, tmp_path / "b", augment, threads=4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert torch.get_num_threads() == torch_threads
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.set_rng_state(before)
    make(source, tmp_path / "c", augment, seed=1)
    assert torch.equal(torch.get_rng_state(), before)  # left as it was
    assert not torch.equal(torch.rand(3), expected)
    one, other = (
        next(p.rglob("M0_0_aug01.jpg")).read_bytes() for p in (tmp_path / "a", tmp_path / "c")
    )
    assert one != other


def test_a_copy_hangs_on_seed_original_and_number_alone(source, tmp_path, augment):
    make(source, tmp_path / "all", augment)
    make(source, tmp_path / "fewer", augment, exclude=["Mpox/M6_0.jpg"], copies=1)
    one, other = (
        next((tmp_path / d).rglob("M0_0_aug01.jpg")).read_bytes() for d in ("all", "fewer")
    )
    assert one == other
    assert not list((tmp_path / "fewer").rglob("M6_0*"))


def test_without_links_and_without_copies(source, tmp_path, augment, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    make(source, tmp_path / "a", augment)
    monkeypatch.undo()
    make(source, tmp_path / "b", augment)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    make(source, tmp_path / "c", augment, copies=0)
    assert not index_folds(tmp_path / "c", CLASSES, PATTERN)["augmented"].any()
    assert not (tmp_path / "c" / "FOLDS_AUG").exists()


def test_nothing_is_overwritten(source, tmp_path, augment):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / ".busy.partial").mkdir()
    cases = [
        ("full", "nothing is overwritten"),
        ("file", "nothing is overwritten"),
        ("busy", "is at work"),
    ]
    cases += [("flat/out", "is inside source"), ("flat", "is inside source")]
    before = contents(tmp_path)
    for name, message in cases:
        with pytest.raises(UserError, match=message):
            make(source, tmp_path / name, augment)
    with pytest.raises(UserError, match="is no folder"):
        make(tmp_path / "nowhere", tmp_path / "out", augment)
    for option in ({"copies": -1}, {"copies": 1.5}, {"size": 0}):
        with pytest.raises(UserError, match="should be a whole number from"):
            make(source, tmp_path / "out", augment, **option)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")]
)
@pytest.mark.parametrize("place", ["augment", "write", "end"])
def test_nothing_is_left_of_a_failure(source, tmp_path, augment, monkeypatch, failure, place):
    calls = 0

    def fail(*_, **__):
        nonlocal calls
        calls += 1
        if calls > (10 if place == "write" else 0):
            raise failure

    if place == "write":
        monkeypatch.setattr(module, "_write_copy", fail)
    elif place == "end":
        monkeypatch.setattr(module, "write_json", fail)
    before = contents(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(failure if isinstance(failure, type) else type(failure)):
        make(source, tmp_path / "out", fail if place == "augment" else augment)
    assert contents(tmp_path) == before
    assert listing(tmp_path) == ["flat", "out"]


def test_bad_pictures_are_all_named_before_anything_is_written(source, tmp_path, augment):
    (source / "Mpox/M3_0.jpg").write_bytes(b"")
    whole = (source / "Other ones/O4_0.jpg").read_bytes()
    (source / "Other ones/O4_0.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError) as error:
        make(source, tmp_path / "out", augment)
    assert "Mpox/M3_0.jpg: is empty" in str(error.value)
    assert "Other ones/O4_0.jpg: cannot be decoded" in str(error.value)
    assert "data.exclude=[" in str(error.value)
    assert listing(tmp_path) == ["flat"]
    make(source, tmp_path / "out", augment, exclude=["Mpox/M3_0.jpg", "*/O4_0.jpg"])


def test_odd_pictures_get_copies(source, tmp_path, augment):
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(source / "Mpox/M0_5.png")
    Image.fromarray(np.zeros((20, 30, 4), np.uint8), "CMYK").save(source / "Mpox/M0_6.tif")
    make(source, tmp_path / "out", augment, copies=1, size=None)
    for stem in ("M0_5", "M0_6"):
        with Image.open(next((tmp_path / "out").rglob(f"{stem}_aug01.jpg"))) as image:
            assert (image.size, image.mode) == ((30, 20), "RGB")


def test_one_picture_under_two_patients_keeps_them_together(source, tmp_path, augment, capsys):
    shutil.copy(source / "Mpox/M0_0.jpg", source / "Mpox/M6_3.jpg")
    folds = make(source, tmp_path / "out", augment)
    assert folds[folds["patient"].isin(["M0", "M6"])].groupby("fold")["split"].nunique().eq(1).all()
    out = capsys.readouterr().out
    assert "WARNING: 1 picture(s) lie there under several patients. Those who share one are" in out
    assert "Mpox/M0_0.jpg and Mpox/M6_3.jpg" in out


def test_one_picture_under_two_labels_is_told(source, tmp_path, augment, capsys):
    with Image.open(source / "Mpox/M0_0.jpg") as picture:
        picture.rotate(90).save(source / "Other ones/O6_3.jpg", quality=90)
    make(source, tmp_path / "out", augment)
    out = capsys.readouterr().out
    assert "WARNING: 1 picture(s) lie in several classes. One label is right" in out
    assert "Mpox/M0_0.jpg and Other ones/O6_3.jpg" in out


def test_the_next_command_is_understood(monkeypatch):
    names = ['A "b", c', "null", "Zoë's"]
    of_data = ["data=msld_v1", "data.root=elsewhere", "++data.exclude=[a]", "++data.image_size=64"]
    monkeypatch.setattr(sys, "argv", ["scripts/make_folds.py", "source=x", "copies=3", *of_data])
    for output in ("out/x", "a b (1)/ü", "123", "null"):
        command = shlex.split(next_command(output, "custom", names, 0))
        assert command[:3] == ["python", "scripts/train.py", "fold=1"]
        with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
            data = compose("train", command[2:]).data
        assert data.train_images == "original"
        assert (data.root, data.classes, data.image_size, data.exclude) == (output, names, 64, [])


def test_the_command(source, tmp_path):
    script = [sys.executable, PROJECT / "scripts" / "make_folds.py", "output=out/folds"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: source=DIR must be given" in done.stderr
    # by the path that it was called by: it works from here
    scripts = (PROJECT / "scripts").as_posix()
    assert f"python {scripts}/make_folds.py source=pictures output=data/custom\n" in done.stderr
    assert "Traceback" not in done.stderr
    arguments = ["source=flat", "copies=1", "size=16"]
    done = subprocess.run([*script, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    named = """'data.classes=["Mpox","Other ones"]'"""
    assert (
        f"Next: python {scripts}/train.py fold=1 data=custom data.root=out/folds {named}\n"
        in done.stdout
    )
    assert listing(tmp_path) == ["data", "flat", "out"]  # data: the cache
    assert "RandomAffine" in (tmp_path / "out/folds/folds.json").read_text()


def test_mistakes_on_the_command_line(source, tmp_path, run_script):
    one_patient = "data.name_pattern='(?P<original>(?P<patient>[MO])\\d_\\d)(?P<copy>.+)?'"
    for argument, message in [
        ("output=flat/x", "is inside source"),
        ("data=msld_v1", "data.classes does not name"),
        (one_patient, "Mpox: 1 patient"),
        ("n_folds=8", "Mpox: 7 patient"),
        ("copies=many", "copies"),
    ]:
        done = run_script("make_folds", "source=flat", "output=out", argument)
        assert done.code == 1
        assert message in done.err
        assert "Traceback" not in done.err
    assert set(listing(tmp_path)) <= {"data", "flat"}  # data: the cache


@pytest.mark.slow
def test_real_photographs(real_data, tmp_path, config, augment, capsys):
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        data = compose("make_folds", ["data=msld_v1"]).data
    folds = make_folds(
        real_data,
        tmp_path / "out",
        data.classes,
        data.name_pattern,
        augment,
        copies=1,
        cache_dir=tmp_path / "cache",
    )
    assert folds["image"].nunique() == 228
    assert folds["patient"].nunique() == 162
    assert "Patients: 162, told from 228 file names" in capsys.readouterr().out
    table = index_folds(tmp_path / "out", data.classes, data.name_pattern)
    assert table["original"].nunique() == 228
    assert (
        table[table["patient"].isin(["NM68", "NM110"])]
        .groupby("fold")["split"]
        .nunique()
        .eq(1)
        .all()
    )
