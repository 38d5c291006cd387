import inspect
import json
import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from mpoxcv.datasets import synthetic
from mpoxcv.datasets.published import CLASS_COUNTS, SPLIT_COUNTS, TEST_CLASS_COUNTS
from mpoxcv.datasets.synthetic import is_synthetic, write_synthetic
from mpoxcv.errors import UserError
from mpoxcv.pictures.patients import NamePattern, parse_names
from mpoxcv.pictures.tree import index_folds

CONF = str(Path(__file__).parents[2] / "conf")
FOLDS = list(SPLIT_COUNTS)


@pytest.fixture(scope="module")
def options():
    with initialize_config_dir(CONF, version_base=None):
        return compose("train", ["data=synthetic"]).data


@pytest.fixture(scope="module")
def tree(tmp_path_factory, options):
    root = tmp_path_factory.mktemp("data") / "synthetic"
    write_synthetic(root, size=32, copies=2)
    return root, index_folds(root, options.classes, options.name_pattern)


def hashes(root: Path) -> dict[str, str]:
    return {
        str(file.relative_to(root)): sha256(file.read_bytes()).hexdigest()
        for file in root.rglob("*")
        if file.is_file()
    }


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


def test_published_counts_agree_with_each_other():
    assert tuple(map(sum, zip(*CLASS_COUNTS.values(), strict=True))) == (755, 541)
    for fold, counts in SPLIT_COUNTS.items():
        assert counts["train"] + counts["val"] + counts["test"] == 755
        assert counts["augmented"] == 14 * counts["train"]
        assert sum(TEST_CLASS_COUNTS[fold].values()) == counts["test"]


def test_pictures_and_patients_are_as_many_as_published(tree):
    _, table = tree
    one = table[~table["augmented"] & (table["fold"] == 1)].groupby("class")
    counts = {name: (len(group), group["patient"].nunique()) for name, group in one}
    assert counts == CLASS_COUNTS
    assert one["image"].nunique().sum() == 755


@pytest.mark.parametrize("fold", FOLDS)
def test_fold_is_as_published_and_no_patient_crosses_its_splits(tree, fold):
    _, table = tree
    table = table[table["fold"] == fold]
    originals, augmented = table[~table["augmented"]], table[table["augmented"]]
    published = SPLIT_COUNTS[fold]
    assert originals["split"].value_counts().to_dict() == {
        s: published[s] for s in ("train", "val", "test")
    }
    assert len(augmented) == 2 * published["train"]
    test = originals[originals["split"] == "test"]
    assert test["class"].value_counts().to_dict() == TEST_CLASS_COUNTS[fold]
    val = originals.loc[originals["split"] == "val", "class"].value_counts()
    for name, (count, _) in CLASS_COUNTS.items():
        assert abs(val[name] - published["val"] * count / 755) < 1
    assert (table.groupby("patient")["split"].nunique() == 1).all()
    assert set(augmented["original"]) == set(
        originals.loc[originals["split"] == "train", "original"]
    )


@pytest.mark.parametrize("seed", range(5))
def test_counts_come_out_for_any_seed(seed):
    pictures = pd.DataFrame(synthetic._pictures(seed))
    atypical = pictures["shown"] != pictures["name"]
    assert (pictures.groupby(["name", "patient"])["shown"].nunique() == 1).all()
    for fold, counts in SPLIT_COUNTS.items():
        splits = pictures["splits"].map(lambda s, fold=fold: s[fold])
        assert splits.value_counts().to_dict() == {s: counts[s] for s in ("train", "val", "test")}
        assert abs(atypical[splits == "test"].sum() - synthetic.ATYPICAL * counts["test"]) <= 1


def test_a_picture_is_one_file_in_all_folds(tree):
    root, table = tree
    inodes = table.assign(inode=[(root / path).stat().st_ino for path in table["path"]])
    assert (inodes.groupby("image")["inode"].nunique() == 1).all()
    assert inodes["inode"].nunique() == inodes["image"].nunique()


