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

from mpoxcv.command_line import setting, shell
from mpoxcv.errors import UserError, did_you_mean, holds_invisible, nfc, shorten
from mpoxcv.storage.files import StrPath

SPLITS = ("train", "val", "test")
# as they are written, and as they are read
FOLDERS = {"train": "Train", "val": "Valid", "test": "Test"}
SPLIT_OF = {"train": "train", "valid": "val", "validation": "val", "val": "val", "test": "test"}
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
SYSTEM_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
FOLD_FOLDER = re.compile(r"fold[ _-]?(\d+)([ _-]?aug)?", re.IGNORECASE)
# every picture is of another patient
EACH_ANOTHER = r"(?P<original>(?P<patient>.+?))(?P<copy>_aug\d+)?"
COLUMNS = ["path", "image", "class", "label"]


def index_folds(
    root: StrPath,
    classes: Sequence[str],
    name_pattern: str,
    folds: Iterable[int] = range(1, 6),
    exclude: Sequence[str] = (),
) -> pd.DataFrame:
    """Read the tree below ``root`` into a table with one row a picture file.

    ``classes`` are folders' names, in the order of their labels. ``name_pattern`` is a regular
    expression of a whole file name without its suffix, with the groups ``patient`` and ``original``
    (for a copy the name, without suffix, of the picture it was made from; for an original its own).
    ``exclude`` are shell patterns of paths, relative to ``root``, that are left out.

    Returns:
        A table sorted by fold, augmented, split, label and path. Its columns are ``path`` (str,
        relative to ``root``, with forward slashes), ``image`` (str, ``<class>/<file name>``: the
        same picture's name in every fold), ``class`` (str), ``label`` (int, position in
        ``classes``), ``fold`` (int), ``split`` (``train``, ``val`` or ``test``), ``augmented``
        (bool: it lies in FOLDS_AUG), ``patient`` (str) and ``original`` (str).

    Raises:
        UserError: the folder, a fold, a split, or a class in a split is missing or empty; a class
            folder is not in ``classes``; a file name does not match; a folder cannot be read.
    """
    root = Path(root)
    pattern = compile_name_pattern(name_pattern)
    originals, augmented = find_fold_folders(root)
    trees: dict[Path, tuple[str, ...]] = {originals: SPLITS}
    if augmented is not None:
        trees[augmented] = ("train",)
    rows: list[tuple[object, ...]] = []
    for fold in folds:
        for tree, splits in trees.items():
            for split, folder in _split_folders(tree, fold, splits).items():
                pictures = _read_classes(root, folder, classes, exclude)
                rows += [(*picture, fold, split, tree is augmented) for picture in pictures]

    table = pd.DataFrame(rows, columns=[*COLUMNS, "fold", "split", "augmented"])
    table = pd.concat([table, parse_names(table["path"], pattern, name_pattern)], axis=1)
    return table.sort_values(["fold", "augmented", "split", "label", "path"], ignore_index=True)


def index_flat(
    root: StrPath, classes: Sequence[str] | None, name_pattern: str, exclude: Sequence[str] = ()
) -> pd.DataFrame:
    """Read a flat folder ``<class>/<picture>`` into a table, sorted by label and path.

    Arguments, columns and errors are those of :func:`index_folds`, without ``fold``, ``split`` and
    ``augmented``; ``classes`` None takes the folders' names in alphabetical order.
    """
    root = Path(root)
    pattern = compile_name_pattern(name_pattern)
    if classes is None:
        classes = [folder.name for folder in _folders(root)]
    table = pd.DataFrame(_read_classes(root, root, classes, exclude), columns=COLUMNS)
    table = pd.concat([table, parse_names(table["path"], pattern, name_pattern)], axis=1)
    return table.sort_values(["label", "path"], ignore_index=True)


