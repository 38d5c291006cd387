import shutil

import pytest

from conftest import CLASSES, PATTERN, write_picture, write_tree
from mpoxcv.errors import UserError
from mpoxcv.pictures.tree import index_flat, index_folds


def index(root, folds=(1, 2), **options):
    return index_folds(root, CLASSES, PATTERN, folds, **options)


def test_the_table_has_every_picture_once(tree):
    table = index(tree)
    assert len(table) == 2 * 3 * 3 * 3 + 2 * 3 * 3 * 2
    assert set(table["split"]) == {"train", "val", "test"}
    row = table[table["path"] == "FOLDS_AUG/fold2_AUG/Train/Cowpox/COW_1_01_0_1.jpg"].iloc[0]
    assert row.to_dict() == {
        "path": "FOLDS_AUG/fold2_AUG/Train/Cowpox/COW_1_01_0_1.jpg",
        "image": "Cowpox/COW_1_01_0_1.jpg",
        "class": "Cowpox",
        "label": 1,
        "fold": 2,
        "split": "train",
        "augmented": True,
        "patient": "COW_1",
        "original": "COW_1_01",
    }
    assert set(table.loc[table["augmented"], "split"]) == {"train"}


def test_labels_follow_the_config_not_the_listing(tree):
    table = index_folds(tree, CLASSES[::-1], PATTERN, [1])
    assert table.groupby("class")["label"].first().to_dict() == {
        "Measles": 0,
        "Cowpox": 1,
        "Chickenpox": 2,
    }


@pytest.mark.parametrize("name", ["valid", "VALIDATION", "Val", "val"])
def test_spellings_of_valid(tree, name):
    folder = tree / "FOLDS/fold1"
    (folder / "Valid").rename(folder / "elsewhere")
    (folder / "elsewhere").rename(folder / name)
    assert (index(tree)["split"] == "val").sum() == 18


def test_doubled_folders_and_system_files(tmp_path):
    tree = write_tree(tmp_path / "plain")
    root = tmp_path / "kaggle"
    shutil.copytree(tree / "FOLDS", root / "Original Images/Original Images/FOLDS")
    shutil.copytree(tree / "FOLDS_AUG", root / "Augmented Images/Augmented Images/FOLDS_AUG")
    originals = root / "Original Images/Original Images/FOLDS"
    for junk in (
        "fold1/.DS_Store",
        "fold1/Train/Thumbs.db",
        "fold1/Train/Cowpox/._COW_1_01.jpg",
        "fold1/notes.txt",
    ):
        (originals / junk).write_bytes(b"junk")
    (originals / "fold1/__MACOSX").mkdir()
    (originals / "fold1/Test/Cowpox/COW_20_01.jpg").rename(
        originals / "fold1/Test/Cowpox/COW_20_01.JPEG"
    )
    table = index(root)
    assert len(table) == len(index(tree))
    assert "Cowpox/COW_20_01.JPEG" in set(table["image"])


def test_the_root_may_be_called_folds(tree, tmp_path):
    assert len(index(tree.rename(tmp_path / "folds"))) == 90


def test_exclude_takes_paths_and_patterns(tree):
    full = len(index(tree))
    assert len(index(tree, exclude=["FOLDS/fold1/Train/Cowpox/COW_0_01.jpg"])) == full - 1
    assert len(index(tree, exclude=["*/COW_0_01*"])) == full - 2 - 4


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: shutil.rmtree(t / "FOLDS/fold2"), ["Fold 2 is missing", "FOLDS", "fold1"]),
        (lambda t: shutil.rmtree(t / "FOLDS_AUG/fold2_AUG"), ["Fold 2 is missing", "FOLDS_AUG"]),
        (lambda t: shutil.rmtree(t / "FOLDS/fold1/Valid"), ["val split of fold 1", "fold1"]),
        (
            lambda t: (shutil.rmtree(t / "FOLDS/fold1/Test"), (t / "FOLDS/fold1/Test").mkdir()),
            ["fold1/Test is empty"],
        ),
        (
            lambda t: (t / "FOLDS/fold1/Train/Mealses").mkdir(),
            ["Mealses", "fold1/Train", "Did you mean 'Measles'"],
        ),
        (
            lambda t: shutil.rmtree(t / "FOLDS/fold1/Train/Cowpox"),
            ["Cowpox has no folder", "fold1/Train"],
        ),
        (
            lambda t: [p.unlink() for p in (t / "FOLDS/fold1/Train/Cowpox").iterdir()],
            ["Cowpox has no picture", "Train/Cowpox"],
        ),
        (
            lambda t: [p.unlink() for p in (t / "FOLDS/fold1/Test").glob("*/*")],
            ["fold1/Test holds no picture of Chickenpox, Cowpox, Measles"],
        ),
        (
            lambda t: (t / "FOLDS/fold1/Tset").mkdir(),
            ["Unexpected folder", "Tset", "Did you mean 'test'"],
        ),
        (lambda t: (t / "FOLDS/fold1/validation").mkdir(), ["val split twice"]),
        (
            lambda t: write_picture(t / "FOLDS/fold1/Train/Cowpox/holiday.jpg", 1),
            ["holiday.jpg", "data.name_pattern"],
        ),
        (lambda t: shutil.rmtree(t / "FOLDS"), ["no folder FOLDS"]),
        (lambda t: shutil.copytree(t / "FOLDS", t / "copy/FOLDS"), ["2 folders FOLDS"]),
        (
            shutil.rmtree,
            [
                "There is no data in",
                "get_data.py",
                "data=synthetic",
                "make_folds.py source=DIR output=",
            ],
        ),
    ],
)
def test_the_unexpected_is_an_error_that_names_the_folder(tree, damage, words):
    damage(tree)
    with pytest.raises(UserError) as error:
        index(tree)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("pattern", ["(", "(?P<patient>.+)", "(?P<original>.+)"])
def test_a_pattern_that_cannot_work_is_refused(tree, pattern):
    with pytest.raises(UserError, match=r"data\.name_pattern"):
        index_folds(tree, CLASSES, pattern)


def test_flat_folder(tree):
    flat = index_flat(tree / "FOLDS/fold1/Train", None, PATTERN)
    assert list(flat["class"].unique()) == CLASSES
    assert flat["image"].is_unique
    assert len(flat) == 9
