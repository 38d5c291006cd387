"""The data set as it lies on disk: FOLDS and FOLDS_AUG read into one table of pictures.

The layout is that of the Mpox Skin Lesion Dataset 2.0::

    FOLDS/fold{k}/{Train,Valid,Test}/<class>/<picture>
    FOLDS_AUG/fold{k}_AUG/Train/<class>/<picture>

Both folders may lie at any depth up to three below the root, since archives unpack to
"Original Images/Original Images/FOLDS".
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from mpoxcv.errors import UserError, did_you_mean, holds_invisible, shorten

SPLITS = ("train", "val", "test")
FOLDERS = {"train": "Train", "val": "Valid", "test": "Test"}  # as they are written
SPLIT_FOLDERS = {
    "train": "train",
    "valid": "val",
    "validation": "val",
    "val": "val",
    "test": "test",
}
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
SYSTEM_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
FOLD_FOLDER = re.compile(r"fold[ _-]?(\d+)([ _-]?aug)?", re.IGNORECASE)
COLUMNS = ("path", "image", "class", "label", "fold", "split", "augmented", "patient", "original")


def index_folds(
    root: str | os.PathLike[str],
    classes: Sequence[str],
    name_pattern: str,
    folds: Iterable[int] = range(1, 6),
    exclude: Sequence[str] = (),
) -> pd.DataFrame:
    """Read the tree below ``root`` into a table with one row a picture file.

    Args:
        root: the data set's folder.
        classes: class names in the order of their labels; each is a folder's name.
        name_pattern: regular expression that matches a whole file name without its suffix, with the groups
            ``patient`` and ``original`` (the name, without suffix, of the picture that a copy was made from;
            for an original its own name).
        folds: numbers of the folds to read.
        exclude: shell patterns of paths, relative to ``root``, that are left out.

    Returns:
        A table sorted by fold, augmented, split, label and path. Its columns are ``path`` (str, relative to ``root``,
        with forward slashes), ``image`` (str, ``<class>/<file name>``: the same picture's name in every fold),
        ``class`` (str), ``label`` (int, position in ``classes``), ``fold`` (int), ``split`` (``train``, ``val`` or
        ``test``), ``augmented`` (bool: it lies in FOLDS_AUG), ``patient`` (str) and ``original`` (str).

    Raises:
        UserError: the folder, a fold, a split, or a class in a split is missing or empty; a class folder is not in
            ``classes``; a file name does not match; a folder cannot be read.
    """
    root = Path(root)
    pattern = compile_name_pattern(name_pattern)
    originals, augmented = find_fold_folders(root)
    rows: list[tuple[object, ...]] = []
    for fold in folds:
        splits = _split_folders(_fold_folder(originals, fold), fold)
        for split in SPLITS:
            rows += _read_split(root, splits[split], classes, fold, split, False, exclude)
        if augmented is not None:
            folder = _split_folders(_fold_folder(augmented, fold), fold, needed=("train",))["train"]
            rows += _read_split(root, folder, classes, fold, "train", True, exclude)
    table = pd.DataFrame(rows, columns=list(COLUMNS[:7]))
    table = pd.concat([table, parse_names(table["path"], pattern, name_pattern)], axis=1)
    return table.sort_values(["fold", "augmented", "split", "label", "path"], ignore_index=True)


def index_flat(
    root: str | os.PathLike[str],
    classes: Sequence[str] | None,
    name_pattern: str,
    exclude: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a flat folder ``<class>/<picture>`` into a table.

    Args:
        root: the folder that holds one folder a class.
        classes: class names in the order of their labels; None takes the folders' names in alphabetical order.
        name_pattern: as in :func:`index_folds`.
        exclude: as in :func:`index_folds`.

    Returns:
        A table with the columns ``path``, ``image``, ``class``, ``label``, ``patient`` and ``original``.

    Raises:
        UserError: as in :func:`index_folds`.
    """
    root = Path(root)
    pattern = compile_name_pattern(name_pattern)
    if classes is None:
        classes = sorted(entry.name for entry in _entries(root) if entry.is_dir())
    rows = _read_split(root, root, classes, 0, "", False, exclude)
    table = pd.DataFrame(rows, columns=list(COLUMNS[:7])).drop(
        columns=["fold", "split", "augmented"]
    )
    table = pd.concat([table, parse_names(table["path"], pattern, name_pattern)], axis=1)
    return table.sort_values(["label", "path"], ignore_index=True)


def compile_name_pattern(name_pattern: str) -> re.Pattern[str]:
    """Compile ``name_pattern``; UserError where it is no regular expression, or lacks ``patient`` or ``original``."""
    try:
        pattern = re.compile(name_pattern)
    except re.error as error:
        raise UserError(
            f"data.name_pattern={name_pattern!r} is not a regular expression: {error}"
        ) from None
    missing = {"patient", "original"} - set(pattern.groupindex)
    if missing:
        raise UserError(
            f"data.name_pattern={name_pattern!r} lacks the group(s) {', '.join(sorted(missing))}. "
            r"Example: '(?P<original>(?P<patient>.+)_\d+)(?P<copy>_aug\d+)?'"
        )
    return pattern


def parse_names(paths: pd.Series, pattern: re.Pattern[str], name_pattern: str) -> pd.DataFrame:
    """Return the columns ``patient`` and ``original`` for a column of paths; UserError where names do not match."""
    matches = [pattern.fullmatch(Path(path).stem) for path in paths]
    failed = [path for path, match in zip(paths, matches, strict=True) if match is None]
    if failed:
        raise UserError(
            f"{len(failed)} file name(s) do not tell their patient by data.name_pattern={name_pattern!r}:\n"
            f"{shorten(failed)}\nRename them, leave them out with data.exclude=[…], or set data.name_pattern to a regular "
            "expression of the whole name without suffix, with the groups patient and original. If every picture is of "
            "another patient: data.name_pattern='(?P<original>(?P<patient>.+?))(?P<copy>_aug\\d+)?'"
        )
    found = [(m["patient"], m["original"]) for m in matches if m is not None]
    return pd.DataFrame(found, columns=["patient", "original"], index=paths.index)


def find_fold_folders(root: Path) -> tuple[Path, Path | None]:
    """Return the folders FOLDS and FOLDS_AUG below ``root``; the second is None if it is not there.

    Raises:
        UserError: ``root`` or FOLDS is not there, or there are several.
    """
    if not root.is_dir():
        raise UserError(
            f"There is no data in {root.absolute()} (data.root={root}).\n"
            "  fetch it:         python scripts/get_data.py source=kaggle\n"
            "  try without any:  python scripts/train.py fold=3 data=synthetic\n"
            "If it lies elsewhere, give its folder with data.root=DIR."
        )
    found: dict[str, list[Path]] = {"folds": [], "folds_aug": []}
    level = [root]
    for _ in range(3):  # the root's own name does not count: it may be called folds
        level = [
            Path(entry.path) for folder in level for entry in _entries(folder) if entry.is_dir()
        ]
        for folder in level:
            found.get(folder.name.lower(), []).append(folder)
        level = [folder for folder in level if folder.name.lower() not in found]
    for name, folders in found.items():
        if len(folders) > 1:
            raise UserError(
                f"{root} holds {len(folders)} folders {name.upper()}:\n{shorten(folders)}\n"
                "Give the folder of one data set with data.root=DIR."
            )
    if not found["folds"]:
        raise UserError(
            f"There is no folder FOLDS in {root.absolute()} or in its sub-folders (data.root={root}).\n"
            "  look at it:                python scripts/get_data.py\n"
            "  make folds from pictures:  python scripts/make_folds.py source=DIR output=DIR"
        )
    return found["folds"][0], next(iter(found["folds_aug"]), None)


def fold_numbers(root: str | os.PathLike[str]) -> list[int]:
    """Return the numbers of the folds in FOLDS; UserError where there is no folder FOLDS, or no fold in it."""
    folder = find_fold_folders(Path(root))[0]
    if numbered := _numbered(folder):
        return sorted(numbered)
    raise UserError(f"There is no fold in {folder}.")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder by name, without hidden and system files; a folder that cannot be read is an error."""
    try:
        with os.scandir(folder) as scan:
            entries = [
                e for e in scan if not e.name.startswith(".") and e.name.lower() not in SYSTEM_NAMES
            ]
    except PermissionError:
        raise UserError(
            f"No permission to read the folder {folder}. Change it with chmod, or ask its owner."
        ) from None
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read: {error.strerror}.") from None
    return sorted(entries, key=lambda e: e.name)


def _numbered(folds_folder: Path) -> dict[int, Path]:
    numbered: dict[int, Path] = {}
    for entry in _entries(folds_folder):
        match = FOLD_FOLDER.fullmatch(entry.name)
        if match and entry.is_dir():
            if int(match[1]) in numbered:
                raise UserError(
                    f"{folds_folder} holds fold {match[1]} twice: {numbered[int(match[1])].name}, {entry.name}."
                )
            numbered[int(match[1])] = Path(entry.path)
    return numbered


def _fold_folder(folds_folder: Path, fold: int) -> Path:
    if fold not in (numbered := _numbered(folds_folder)):
        there = ", ".join(p.name for _, p in sorted(numbered.items())) or "none"
        raise UserError(f"Fold {fold} is missing in {folds_folder} (found: {there}).")
    return numbered[fold]


def _split_folders(fold_folder: Path, fold: int, needed: Sequence[str] = SPLITS) -> dict[str, Path]:
    splits: dict[str, Path] = {}
    for entry in _entries(fold_folder):
        if not entry.is_dir():
            continue
        split = SPLIT_FOLDERS.get(entry.name.lower())
        if split is None or split not in needed:
            raise UserError(
                f"Unexpected folder {entry.path}: fold {fold} should hold {', '.join(needed)}."
                + did_you_mean(entry.name.lower(), SPLIT_FOLDERS)
            )
        if split in splits:
            raise UserError(
                f"{fold_folder} holds the {split} split twice: {splits[split].name}, {entry.name}."
            )
        splits[split] = Path(entry.path)
    for split in needed:
        if split not in splits:
            there = ", ".join(p.name for p in splits.values()) or "nothing"
            raise UserError(
                f"The {split} split of fold {fold} is missing in {fold_folder} (found: {there})."
            )
    return splits


def _read_split(
    root: Path,
    folder: Path,
    classes: Sequence[str],
    fold: int,
    split: str,
    augmented: bool,
    exclude: Sequence[str],
) -> Iterator[tuple[object, ...]]:
    class_folders = {entry.name: Path(entry.path) for entry in _entries(folder) if entry.is_dir()}
    _require_visible(folder, class_folders)
    unknown = sorted(set(class_folders) - set(classes))
    if unknown:
        raise UserError(
            f"Class folder(s) that data.classes does not name, in {folder}: {', '.join(unknown)}.\n"
            f"data.classes is [{', '.join(classes)}].{did_you_mean(unknown[0], classes)} "
            "Rename or remove the folder, or name the class in data.classes."
        )
    if not class_folders:
        raise UserError(
            f"{folder} is empty: it should hold one folder a class ({', '.join(classes)})."
        )
    for label, name in enumerate(classes):
        if name not in class_folders:
            raise UserError(f"Class {name} has no folder in {folder}.")
        names = [entry.name for entry in _entries(class_folders[name]) if _is_picture(entry)]
        base = class_folders[name].relative_to(root).as_posix()
        names = [
            n for n in names if not any(fnmatchcase(f"{base}/{n}", shape) for shape in exclude)
        ]
        _require_visible(class_folders[name], names)
        if not names:
            raise UserError(f"Class {name} has no picture in {class_folders[name]}.")
        for file_name in names:
            yield f"{base}/{file_name}", f"{name}/{file_name}", name, label, fold, split, augmented


def _require_visible(folder: Path, names: Iterable[str]) -> None:
    if bad := list(filter(holds_invisible, names)):
        raise UserError(
            f"{len(bad)} name(s) in {folder} hold control characters, text directions or bytes that are no UTF-8:\n"
            f"{shorten(map(ascii, bad))}\nRename them: tables and reports could not hold them as they are."
        )


def _is_picture(entry: os.DirEntry[str]) -> bool:
    return Path(entry.name).suffix.lower() in PICTURE_SUFFIXES and entry.is_file()