def compile_name_pattern(name_pattern: str) -> re.Pattern[str]:
    """Compile ``name_pattern``; UserError if it is none, or lacks ``patient`` or ``original``."""
    option = shell(setting("data.name_pattern", name_pattern))
    try:
        pattern = re.compile(name_pattern)
    except re.error as error:
        raise UserError(f"{option} is not a regular expression: {error}") from None
    if missing := {"patient", "original"} - set(pattern.groupindex):
        raise UserError(
            f"{option} lacks the group(s) {', '.join(sorted(missing))}. "
            r"Example: '(?P<original>(?P<patient>.+)_\d+)(?P<copy>_aug\d+)?'"
        )
    return pattern


def parse_names(paths: pd.Series, pattern: re.Pattern[str], name_pattern: str) -> pd.DataFrame:
    """Return ``patient`` and ``original`` of a column of paths; UserError if names do not match."""
    matches = [pattern.fullmatch(Path(path).stem) for path in paths]
    if failed := [path for path, match in zip(paths, matches, strict=True) if match is None]:
        raise UserError(
            f"{len(failed)} file name(s) do not tell their patient by {shell(setting('data.name_pattern', name_pattern))}:\n"
            f"{shorten(failed)}\nRename them, leave them out with data.exclude=[…], or set data.name_pattern to a regular "
            "expression of the whole name without suffix, with the groups patient and original. If every picture is of "
            f"another patient: {shell(setting('data.name_pattern', EACH_ANOTHER))}"
        )
    names = [match.group("patient", "original") for match in matches if match is not None]
    return pd.DataFrame(names, columns=["patient", "original"], index=paths.index)


def find_fold_folders(root: Path) -> tuple[Path, Path | None]:
    """Return FOLDS and FOLDS_AUG (or None) below ``root``; UserError for no FOLDS, or several."""
    if not root.is_dir():
        raise UserError(
            f"There is no data in {root.absolute()} (data.root={root}).\n"
            "  fetch it:         python scripts/get_data.py source=kaggle\n"
            "  try without any:  python scripts/train.py fold=3 data=synthetic\n"
            "If it lies elsewhere, give its folder with data.root=DIR."
        )

    by_name: dict[str, list[Path]] = {"folds": [], "folds_aug": []}
    level = [root]
    # the root's own name does not count: it may be called folds
    for _ in range(3):
        level = [folder for parent in level for folder in _folders(parent)]
        for folder in level:
            by_name.get(folder.name.lower(), []).append(folder)
        level = [folder for folder in level if folder.name.lower() not in by_name]

    for name, folders in by_name.items():
        if len(folders) > 1:
            raise UserError(
                f"{root} holds {len(folders)} folders {name.upper()}:\n{shorten(folders)}\n"
                "Give the folder of one data set with data.root=DIR."
            )
    if not by_name["folds"]:
        raise UserError(
            f"There is no folder FOLDS in {root.absolute()} or in its sub-folders (data.root={root}).\n"
            "  look at it:                python scripts/get_data.py\n"
            "  make folds from pictures:  python scripts/make_folds.py source=DIR output=DIR"
        )
    return by_name["folds"][0], next(iter(by_name["folds_aug"]), None)


def fold_numbers(root: StrPath) -> list[int]:
    """Return the numbers of the folds in FOLDS; UserError if there is none, or no FOLDS."""
    folder = find_fold_folders(Path(root))[0]
    numbers = sorted(_numbered(folder))
    if not numbers:
        raise UserError(f"There is no fold in {folder}.")
    return numbers


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder by name, without hidden and system files; UserError if it cannot be read."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except PermissionError:
        remedy = "Change it with chmod, or ask its owner."
        raise UserError(f"No permission to read the folder {folder}. {remedy}") from None
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read: {error.strerror}.") from None
    visible = [entry for entry in entries if not entry.name.startswith(".")]
    return [entry for entry in visible if entry.name.lower() not in SYSTEM_NAMES]


def _folders(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in _entries(folder) if entry.is_dir()]


