"""Each way in which a split can know another is found, counted in pictures, and told."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import CLASSES, PATTERN, write_picture
from mpoxcv import MSLDDataModule
from mpoxcv.audit import leaks as module
from mpoxcv.audit.audit import Finding, audit
from mpoxcv.audit.leaks import settle_leaks
from mpoxcv.errors import UserError
from mpoxcv.pictures.cache import digest_files
from mpoxcv.pictures.tree import index_folds

TRAIN, VALID, TEST = (f"FOLDS/fold1/{split}/Cowpox" for split in ("Train", "Valid", "Test"))
VAL_PICTURE, TEST_PICTURE = f"{VALID}/COW_10_01.jpg", f"{TEST}/COW_20_01.jpg"
PATIENT = "a patient has pictures in Valid and in Test"
PHOTOGRAPH = "a photograph is in Valid and in Test"


def findings(tree: Path, folds: tuple[int, ...] = (1, 2), **options: float) -> dict[str, Finding]:
    table = index_folds(tree, CLASSES, PATTERN, folds)
    return {f.kind: f for f in audit(table, tree, tree.parent / "cache", **options)}


def settle(tree: Path, choice: str, **options: float) -> tuple[pd.DataFrame, dict]:
    table = index_folds(tree, CLASSES, PATTERN, [1])
    table = table.assign(digest=digest_files(tree, table["path"].tolist()))
    return settle_leaks(table, tree, choice, tree.parent / "cache", **options)


@pytest.mark.parametrize("held", [VAL_PICTURE, TEST_PICTURE])
def test_a_leak_from_valid_counts_as_one_from_test(tree: Path, held: str) -> None:
    shutil.copy(tree / held, tree / TRAIN / "COW_90_01.jpg")
    kind = "a picture of Valid or Test is also in Train, pixel by pixel"
    assert findings(tree)[kind].examples == [(f"{TRAIN}/COW_90_01.jpg", held)]
    kept, outcome = settle(tree, "drop")
    assert outcome["leaks"] == {"same picture": 1} and outcome["dropped"] == 1
    assert not kept["path"].str.contains("COW_90").any()
    with pytest.raises(UserError, match=f"COW_90_01.jpg and {held}"):
        settle(tree, "stop")


def test_pictures_are_counted_and_not_what_they_leak_from(tree: Path) -> None:
    """One training picture is in Valid and in Test, and of a patient of Test."""
    shutil.copy(tree / VAL_PICTURE, tree / TRAIN / "COW_20_02.jpg")
    shutil.copy(tree / VAL_PICTURE, tree / TEST / "COW_21_02.jpg")
    with pytest.raises(UserError, match=r"^1 training picture\(s\) of fold 1 leak"):
        settle(tree, "stop")
    _, outcome = settle(tree, "drop")
    assert outcome["leaks"] == {"same patient": 1, "same picture": 1} and outcome["dropped"] == 1
    same = findings(tree)["a picture of Valid or Test is also in Train, pixel by pixel"]
    assert same.count == 1 and set(same.cases["other"]) == {VAL_PICTURE, f"{TEST}/COW_21_02.jpg"}


def test_the_message_names_three_ways(tree: Path) -> None:
    shutil.copy(tree / TEST_PICTURE, tree / TRAIN / "COW_90_01.jpg")
    with pytest.raises(UserError) as refused:
        settle(tree, "stop")
    for way in ("protocol=grouped", "data.leaks=drop", "data.leaks=allow", "get_data.py"):
        assert way in str(refused.value)


def test_valid_and_test_of_one_fold_alone_are_compared(tree: Path) -> None:
    """The patient of fold 1's Valid is in fold 2's Test, where nothing was chosen on them."""
    only_here = tree / VALID / "COW_70_01.jpg"
    write_picture(only_here, 501)
    shutil.copy(only_here, tree / "FOLDS/fold2/Test/Cowpox/COW_70_07.jpg")
    found = findings(tree)
    assert PATIENT not in found and PHOTOGRAPH not in found
    write_picture(tree / TEST / "COW_10_09.jpg", 500)
    assert findings(tree)[PATIENT].cases[["fold", "picture", "other"]].to_numpy().tolist() == [
        [1, VAL_PICTURE, f"{TEST}/COW_10_09.jpg"]
    ]


def test_a_photograph_in_valid_and_in_test_is_told(tree: Path) -> None:
    shutil.copy(tree / VAL_PICTURE, tree / TEST / "COW_95_01.jpg")
    assert findings(tree)[PHOTOGRAPH].examples == [(VAL_PICTURE, f"{TEST}/COW_95_01.jpg")]
    data = MSLDDataModule(tree, CLASSES, PATTERN, fold=1, cache_dir=tree.parent / "cache")
    data.read()
    assert data.audit["in_valid_and_test"] == 1 and data.audit["leaks"] == {}
    assert any(d.startswith("1 picture(s) of Valid are of a patient or") for d in data.doubts)


@pytest.mark.parametrize("used", ["both", "augmented"])
def test_a_copy_whose_original_is_in_no_split_is_told(tree: Path, used: str) -> None:
    options = {"fold": 1, "cache_dir": tree.parent / "cache", "train_images": used}
    kind = "augmented pictures have no original in their fold"
    clean = MSLDDataModule(tree, CLASSES, PATTERN, **options)
    clean.read()
    assert kind not in " ".join(clean.doubts) and kind not in findings(tree)
    copies = "FOLDS_AUG/fold1_AUG/Train/Cowpox"
    for number in (1, 2):
        write_picture(tree / copies / f"COW_80_01_{number}_1.jpg", 600 + number)
    assert findings(tree)[kind].count == 2 and findings(tree)[kind].severity == "warning"
    data = MSLDDataModule(tree, CLASSES, PATTERN, **options)
    data.read()
    assert any(d.startswith(f"2 {kind}, for example {copies}/COW_80_01_1") for d in data.doubts)


@pytest.fixture
def suspected(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two originals and a copy in Train are like a picture of Test: 0.99, 0.95 and 0.92."""
    table = index_folds(tree, CLASSES, PATTERN, [1])

    def told(left: np.ndarray, right: np.ndarray, *_: object) -> pd.DataFrame:
        rows = {path: records[path] for path in wanted}
        ends = [(rows[TEST_PICTURE], rows[path], value) for path, value in wanted.items() if value]
        return pd.DataFrame(ends, columns=["left", "right", "likeness"])

    copy = "FOLDS_AUG/fold1_AUG/Train/Cowpox/COW_0_01_0_1.jpg"
    wanted = {
        f"{TRAIN}/COW_0_01.jpg": 0.99,
        f"{TRAIN}/COW_1_01.jpg": 0.95,
        copy: 0.92,
        TEST_PICTURE: 0,
    }
    described = module.describe(
        tree, [*wanted], digest_files(tree, [*wanted]), tree.parent / "cache"
    )  # fmt: skip
    records = dict(zip(wanted, described["pixels"], strict=True))
    assert set(wanted) <= set(table["path"])
    monkeypatch.setattr(module, "likenesses", told)
    monkeypatch.setattr("mpoxcv.audit.audit.likenesses", told)
    return tree


