import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from mpoxcv.audit.audit import audit
from mpoxcv.datasets.check import DIFFERS, _grid, check, count_rows
from mpoxcv.datasets.published import CLASS_COUNTS
from mpoxcv.datasets.synthetic import write_synthetic
from mpoxcv.errors import UserError
from mpoxcv.pictures.tree import index_folds

CLASSES = list(CLASS_COUNTS)
PATTERN = r"(?P<original>(?P<patient>[A-Za-z]+_\d+)_\d+)(?P<copy>_.+)?"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """An index with the published counts: the synthetic tree's, its one copy a picture 14 times."""
    root = tmp_path_factory.mktemp("check") / "set"
    write_synthetic(root, size=16, copies=1)
    table = index_folds(root, CLASSES, PATTERN)
    return pd.concat(
        [table[~table["augmented"]], *[table[table["augmented"]]] * 14], ignore_index=True
    )


def marked(rows: list[list[str]]) -> list[str]:
    return [cell for row in rows for cell in row if DIFFERS in cell]


def test_published_counts_stand_beside_and_agree(published: pd.DataFrame) -> None:
    rows = count_rows(published, CLASSES, compare=True)
    assert marked(rows) == []
    assert rows[0] == ["fold", "", *CLASSES, "total", "published"]
    assert [row[1] for row in rows[1:5]] == ["Train", "Valid", "Test", "FOLDS_AUG"]
    assert rows[3] == ["1", "Test", "9", "7", "9", "16", "6", "27", "74", "74"]
    assert rows[4][-2:] == ["7518", "7518"]
    assert rows[-2] == ["all", "pictures", "75", "66", "114", "161", "55", "284", "755", "755"]
    assert rows[-1] == ["all", "patients", "62", "41", "105", "144", "46", "143", "541", "541"]


def test_every_difference_is_marked(published: pd.DataFrame) -> None:
    by_fold_and_split = [published["fold"], published["augmented"], published["split"]]
    first = published.groupby(by_fold_and_split, sort=False)["path"].transform("first")
    rows = count_rows(published[published["path"] != first], CLASSES, compare=True)
    assert all(DIFFERS in row[-1] for row in rows[1:-2]), "one picture of each row was taken away"
    assert rows[3] == ["1", "Test", "8", "7", "9", "16", "6", "27", "73", f"{DIFFERS} 74"]

    one = (
        published["original"] == published.loc[published["patient"] == "MSL_01", "original"].iloc[0]
    )
    rows = count_rows(published[~one], CLASSES, compare=True)
    assert rows[-2][6:] == ["54", "284", "754", f"{DIFFERS} 755"]


def test_other_classes_are_not_compared(published: pd.DataFrame) -> None:
    rows = count_rows(published.head(100), CLASSES, compare=False)
    assert marked(rows) == [] and rows[0][-1] == "total" and {len(row) for row in rows} == {9}


@pytest.mark.parametrize("differ", [False, True])
def test_the_table_fits_100_columns(published: pd.DataFrame, differ: bool) -> None:
    rows = count_rows(published, CLASSES, compare=True)
    for row in rows[3:22:18] if differ else []:  # as wide as it gets: fold 1's Test, all pictures
        row[2:8] = [f"{cell} {DIFFERS} {cell}" for cell in row[2:8]]
    console = Console(width=100, file=io.StringIO())
    console.print(_grid("Pictures", rows))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert sum(bool(line.strip()) for line in lines) == 1 + 2 + 22
    assert max(map(len, lines)) <= 100


def test_pictures_that_do_not_decode_are_named_with_their_reason(tree: Path) -> None:
    folder = tree / "FOLDS/fold1/Train/Cowpox"
    whole = (folder / "COW_0_01.jpg").read_bytes()
    (folder / "COW_0_01.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "COW_1_01.jpg").write_bytes(b"")
    (folder / "COW_2_01.jpg").write_text("Not a picture at all.")
    (tree / "FOLDS/fold2/Test/Cowpox/COW_20_01.jpg").write_bytes(b"")  # the same content again
    table = check(tree, ["Chickenpox", "Cowpox", "Measles"], PATTERN, 2)
    with pytest.raises(UserError) as refused:
        audit(table, tree, tree.parent / "cache", 2)
    found = dict(line.strip().split(": ", 1) for line in str(refused.value).splitlines()[1:-1])
    place = "FOLDS/fold1/Train/Cowpox"
    assert found.pop(f"{place}/COW_0_01.jpg").startswith("cannot be decoded")
    assert found.pop(f"{place}/COW_1_01.jpg") == "is empty (0 bytes)"
    assert found.pop(f"{place}/COW_2_01.jpg") == "is not a picture in a format that Pillow knows"
    assert found.pop("FOLDS/fold2/Test/Cowpox/COW_20_01.jpg") == "is empty (0 bytes)"
    assert not found


@pytest.mark.parametrize("folds", [0, "five", None])
def test_folds_is_a_number(tree: Path, folds: object) -> None:
    with pytest.raises(UserError, match=r"folds=.* should be a whole number from 1"):
        check(tree, CLASSES, PATTERN, folds)  # type: ignore[arg-type]
