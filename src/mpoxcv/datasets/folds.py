"""Folds made anew by patient and class, from a table of pictures, and the folders they go into."""

import hashlib
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

import pandas as pd

from mpoxcv.command_line import leaving_out
from mpoxcv.errors import UserError, check_number, shorten
from mpoxcv.pictures.patients import NamePattern, Names, doubts
from mpoxcv.pictures.tree import FOLDERS, SPLITS
from mpoxcv.storage.files import StrPath


def assign_folds(table: pd.DataFrame, n_folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Split pictures by patient: test sets that tile the data, and a tenth of the data for val.

    The result hangs on the pictures and arguments alone, not on the order of rows or
    scikit-learn's version. ``table`` has one row a picture, with the columns ``image`` (unique),
    ``class`` and ``patient``; ``n_folds`` is from 3.

    Returns:
        One row a fold and picture: ``image``, ``fold`` (from 1) and ``split`` (train, val or test).
        Every split of every fold has every class; UserError if one has too few patients for it.
    """
    check_number("n_folds", n_folds, 3)
    table = table.sort_values("image", ignore_index=True)
    assert table["image"].is_unique
    patients = table.groupby("class")["patient"].nunique()
    _refuse(patients[patients < n_folds], n_folds)

    folds = []
    for fold, test in enumerate(_parts(table, n_folds, f"{seed}"), 1):
        split = pd.Series("train", table.index)
        split[test] = "test"
        parts = _parts(table.drop(test), round(10 - 10 / n_folds), f"{seed}/{fold}")
        split[min(parts, key=lambda part: _unlikeness(table, part))] = "val"

        # a class that val lacks gives it, of its patients in train, the one with fewest pictures
        for name in sorted(set(patients.index) - set(table["class"][split == "val"])):
            candidates = table["patient"][(split == "train") & (table["class"] == name)]
            if len(candidates):
                fewest = candidates.value_counts().sort_index().idxmin()
                split[(split == "train") & (table["patient"] == fewest)] = "val"

        counts = pd.crosstab(table["class"], split).reindex(columns=list(SPLITS), fill_value=0)
        _refuse(patients[(counts == 0).any(axis=1)], n_folds)
        folds.append(table[["image"]].assign(fold=fold, split=split))
    return pd.concat(folds, ignore_index=True)


def make_folders(
    root: Path, folder: StrPath, splits: dict[int, str], copies: int
) -> list[list[Path]]:
    """Make a picture's folders, ``<class>`` or below: in FOLDS, and FOLDS_AUG as it has copies."""
    trains = [fold for fold, split in splits.items() if split == "train" and copies]
    originals = [root / f"FOLDS/fold{k}" / FOLDERS[split] / folder for k, split in splits.items()]
    augmented = [root / f"FOLDS_AUG/fold{fold}_AUG/Train" / folder for fold in trains]
    for folder in originals + augmented:
        folder.mkdir(parents=True, exist_ok=True)
    return [originals, augmented]


@contextmanager
def whole_folder(folder: Path, locked: bool = False) -> Iterator[Path]:
    """Give a new folder beside ``folder``, which gets its name at the end; on failure it is gone.

    ``locked`` says that no other process can be at work: what lies there is of a killed one.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    if locked:
        shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except FileExistsError:
        why = "another process is at work, or was killed; then remove it."
        raise UserError(f"{partial} is there: {why}") from None
    try:
        yield partial
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def digest(text: str) -> str:
    """Return sixteen hex digits that are the same on every machine."""
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def _parts(table: pd.DataFrame, n_parts: int, seed: str) -> list[pd.Index]:
    # not at the top, since it takes seconds
    from sklearn.model_selection import StratifiedGroupKFold

    # Shuffled by hash: with shuffle=True, scikit-learn 1.7 does not stratify (its issue 24656).
    groups = table["patient"].map(lambda patient: digest(f"{seed}/{patient}"))
    n_splits = min(n_parts, groups.nunique(), table["class"].value_counts().max())
    # scikit-learn warns of classes with fewer pictures than parts
    with warnings.catch_warnings(action="ignore"):
        splits = StratifiedGroupKFold(n_splits).split(groups, table["class"], groups)
        return [table.index[part] for _, part in splits]


def _unlikeness(table: pd.DataFrame, part: pd.Index) -> tuple[int, float]:
    """Return how many classes a part lacks, and how far a class's share strays from the whole's."""
    whole = table["class"].value_counts(normalize=True)
    share = table["class"][part].value_counts(normalize=True).reindex(whole.index, fill_value=0)
    return int((share == 0).sum()), float((share - whole).abs().max())


def _refuse(patients: pd.Series, n_folds: int) -> None:
    if len(patients):
        raise UserError(
            f"Too few patients for {n_folds} folds with every class in each Train, Valid and Test:\n"
            + shorten(f"{name}: {n} patient(s)" for name, n in patients.items())
            + f"\nA class needs at least {n_folds} patients with pictures of no other class. Add some, or "
            "leave the class out (data.ignore_classes). If patients are miscounted, set data.name_pattern, which tells "
            "them by file name, or name them in a table: data.patients=FILE.csv (columns image and patient)."
        )


def require_safe_names(table: pd.DataFrame, names: Names) -> None:
    """Refuse copies among the pictures, and names whose copies would not tell their original.

    ``names`` is what the table was read with.
    """
    stems = table["path"].map(lambda path: PurePath(path).stem)
    known = set(stems)

    # M43_02_1, said to be of patient M43_02, beside a picture M43_02: a copy the pattern misses
    def is_beside(stem: str, patient: str) -> bool:
        base = patient.rpartition("/")[2]
        parts = {base[: end.start()] for end in re.finditer("_|$", base)}
        return bool((parts - {stem}) & known)

    # a table names its pictures: they are originals
    if isinstance(names, NamePattern):
        pairs = zip(stems, table["patient"], strict=True)
        beside = pd.Series([is_beside(*pair) for pair in pairs], table.index, dtype=bool)
        if copied := table["path"][beside | (stems != table["original"])].tolist():
            raise UserError(
                f"{len(copied)} file(s) look like copies of other pictures {names.by}:\n{shorten(copied)}\n"
                "Only originals can be split. If they are originals, set data.name_pattern. Else leave them out "
                f"(paths; * stands for anything): {leaving_out(copied[:10])}"
            )

    repeated = table.assign(stem=stems).duplicated(["class", "stem"], keep=False)
    if repeated.any():
        paths = shorten(table["path"][repeated])
        raise UserError(f"Pictures whose copies would have the same names; rename one:\n{paths}")

    for path, *told in table[["path", "patient", "original"]].itertuples(index=False):
        copy = PurePath(path).with_name(f"{PurePath(path).stem}_aug01.jpg")
        if names.tell(copy.as_posix(), copy=True) != tuple(told):
            raise UserError(
                f"Copies get names like {copy.stem}: no copy of {told[1]} of patient {told[0]} {names.by}. "
                r"Let the pattern end with (?P<copy>_aug\d+)?, or rename the picture of that name."
            )


def suspicions(table: pd.DataFrame, contents: pd.Series, names: Names | None = None) -> list[str]:
    """Return reasons to think that patients or labels are wrong; arguments as in join_twins."""
    counted = table[["patient", "class"]].groupby(contents).nunique()
    pairs = table["image"].groupby(contents).agg(" and ".join)
    notes = []
    for column, kind, effect in (
        ("patient", "lie there under several patients", "Those who share one are split as one"),
        (
            "class",
            "lie in several classes",
            "One label is right: leave the others out by data.exclude",
        ),
    ):
        if several := sorted(pairs[counted[column] > 1]):
            notes.append(f"{len(several)} picture(s) {kind}. {effect}:\n{shorten(several)}")
    return [*notes, *map(str, doubts(table.assign(path=table["image"]), names))]