@pytest.mark.parametrize(
    ("leaks_from", "dropped", "left"), [(0.98, 1, 2), (0.93, 2, 1), (0.9, 3, 0)]
)
def test_one_degree_decides_what_leaks_and_the_rest_is_told(
    suspected: Path, leaks_from: float, dropped: int, left: int
) -> None:
    kept, outcome = settle(suspected, "drop", leaks_from=leaks_from)
    n = len(index_folds(suspected, CLASSES, PATTERN, [1]))
    assert (n - len(kept), outcome["dropped"]) == (dropped, dropped)
    assert sum(outcome["leaks"].values()) == dropped
    assert sum(outcome["suspected"].values()) == left
    told = list(module.told(outcome))
    assert told[0].startswith(f"{dropped} training picture(s) leak and are left out")
    assert len(told) == 1 + (left > 0)
    assert not left or told[1].startswith(f"{left} more training picture(s) are suspected")
    with pytest.raises(UserError, match=rf"^{dropped} training picture"):
        settle(suspected, "stop", leaks_from=leaks_from)

    found = findings(suspected, (1,), leaks_from=leaks_from).values()
    by_severity = {s: [f for f in found if f.severity == s] for s in ("leak", "warning")}
    assert sum(f.count for f in by_severity["leak"]) == dropped
    doubted = [f for f in by_severity["warning"] if f.kind.startswith("suspected: ")]
    assert sum(f.count for f in doubted) == left
    cases = pd.concat([f.cases for f in [*by_severity["leak"], *doubted]])
    assert sorted(cases["likeness"]) == [0.92, 0.95, 0.99]


@pytest.mark.parametrize("value", [0.5, 1.2, "high"])
def test_leaks_from_is_a_likeness(tree: Path, value: object) -> None:
    with pytest.raises(UserError, match=r"data.leaks_from=.* should be a number from 0.9 to 1"):
        MSLDDataModule(tree, CLASSES, PATTERN, fold=1, leaks_from=value)
