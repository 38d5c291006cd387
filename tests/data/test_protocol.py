import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from conftest import CLASSES, PATTERN, write_picture
from mpoxcv import MSLDDataModule
from mpoxcv.data import protocol
from mpoxcv.data.protocol import fold_table, permute_labels
from mpoxcv.errors import UserError


@pytest.fixture
def folds(tmp_path):
    """Five folds of 90 pictures, 60 patients; picture i is tested in fold i % 5 of 4 folds only."""
    root = tmp_path / "set"
    for c, name in enumerate(CLASSES):
        for i in range(30):
            stem = f"{name[:3].upper()}_{i // 3 * 2 + (i % 3 == 2):02d}_{i:02d}"
            for fold in range(1, 6):
                split = (
                    "Test"
                    if i % 5 == fold - 1 and fold < 5
                    else "Valid"
                    if i % 5 == fold % 5
                    else "Train"
                )
                write_picture(root / f"FOLDS/fold{fold}/{split}/{name}/{stem}.jpg", 100 * c + i, 16)
                if split == "Train":
                    write_picture(
                        root / f"FOLDS_AUG/fold{fold}_AUG/Train/{name}/{stem}_a_1.jpg",
                        1000 + 100 * c + i,
                        16,
                    )
            if not (root / f"FOLDS/fold5/Test/{name}").is_dir():
                write_picture(
                    root / f"FOLDS/fold5/Test/{name}/{name[:3].upper()}_90_90.jpg", 5000 + c, 16
                )
    return root


def table_of(root, fold, **options):
    return fold_table(root, CLASSES, PATTERN, fold, cache_dir=root.parent / "cache", **options)


def test_grouped_folds_tile_the_data_by_patient_without_copying(folds, tmp_path):
    before = sorted(p for p in folds.rglob("*"))
    tables = {fold: table_of(folds, fold, protocol="grouped") for fold in range(1, 6)}
    tested = pd.concat(t[t["split"] == "test"]["image"] for t in tables.values())
    assert len(tested) == 93 and tested.is_unique
    for table in tables.values():
        assert table.groupby(["class", "patient"])["split"].nunique().max() == 1
        train = table[table["split"] == "train"]
        assert set(table[table["augmented"]]["original"]) <= set(
            train[~train["augmented"]]["original"]
        )
        assert (
            table["augmented"].sum() > 30 and (table[table["augmented"]]["split"] == "train").all()
        )
        assert not table["path"].duplicated().any()
    assert sorted(p for p in folds.rglob("*")) == before
    kept = pd.read_csv(tmp_path / "set_grouped_folds.csv")
    assert len(kept) == 5 * 93


def test_patients_with_the_same_picture_are_split_as_one(tmp_path):
    rng = np.random.default_rng(0)
    for c, name in enumerate(CLASSES):
        for i in range(20):
            file = tmp_path / f"set/FOLDS/fold1/Train/{name}/{name[:3].upper()}_{i:02d}_01.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            coarse.resize((48, 48), Image.Resampling.BICUBIC).save(file)
            for split in ("Valid", "Test"):
                write_picture(
                    tmp_path
                    / f"set/FOLDS/fold1/{split}/{name}/{name[:3].upper()}_9{split[0]}_01.png",
                    c,
                )
            if i < 6:  # another patient's name, mirrored and re-encoded
                with Image.open(file) as picture:
                    copy = file.with_name(f"{name[:3].upper()}_{80 + i}_01.jpg")
                    ImageOps.mirror(picture).save(copy, quality=85)
    pattern = r"(?P<original>(?P<patient>[A-Z]+_\w+)_\d+)(?P<copy>_\d+_\d+)?"
    for fold in range(1, 6):
        table = fold_table(
            tmp_path / "set", CLASSES, pattern, fold, "grouped", cache_dir=tmp_path / "cache"
        )
        split = dict(zip(table["class"] + table["patient"], table["split"], strict=True))
        for name in CLASSES:
            code = name + name[:3].upper()
            assert all(split[f"{code}_{i:02d}"] == split[f"{code}_{80 + i}"] for i in range(6))