def _numbered(folder: Path) -> dict[int, Path]:
    numbered: dict[int, Path] = {}
    for fold_folder in _folders(folder):
        if match := FOLD_FOLDER.fullmatch(fold_folder.name):
            first = numbered.setdefault(int(match[1]), fold_folder)
            if first is not fold_folder:
                names = f"{first.name}, {fold_folder.name}"
                raise UserError(f"{folder} holds fold {match[1]} twice: {names}.")
    return numbered


def _split_folders(folds: Path, fold: int, needed: Sequence[str]) -> dict[str, Path]:
    numbered = _numbered(folds)
    if fold not in numbered:
        names = ", ".join(folder.name for _, folder in sorted(numbered.items())) or "none"
        raise UserError(f"Fold {fold} is missing in {folds} (found: {names}).")

    splits: dict[str, Path] = {}
    for folder in _folders(numbered[fold]):
        name = folder.name.lower()
        split = SPLIT_OF.get(name, "")
        if split not in needed:
            should = f"fold {fold} should hold {', '.join(needed)}.{did_you_mean(name, SPLIT_OF)}"
            raise UserError(f"Unexpected folder {folder}: {should}")
        if split in splits:
            names = f"{splits[split].name}, {folder.name}"
            raise UserError(f"{folder.parent} holds the {split} split twice: {names}.")
        splits[split] = folder

    for split in needed:
        if split not in splits:
            missing = f"The {split} split of fold {fold} is missing in {numbered[fold]}"
            names = ", ".join(folder.name for folder in splits.values()) or "nothing"
            raise UserError(f"{missing} (found: {names}).")
    return {split: splits[split] for split in needed}


def _read_classes(
    root: Path, folder: Path, classes: Sequence[str], exclude: Sequence[str]
) -> Iterator[tuple[str, str, str, int]]:
    """Yield ``COLUMNS`` of the pictures in the folders of all classes."""
    class_folders = {nfc(class_folder.name): class_folder for class_folder in _folders(folder)}
    if len(class_folders) < len(_folders(folder)):
        raise UserError(f"{folder} holds two folders of one name, in two Unicode forms: join them.")
    _require_visible(folder, class_folders)
    listed = ", ".join(classes)
    if unknown := sorted(set(class_folders) - set(map(nfc, classes))):
        raise UserError(
            f"Class folder(s) that data.classes does not name, in {folder}: {', '.join(unknown)}.\n"
            f"data.classes is [{listed}].{did_you_mean(unknown[0], classes)} "
            "Rename or remove the folder, or name the class in data.classes."
        )
    if not class_folders:
        raise UserError(f"{folder} is empty: it should hold one folder a class ({listed}).")

    for label, name in enumerate(classes):
        if nfc(name) not in class_folders:
            raise UserError(f"Class {name} has no folder in {folder}.")
        class_folder = class_folders[nfc(name)]
        base = class_folder.relative_to(root).as_posix()
        entries = _entries(class_folder)
        pictures = [e for e in entries if e.name.lower().endswith(PICTURE_SUFFIXES) and e.is_file()]
        files = [picture.name for picture in pictures]
        for pattern in exclude:
            files = [file for file in files if not _is_meant(f"{base}/{file}", pattern)]
        _require_visible(class_folder, files)
        if not files:
            raise UserError(f"Class {name} has no picture in {class_folder}.")
        yield from ((f"{base}/{file}", f"{name}/{file}", name, label) for file in files)


def _is_meant(path: str, pattern: str) -> bool:
    # image[1].jpg is itself, too
    return nfc(path) == nfc(pattern) or fnmatchcase(nfc(path), nfc(pattern))


def _require_visible(folder: Path, names: Iterable[str]) -> None:
    if bad := list(filter(holds_invisible, names)):
        raise UserError(
            f"{len(bad)} name(s) in {folder} hold control characters, text directions or bytes that are no UTF-8:\n"
            f"{shorten(map(ascii, bad))}\nRename them: tables and reports could not hold them as they are."
        )
