"""Whether a data set on disk can be used: its counts beside the published ones, and every picture decoded."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mpoxcv.audit.descriptions import describe
from mpoxcv.datasets.published import CLASS_COUNTS, SPLIT_COUNTS, TEST_CLASS_COUNTS
from mpoxcv.datasets.synthetic import is_synthetic
from mpoxcv.errors import UserError
from mpoxcv.pictures.cache import digest_files
from mpoxcv.pictures.tree import index_folds

PARTS = {"train": "Train", "val": "Valid", "test": "Test", "augmented": "FOLDS_AUG"}
MIN_WIDTH = 100  # columns, where the output is no terminal
DIFFERS = "≠"


def check(
    root: str | os.PathLike[str],
    classes: Sequence[str],
    name_pattern: str,
    folds: int = 5,
    exclude: Sequence[str] = (),
    cache_dir: str | os.PathLike[str] = "data/cache",
    threads: int | None = None,
) -> pd.DataFrame:
    """Print the counts, beside the published ones if the classes are those of MSLD v2.0; decode all pictures.

    Args:
        root: the data set's folder.
        classes: class names in the order of their labels.
        name_pattern: as in ``mpoxcv.pictures.tree.index_folds``.
        folds: folds 1 to this number must be there.
        exclude: shell patterns of paths below ``root`` that are left out.
        cache_dir: where what is known of the pictures is kept.
        threads: decoding threads; None takes one a core.

    Returns:
        The table of all folds' pictures.

    Raises:
        UserError: the data cannot be used: folders are missing, or pictures cannot be decoded. A count that
            differs from the published one is marked, and no error.
    """
    if not isinstance(folds, int) or folds < 1:
        raise UserError(f"folds={folds} should be the number of folds: folds=5.")
    classes = [str(name) for name in classes or ()]
    if not classes:
        raise UserError(
            "data.classes is empty: name the class folders, as in data.classes=[Mpox,Other]."
        )
    root = Path(root)
    table = index_folds(root, classes, name_pattern, range(1, folds + 1), exclude)
    synthetic = is_synthetic(root)
    compare = not synthetic and set(classes) == set(CLASS_COUNTS)
    rows = count_rows(table, classes, compare)

    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, MIN_WIDTH)
    console.print(root.absolute(), soft_wrap=True)
    console.print(_grid("SYNTHETIC pictures, of nobody's skin" if synthetic else "Pictures", rows))
    if differences := sum(DIFFERS in cell for row in rows for cell in row):
        console.print(
            f"{differences} counts differ from those published for MSLD v2.0: found {DIFFERS} published. "
            "Say so beside results on these data.",
            style="bold red",
        )
    elif compare:
        console.print("All counts are those published for MSLD v2.0.")
    paths = table["path"].tolist()
    describe(root, paths, digest_files(root, paths, threads), cache_dir, threads)
    console.print(
        f"Folds 1 to {folds} are whole and all {len(table)} files decode: the data can be used."
    )
    return table


def count_rows(table: pd.DataFrame, classes: Sequence[str], compare: bool) -> list[list[str]]:
    """Count the pictures of each fold, split and class; over all folds, distinct originals and patients.

    Args:
        table: from ``mpoxcv.pictures.tree.index_folds``.
        classes: class names in the order of the columns.
        compare: put published counts beside, with ``DIFFERS`` wherever another one was found.

    Returns:
        Cells, headings first; four rows a fold, then two for all folds.
    """
    part = table["split"].where(~table["augmented"], "augmented")
    counts = Counter(zip(table["fold"], part, table["class"], strict=True))
    rows = [["fold", "", *classes, "total", *["published"] * compare]]

    def add_row(
        fold: str, what: str, found: list[int], published: dict[str, int], total: int | None
    ) -> None:
        pairs = [
            (n, published.get(c, n) if compare else n) for n, c in zip(found, classes, strict=True)
        ]
        cells = [str(n) if n == p else f"{n} {DIFFERS} {p}" for n, p in pairs]
        beside = (
            "" if total is None else str(total) if sum(found) == total else f"{DIFFERS} {total}"
        )
        rows.append([fold, what, *cells, str(sum(found)), *[beside] * compare])

    for fold in sorted(set(table["fold"])):
        for key, name in PARTS.items():
            known = TEST_CLASS_COUNTS.get(fold, {}) if key == "test" else {}
            found = [counts[fold, key, c] for c in classes]
            add_row(str(fold), name, found, known, SPLIT_COUNTS.get(fold, {}).get(key))
    originals = table[~table["augmented"]].drop_duplicates(["class", "original"])
    distinct = {"pictures": originals, "patients": originals.drop_duplicates(["class", "patient"])}
    for i, (what, kept) in enumerate(distinct.items()):
        known = {c: pair[i] for c, pair in CLASS_COUNTS.items()}
        add_row(
            "all",
            what,
            [int((kept["class"] == c).sum()) for c in classes],
            known,
            sum(known.values()),
        )
    return rows


def _grid(title: str, rows: list[list[str]]) -> Table:
    grid = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for position, heading in enumerate(rows[0]):
        left = position < 2
        grid.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=left)
    for number, row in enumerate(rows[1:], 1):
        label = row[0] if number % len(PARTS) == 1 else ""
        cells = [Text(cell, style="bold red" if DIFFERS in cell else "") for cell in row[1:]]
        grid.add_row(label, *cells, end_section=number % len(PARTS) == 0)
    return grid
