"""A data set's counts, beside the published ones; and tables of counts on the console."""

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mpoxcv.datasets.published import CLASS_COUNTS, SPLIT_COUNTS
from mpoxcv.datasets.synthetic import is_synthetic
from mpoxcv.errors import UserError, check_number, visible
from mpoxcv.pictures.patients import Names
from mpoxcv.pictures.tree import index_folds
from mpoxcv.storage.files import StrPath
from mpoxcv.terminal import console

PARTS = {"train": "Train", "val": "Valid", "test": "Test", "augmented": "FOLDS_AUG"}
DIFFERS = "≠"


def check(
    root: StrPath,
    classes: Sequence[str],
    name_pattern: str | Names,
    folds: int = 5,
    exclude: Sequence[str] = (),
) -> pd.DataFrame:
    """Print the counts, beside the published ones if the classes are MSLD v2.0's.

    Arguments and errors are as of ``mpoxcv.pictures.tree.index_folds``, whose table is returned;
    folds 1 to ``folds`` must be there. A count that differs from the published one is marked, and
    no error.
    """
    check_number("folds", folds, 1)
    classes = [str(name) for name in classes or ()]
    if not classes:
        example = "data.classes=[Mpox,Other]"
        raise UserError(f"data.classes is empty: name the class folders, as in {example}.")
    root = Path(root)
    table = index_folds(root, classes, name_pattern, range(1, folds + 1), exclude)
    synthetic = is_synthetic(root)
    compare = not synthetic and set(classes) == set(CLASS_COUNTS)
    rows = count_rows(table, classes, compare)

    out = console(100, soft_wrap=True)
    out.print(str(root.absolute()))
    title = "SYNTHETIC pictures, of nobody's skin" if synthetic else "Pictures"
    print_counts(out, title, rows, classes)
    if differences := sum(DIFFERS in cell for row in rows for cell in row):
        differ = f"{differences} counts differ from those published for MSLD v2.0"
        advice = "Say so beside results on these data."
        out.print(f"{differ}: found {DIFFERS} published. {advice}", style="bold red")
    elif compare:
        out.print("All counts are those published for MSLD v2.0.")
    return table


def count_rows(table: pd.DataFrame, classes: Sequence[str], compare: bool) -> list[list[str]]:
    """Return cells of counts, headings first: a row a part of a fold, then two for all folds.

    ``compare`` puts the published totals beside, with ``DIFFERS`` wherever another one was found.
    """
    part = table["split"].where(~table["augmented"], "augmented")
    parts = [name for name in PARTS if compare or name in set(part)]
    order = pd.MultiIndex.from_product([sorted(set(table["fold"])), parts])
    counts = pd.crosstab([table["fold"], part], table["class"])
    counts = counts.reindex(index=order, columns=classes, fill_value=0)
    rows = [["fold", "", *classes, "total", *["published"] * compare]]
    for (fold, key), row in counts.iterrows():
        numbers = [*row, row.sum(), *[SPLIT_COUNTS.get(fold, {}).get(key, "")] * compare]
        rows.append([str(fold), PARTS[key], *map(str, numbers)])

    # a patient with pictures in two classes is in both, and once in the total
    originals = table[~table["augmented"]].drop_duplicates(["class", "original"])
    patients = originals.drop_duplicates(["class", "patient"])
    known = pd.DataFrame(CLASS_COUNTS).sum(axis=1)
    for i, (what, distinct) in enumerate({"pictures": originals, "patients": patients}.items()):
        row = distinct["class"].value_counts().reindex(classes, fill_value=0)
        found = len(originals) if i == 0 else originals["patient"].nunique()
        rows.append(["all", what, *map(str, [*row, found, *[known[i]] * compare])])
    for row in rows[1:] if compare else ():
        row[-1] = f"{DIFFERS} {row[-1]}" if row[-1] not in ("", row[-2]) else row[-1]
    return rows


def print_counts(out: Console, title: str, rows: list[list[str]], classes: Sequence[str]) -> None:
    """Print cells, headings first, the fold's number once; ``DIFFERS`` makes them red."""
    grid = _grid(title, rows)
    # a heading that would be broken within a word gives way to a number
    unbroken = Measurement.get(out, out.options.update(width=sys.maxsize), grid).minimum
    if unbroken > out.width:
        numbers = {name: str(number) for number, name in enumerate(classes, 1)}
        legend = ", ".join(f"{number} {visible(name)}" for name, number in numbers.items())
        grid = _grid(title, [[numbers.get(cell, cell) for cell in rows[0]], *rows[1:]])
        out.print(f"Classes: {legend}")
    out.print(grid, soft_wrap=False)


def _grid(title: str, rows: list[list[str]]) -> Table:
    grid = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    grid.pad_edge = False
    grid.collapse_padding = True
    for position, heading in enumerate(rows[0]):
        left = position < 2
        grid.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=left)
    for fold, group in groupby(rows[1:], lambda row: row[0]):
        for number, row in enumerate(group):
            cells = [Text(cell, style="bold red" if DIFFERS in cell else "") for cell in row[1:]]
            grid.add_row("" if number else fold, *cells)
        grid.add_section()
    return grid
