"""One way in for files: what a folder holds is the same for all commands."""

import importlib.util
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mpoxcv.pictures.images import decode

NAMES = ["A", "B"]
PATTERN = r"(?P<original>(?P<patient>P\d+)_\d+)(?P<copy>_aug\d+)?"
OPTIONS = [f"data.classes=[{','.join(NAMES)}]", f"data.name_pattern='{PATTERN}'", "data=custom"]
# a picture each, in any clothes
TAKEN = {
    "P1_1.jpg": "JPEG", "P2_1.jfif": "JPEG", "P3_1.jpe": "JPEG", "P4_1.JPG": "JPEG",
    "P5_1": "JPEG", "P6_1.png": "PNG", "P7_1.dat": "PNG", "P8_1": "WEBP", "P9_1.txt": "BMP",
    "P10_1": "TIFF", "P11_1.jpg": "PNG", "deep/P12_1.jpg": "JPEG", "deep/er/P13_1": "GIF",
}  # fmt: skip
PASSED_OVER = [
    "Thumbs.db", ".DS_Store", "desktop.ini", "notes.txt", "patients.csv", "labels.json", "a.xlsx",
    ".hidden/P90_1.jpg", "@eaDir/P91_1.jpg", "lost+found/P92_1.jpg", "$RECYCLE.BIN/P93_1.jpg",
    "#recycle/P94_1.jpg", "System Volume Information/P95_1.jpg", "__MACOSX/P96_1.jpg",
]  # fmt: skip
NAMED = ["clip.mov", "drawing.svg", "P97_1.cr2", "LICENSE", "deep/clip.mp4"]


def picture(seed: int, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def fill(folder: Path, seed: int) -> None:
    """Write pictures and what lies beside them; system folders and raw files hold pictures, too."""
    contents = {name: picture(seed + i, kind) for i, (name, kind) in enumerate(TAKEN.items())}
    for number, name in enumerate(PASSED_OVER + NAMED, seed + 50):
        kind = "TIFF" if name.endswith(".cr2") else "JPEG"
        contents[name] = picture(number, kind) if "P9" in name else b"words"
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "circle").symlink_to(folder)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flat")
    for seed, name in enumerate(NAMES):
        fill(folder / name, 100 * seed)
    (folder / "stray.jpg").write_bytes(picture(99))
    (folder / "readme.txt").write_bytes(b"words")
    (folder / "@eaDir").mkdir()
    return folder


def test_four_commands_take_the_same_files_and_name_the_rest(flat, run_script, tmp_path):
    options = [*OPTIONS, "data.root=folds"]
    made = run_script(
        "make_folds", f"source={flat}", "output=folds", "n_folds=3", "copies=1", "size=24", *OPTIONS
    )
    assert made.code == 0, made.err
    assert f"13 file(s) in {flat} are not taken" in made.err
    for name in (*NAMED, "circle: is a link to a folder", "stray.jpg: lies in no class folder"):
        assert name in made.err, name
    assert not any(name in made.err for name in ("Thumbs", "eaDir", "hidden", "txt", "csv"))
    folds = pd.read_csv(tmp_path / "folds/folds.csv")
    images = {f"{folder}/{name}" for folder in NAMES for name in TAKEN}
    assert set(folds["image"]) == images
    assert len(list(tmp_path.glob("folds/FOLDS/*/*/A/deep/P12_1.jpg"))) == 3

    # what comes into the folders later is told by every command that reads them
    train = tmp_path / "folds/FOLDS/fold1/Train"
    (train / "A/clip.mov").write_bytes(b"words")
    (train / "A/P1_9.heic.txt").write_bytes(b"words")
    said = "1 file(s) in folds are not taken:\n  FOLDS/fold1/Train/A/clip.mov: is no picture"
    checked = run_script("get_data", *options, "folds=3")
    assert checked.code == 0 and said in checked.err, checked.err
    (train / "A/clip.mov").rename(train / "A/clip.avi")
    run = ["fold=1", *options, "trainer=cpu", "trainer.max_epochs=1", "hydra.run.dir=run"]
    run += [f"callbacks.{name}=null" for name in ("figures", "progress", "samples")]
    trained = run_script("train", *run, "+trainer.enable_progress_bar=false")
    assert trained.code == 0, trained.err
    assert said.replace(".mov", ".avi") in trained.err
    predictions = pd.read_csv(tmp_path / "run/predictions.csv")
    table = folds[(folds["fold"] == 1) & (folds["split"] == "test")]
    assert set(predictions.query("split == 'test'")["image"]) == set(table["image"])

    done = run_script("predict", "run=run", f"images={flat}", "output=out.csv")
    assert done.code == 0, done.err
    told = {Path(path).relative_to(flat).as_posix() for path in pd.read_csv("out.csv")["image"]}
    assert told == images | {"stray.jpg"}
    assert f"12 file(s) in {flat} are not taken" in done.err and "clip.mp4" in done.err
    done = run_script("predict", "run=run", f"images='{flat}/*'", "output=glob.csv")
    assert len(pd.read_csv("glob.csv")) == len(told) and "clip.mp4" in done.err