def test_the_split_file_is_the_truth(folds, tmp_path):
    file = tmp_path / "mine.csv"
    first = table_of(folds, 2, protocol="grouped", split_file=file, seed=1)
    assert table_of(folds, 2, protocol="grouped", split_file=file, seed=2).equals(first)
    assert not table_of(folds, 2, protocol="grouped", seed=2).equals(first)
    next(folds.glob(f"FOLDS/fold5/Test/{CLASSES[0]}/*.jpg")).unlink()
    write_picture(folds / f"FOLDS/fold5/Test/{CLASSES[0]}/CHI_91_91.jpg", 1, 16)
    with pytest.raises(UserError, match="other pictures"):
        table_of(folds, 2, protocol="grouped", split_file=file)
    file.write_text("nonsense\n")
    with pytest.raises(UserError, match="no table of folds"):
        table_of(folds, 2, protocol="grouped", split_file=file)


def test_all_folds_together_test_what_they_train_on_and_say_so(folds, tmp_path):
    table = table_of(folds, "leaking")
    test, train = table[table["split"] == "test"], table[table["split"] == "train"]
    assert test["image"].is_unique and len(set(test["image"]) & set(train["image"])) > 60
    data = MSLDDataModule(folds, CLASSES, PATTERN, "pooled", cache_dir=tmp_path / "cache")
    assert data.fold == "leaking"
    assert "TRAINED ON" in data.source
    with pytest.raises(UserError, match="pooled_"):
        MSLDDataModule(folds, CLASSES, PATTERN, "pooled_")


def test_permuted_labels_move_with_the_patient_and_leave_test_alone(folds):
    table = table_of(folds, 1)
    permuted = permute_labels(table, seed=3)
    assert permuted.equals(permute_labels(table, seed=3)) and not permuted.equals(
        permute_labels(table, seed=4)
    )
    test = table["split"] == "test"
    assert permuted[test].equals(table[test])
    assert permuted[~test].groupby(table["class"] + table["patient"])["label"].nunique().max() == 1
    shares = pd.crosstab(
        table[~test]["class"], permuted[~test]["class"], normalize="index"
    ).to_numpy()
    assert (
        0.2 < shares.min() and shares.max() < 0.5
    )  # a third of each class in every other, and in itself
    units = [
        t[~test].assign(key=table["class"] + table["patient"]).drop_duplicates("key")["class"]
        for t in (table, permuted)
    ]
    assert units[0].value_counts().to_dict() == units[1].value_counts().to_dict()
    assert [CLASSES[i] for i in permuted["label"]] == permuted["class"].tolist()


def test_a_file_under_two_patients_names_is_one_photograph_of_one(folds, tmp_path):
    """Both lie in one split, and the two patients' other pictures there are one patient's, too."""
    name = CLASSES[0]
    root = folds / f"FOLDS/fold1/Test/{name}"
    first, twin = root / "CHI_00_00.jpg", root / "CHI_77_00.jpg"
    assert first.is_file()
    twin.write_bytes(first.read_bytes())
    write_picture(root / "CHI_77_01.jpg", 7777, 16)
    data = MSLDDataModule(folds, CLASSES, PATTERN, 1, leaks="allow", cache_dir=tmp_path / "cache")
    data.setup()
    test = data.table("test").set_index(data.table("test")["path"].str.rpartition("/")[2])
    names = ["CHI_00_00.jpg", "CHI_77_00.jpg", "CHI_77_01.jpg"]
    assert test.loc[names, "patient"].nunique() == 1
    assert test.loc[names, "picture"].nunique() == 2
    others = test.drop(names)
    assert others["picture"].is_unique and (others["picture"] == others["image"]).all()


def test_of_runs_that_start_together_one_deals_the_folds(folds, tmp_path, monkeypatch):
    dealt = []
    assign = protocol.assign_folds

    def slowly(*arguments):
        dealt.append(1)
        time.sleep(0.5)
        return assign(*arguments)

    monkeypatch.setattr(protocol, "assign_folds", slowly)
    given = (folds, CLASSES, PATTERN, 1, "grouped", tmp_path / "folds.csv")
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(fold_table, *given, cache_dir=tmp_path / "cache") for _ in range(3)]
        tables = [call.result() for call in calls]
    assert dealt == [1] and all(table.equals(tables[0]) for table in tables)