def test_pictures_are_jpegs_of_the_size_and_show_something(tree):
    root, table = tree
    for path in table.groupby(["class", "augmented"])["path"].first():
        with Image.open(root / path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
            assert np.asarray(image).std() > 3
    originals = table[~table["augmented"]].drop_duplicates("image")["path"]
    assert len({(root / path).read_bytes() for path in originals}) == 755


def test_same_options_same_files_whatever_the_threads(tmp_path):
    write_synthetic(tmp_path / "a", seed=3, size=16, copies=1, folds=[3], threads=1)
    write_synthetic(tmp_path / "b", seed=3, size=16, copies=1, folds=[3], threads=5)
    write_synthetic(tmp_path / "c", seed=4, size=16, copies=1, folds=[3])
    a, b, c = (hashes(tmp_path / name) for name in "abc")
    assert len(a) == 755 + 538 + 1
    assert a == b
    assert not set(a.values()) & set(c.values())


def test_folds_hold_the_same_alone_as_together(tree, tmp_path):
    write_synthetic(tmp_path / "alone", size=32, copies=2, folds=(5,))
    alone, together = hashes(tmp_path / "alone"), hashes(tree[0])
    pictures = {path: digest for path, digest in alone.items() if path.endswith(".jpg")}
    assert pictures.items() <= together.items()
    assert {Path(path).parts[1] for path in pictures} == {"fold5", "fold5_AUG"}


def test_no_copies_no_folder_of_copies(tmp_path):
    write_synthetic(tmp_path / "data", size=16, copies=0, folds=[1])
    assert sorted(leftovers(tmp_path / "data")) == ["FOLDS", "synthetic.json"]


def test_root_with_the_same_options_is_left_alone(tree, monkeypatch):
    root, _ = tree
    monkeypatch.setattr(synthetic, "_write_tree", lambda *_: pytest.fail("drawn again"))
    write_synthetic(str(root), size=32, copies=2)
    assert json.loads((root / "synthetic.json").read_text()) == {
        "synthetic": True,
        "version": synthetic.VERSION,
        "seed": 0,
        "size": 32,
        "copies": 2,
        "folds": FOLDS,
    }


def test_root_with_other_options_is_an_error(tree):
    root, _ = tree
    with pytest.raises(UserError, match=r"size=32, not 64; folds=\[1, 2, 3, 4, 5\], not \[2\]\.\n"):
        write_synthetic(root, size=64, copies=2, folds=[2])


@pytest.mark.parametrize("marker", [None, "", "[1]", "{}"])
def test_root_that_is_something_else_is_an_error_and_untouched(tmp_path, marker):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    if marker is not None:
        (tmp_path / "data" / "synthetic.json").write_text(marker)
    before = hashes(tmp_path)
    with pytest.raises(
        UserError, match=r"data holds other|data is there and holds no synthetic data"
    ):
        write_synthetic(tmp_path / "data")
    assert hashes(tmp_path) == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_when_interrupted(tmp_path, monkeypatch, error):
    encode, calls = synthetic._encode, []

    def interrupted(image):
        calls.append(image)
        if len(calls) == 40:
            raise error
        return encode(image)

    monkeypatch.setattr(synthetic, "_encode", interrupted)
    with pytest.raises(type(error)):
        write_synthetic(tmp_path / "data", size=16)
    assert leftovers(tmp_path) == []
    assert len(calls) < 755  # the rest was not drawn in vain
    monkeypatch.undo()
    write_synthetic(tmp_path / "data", size=16, copies=1, folds=[1])
    assert leftovers(tmp_path) == ["data"]


def test_remains_of_a_killed_process_are_cleared(tmp_path):
    (tmp_path / ".data.partial" / "FOLDS").mkdir(parents=True)
    write_synthetic(tmp_path / "data", size=16, copies=0, folds=[1])
    assert leftovers(tmp_path) == ["data"]


def test_two_at_once_make_one(tmp_path, monkeypatch):
    made = []
    write_tree = synthetic._write_tree
    monkeypatch.setattr(synthetic, "_write_tree", lambda *args: (made.append(1), write_tree(*args)))
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(write_synthetic, tmp_path / "data", 0, 16, 0, [1]) for _ in range(2)]
    assert [job.result() for job in jobs] == [None, None]
    assert len(made) == 1


def test_copies_where_links_are_not_to_be_had(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    write_synthetic(tmp_path / "linked", size=16, copies=0, folds=[1, 2])
    monkeypatch.setattr(os, "link", link)
    write_synthetic(tmp_path / "copied", size=16, copies=0, folds=[1, 2])
    assert hashes(tmp_path / "linked") == hashes(tmp_path / "copied")


@pytest.mark.parametrize(
    "wrong",
    [{"seed": -1}, {"size": 8}, {"size": "big"}, {"copies": -1}, {"folds": [6]}, {"folds": []}],
)
def test_wrong_options_are_named(tmp_path, wrong):
    with pytest.raises(UserError, match=rf"data\.generator\.{next(iter(wrong))}="):
        write_synthetic(tmp_path / "data", **wrong)
    assert leftovers(tmp_path) == []


def test_is_synthetic(tree, tmp_path):
    assert is_synthetic(tree[0])
    assert is_synthetic(str(tree[0]))
    assert not is_synthetic(tmp_path)
    assert not is_synthetic(tmp_path / "missing")


def test_config_has_the_defaults_of_the_function(options):
    defaults = {n: p.default for n, p in inspect.signature(write_synthetic).parameters.items()}
    given = {key: options.generator[key] for key in ("seed", "size", "copies")}
    assert given == {key: defaults[key] for key in given}
    assert tuple(options.generator.folds) == defaults["folds"]
    assert (options.name, options.root) == ("synthetic", "data/synthetic")
    assert list(options.classes) == list(CLASS_COUNTS)


@pytest.mark.parametrize(
    ("stem", "patient", "original"),
    [
        ("MKP_17_01", "MKP_17", "MKP_17_01"),
        ("HEALTHY_104_01", "HEALTHY_104", "HEALTHY_104_01"),
        ("CHP_01_01_10_1", "CHP_01", "CHP_01_01"),
        ("MKP_17_01_aug03", "MKP_17", "MKP_17_01"),
    ],
)
def test_name_pattern_of_the_config(options, stem, patient, original):
    table = pd.DataFrame({"path": [f"x/{stem}.jpg"]})
    names = parse_names(table, NamePattern(options.name_pattern))
    assert names.iloc[0].to_dict() == {"patient": patient, "original": original}