@pytest.mark.parametrize("command", ["make_folds", "get_data", "train"])
def test_a_link_that_leads_nowhere_is_an_error(command, run_script, tmp_path, flat):
    root = tmp_path / "set"
    place = root if command == "make_folds" else root / "FOLDS/fold1/Train"
    for split in (place, *((place.parent / s) for s in ("Valid", "Test"))):
        shutil.copytree(flat / "A", split / "A", symlinks=True)
        shutil.copytree(flat / "B", split / "B", symlinks=True)
    (place / "A/P20_1.jpg").symlink_to("gone/P20_1.jpg")
    given = {
        "make_folds": [f"source={root}", "output=out"],
        "get_data": [f"data.root={root}", "folds=1"],
        "train": ["fold=1", f"data.root={root}", "data.train_images=original", "trainer=cpu"],
    }
    done = run_script(command, *given[command], *OPTIONS)
    assert done.code == 1 and "Traceback" not in done.err
    assert "A/P20_1.jpg cannot be read: it is a link to gone/P20_1.jpg, which is not" in done.err
    assert not (tmp_path / "out").exists()


def test_heic_is_read_or_its_decoder_is_named(run_script, tmp_path, flat):
    shutil.copytree(flat, tmp_path / "set", symlinks=True)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40
    installed = importlib.util.find_spec("pillow_heif")
    if installed:
        stream, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = 6
        image = Image.new("RGB", (96, 64), "red")
        importlib.import_module("pillow_heif").from_pillow(image).save(stream, exif=exif.tobytes())
        heic = stream.getvalue()
        assert decode(heic).shape == (96, 64, 3)
    for name in ("P30_1.HEIC", "P31_1"):
        (tmp_path / "set/A" / name).write_bytes(heic)
    given = ["source=set", "output=out", "n_folds=3", "copies=0", *OPTIONS]
    done = run_script("make_folds", *given)
    if not installed:
        assert done.code == 1
        for name in ("P30_1.HEIC", "P31_1"):
            assert (
                f"A/{name}: is not a picture" in done.err
                and "(HEIC needs: pip install pillow-heif)" in done.err
            )
        done = run_script("make_folds", *given, "data.exclude=['*/P3?_1*']")
    assert done.code == 0 and "HEIC" not in done.err


def test_a_class_of_other_files_alone_says_what_they_are(run_script, tmp_path):
    for name in NAMES:
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "lesion.dcm").write_bytes(b"\0" * 128 + b"DICM")
    done = run_script("make_folds", "source=set", "output=out", *OPTIONS)
    assert done.code == 1 and "Class A has no picture" in done.err and "lesion.dcm" in done.err


def test_files_that_are_no_files_do_not_stop_a_command(run_script, tmp_path, flat):
    shutil.copytree(flat, tmp_path / "set", symlinks=True)
    os.mkfifo(tmp_path / "set/A/P40_1.jpg")
    (tmp_path / "set/circle").symlink_to("circle")
    given = ["source=set", "output=out", "n_folds=3", "copies=0", *OPTIONS]
    done = run_script("make_folds", *given)
    assert done.code == 0 and "A/P40_1.jpg: is no picture" in done.err
    assert "circle: lies in no class folder" in done.err
    (tmp_path / "set/A/P41_1.jpg").symlink_to("P41_1.jpg")
    done = run_script("make_folds", *given[:1], "output=again", *given[2:])
    assert done.code == 1 and "A/P41_1.jpg cannot be read: it is a link to" in done.err
