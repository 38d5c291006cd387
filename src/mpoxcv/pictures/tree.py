"""The data set as it lies on disk: FOLDS and FOLDS_AUG read into one table of pictures.

The layout is that of the Mpox Skin Lesion Dataset 2.0::

    FOLDS/fold{k}/{Train,Valid,Test}/<class>/<picture>
    FOLDS_AUG/fold{k}_AUG/Train/<class>/<picture>

Both folders may lie at any depth up to three below the root, since archives unpack to
"Original Images/Original Images/FOLDS".
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pandas as pd

from mpoxcv.command_line import command_for, setting, shell
from mpoxcv.errors import UserError, did_you_mean, holds_invisible, nfc, shorten, visible
from mpoxcv.pictures.patients import Names, parse_names, read_names
from mpoxcv.storage.files import StrPath
from mpoxcv.terminal import warn

SPLITS = ("train", "val", "test")
# as they are written, and as they are read
FOLDERS = {"train": "Train", "val": "Valid", "test": "Test"}
SPLIT_OF = {"train": "train", "valid": "val", "validation": "val", "val": "val", "test": "test"}
# files of these names are pictures, and damaged if they do not decode; others are told by their
# first bytes, but those of cameras' raw formats, which are TIFF with no more than a preview
PICTURES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif",
    ".heic", ".heif",
)  # fmt: skip
RAW = (".dng", ".cr2", ".nef", ".arw", ".orf", ".pef", ".raw", ".srw", ".3fr")
SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|BM.{4}\0{4}|II[*+]\0|MM\0[*+]|RIFF.{4}WEBP"
    rb"|.{4}ftyp(avi[fs]|hei[cfmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL,
)  # fmt: skip
# what may lie beside pictures, and what systems leave there
SIDE_SUFFIXES = (
    ".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".md", ".html", ".pdf", ".doc",
    ".docx", ".xls", ".xlsx", ".ods", ".log", ".ini", ".db",
)  # fmt: skip
SYSTEM_NAMES = (
    "thumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found", "@eadir", "#recycle", "@recycle",
    "#snapshot", "$recycle.bin", "recycler", "system volume information",
)  # fmt: skip
FOLD_FOLDER = re.compile(r"fold[ _-]?(\d+)([ _-]?aug)?", re.IGNORECASE)
COLUMNS = ["path", "image", "class", "label"]
# on a level above FOLDS; of a whole disk there are more
MAX_FOLDERS = 1000


def index_folds(
    root: StrPath,
    classes: Sequence[str],
    name_pattern: str | Names,
    folds: Iterable[int] = range(1, 6),
    exclude: Sequence[str] = (),
) -> pd.DataFrame:
    """Read the tree below ``root`` into a table with one row a picture file.

    ``classes`` are folders' names, in the order of their labels. ``name_pattern`` is as of
    ``mpoxcv.pictures.patients.NamePattern``, or what ``read_names`` there returned. ``exclude`` are
    shell patterns of paths, relative to ``root``, that are left out; those of a class folder end
    with a slash.

    Returns:
        A table sorted by fold, augmented, split, label and path. Its columns are ``path`` (str,
        relative to ``root``, with forward slashes), ``image`` (str, ``<class>/<file name>``: the
        same picture's name in every fold), ``class`` (str), ``label`` (int, position in
        ``classes``), ``fold`` (int), ``split`` (``train``, ``val`` or ``test``), ``augmented``
        (bool: it lies in FOLDS_AUG), ``patient`` and ``original`` (str, as in ``Told``).

    Raises:
        UserError: the folder, a fold, a split, or a class in Train is missing or empty; a class
            folder is not in ``classes``; nothing tells a patient; a folder cannot be read.
    """
    root = Path(root)
    names = read_names(name_pattern)
    originals, augmented = find_fold_folders(root)
    trees: list[tuple[Path, Sequence[str]]] = [(originals, SPLITS)]
    trees += [(augmented, SPLITS[:1])] if augmented else []
    rows: list[tuple[object, ...]] = []
    others: list[str] = []
    for fold in folds:
        for tree, splits in trees:
            for split, folder in _split_folders(tree, fold, splits).items():
                pictures = list(_read_classes(
                    root, folder, classes, exclude, others, split == "train"
                ))  # fmt: skip
                if not pictures:
                    raise UserError(f"{folder} holds no picture of {', '.join(classes)}.")
                rows += [(*picture, fold, split, tree is augmented) for picture in pictures]

    name_others(str(root), *others)
    table = pd.DataFrame(rows, columns=[*COLUMNS, "fold", "split", "augmented"])
    table = table.join(parse_names(table, names))
    return table.sort_values(["fold", "augmented", "split", "label", "path"], ignore_index=True)


def index_flat(
    root: StrPath,
    classes: Sequence[str] | None,
    name_pattern: str | Names,
    exclude: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a flat folder ``<class>/<picture>`` into a table, sorted by label and path.

    Arguments, columns and errors are those of :func:`index_folds`, without ``fold``, ``split`` and
    ``augmented``; ``classes`` None takes the folders' names in alphabetical order.
    """
    root = Path(root)
    if classes is None:
        classes = list(_class_folders(root, root, exclude))
    others: list[str] = []
    pictures = _read_classes(root, root, classes, exclude, others)
    table = pd.DataFrame(pictures, columns=COLUMNS)
    name_others(str(root), *others)
    table = table.join(parse_names(table, read_names(name_pattern)))
    return table.sort_values(["label", "path"], ignore_index=True)


def find_fold_folders(root: Path) -> tuple[Path, Path | None]:
    """Return FOLDS and FOLDS_AUG (or None) below ``root``; UserError for no FOLDS, or several."""
    by_name: dict[str, list[Path]] = {"folds": [], "folds_aug": []}
    level = [root] if root.is_dir() else []
    # the root's own name does not count: it may be called folds
    for _ in range(3):
        below, level = [folder for parent in level for folder in _folders(parent)], []
        if len(below) > MAX_FOLDERS:
            raise UserError(f"{root} holds more than {MAX_FOLDERS} folders: it is no data set's.")
        for folder in below:
            by_name.get(folder.name.lower(), level).append(folder)

    for name, folders in by_name.items():
        if len(folders) > 1:
            raise UserError(
                f"{root} holds {len(folders)} folders {name.upper()}:\n{shorten(folders)}\n"
                "Give the folder of one data set with data.root=DIR."
            )
    if not by_name["folds"]:
        what = "folder FOLDS, at most three deep," if root.is_dir() else "data"
        output = setting("output", "DIR" if root.is_dir() else root)
        raise UserError(
            f"There is no {what} in {root.absolute()} (data.root={root}).\n"
            f"  make folds of DIR/<class>/<picture>:  {command_for('make_folds', 'source=DIR', output)}\n"
            "                                        (and this command's data=…, if it has one)\n"
            f"  fetch MSLD v2.0:                      {command_for('get_data', 'source=kaggle')}\n"
            f"  try without any:                      {command_for('train', 'fold=3', 'data=synthetic')}\n"
            "If it lies elsewhere, give its folder with data.root=DIR."
        )
    return by_name["folds"][0], next(iter(by_name["folds_aug"]), None)


def fold_numbers(root: StrPath) -> list[int]:
    """Return the numbers of the folds in FOLDS; UserError if there is none, or no FOLDS."""
    folder = find_fold_folders(Path(root))[0]
    numbers = sorted(_numbered(folder))
    if not numbers:
        raise UserError(f"There is no fold in {folder}.")
    return numbers


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say why a file or folder cannot be read, by a UserError."""
    try:
        yield
    except PermissionError:
        remedy = "Change it with chmod, or ask its owner."
        raise UserError(f"No permission to read {path}. {remedy}") from None
    except OSError as error:
        reason = error.strerror
        if path.is_symlink() and not path.exists():
            reason = f"it is a link to {path.readlink()}, which is not there"
        raise UserError(f"{path} cannot be read: {reason}.") from None


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder by name, without hidden and system files; UserError if it cannot be read."""
    with reading(folder), os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    visible = [entry for entry in entries if not entry.name.startswith(".")]
    return [entry for entry in visible if entry.name.lower() not in SYSTEM_NAMES]


def _folders(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in entries_of(folder) if _is_folder(entry)]


def _is_folder(file: os.DirEntry[str] | Path) -> bool:
    # a link that goes in a circle is none
    with suppress(OSError):
        return file.is_dir()
    return False


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

    if lacking := " and ".join(split for split in needed if split not in splits):
        missing = f"The {lacking} split of fold {fold} is missing in {numbered[fold]}"
        names = ", ".join(folder.name for folder in splits.values()) or "nothing"
        raise UserError(f"{missing} (found: {names}).")
    return {split: splits[split] for split in needed}


def left_out(classes: Sequence[str]) -> list[str]:
    """Return the patterns for ``exclude`` that leave these classes' folders out."""
    escaped = [glob.escape(str(name)) for name in classes]
    return [f"{above}{name}/" for name in escaped for above in ("", "*/")]


def _class_folders(root: Path, folder: Path, exclude: Sequence[str]) -> dict[str, Path]:
    folders = {f"{path.relative_to(root).as_posix()}/": path for path in _folders(folder)}
    left = [path for base, path in folders.items() if not _matches(base, exclude)]
    by_name = {nfc(path.name): path for path in left}
    if len(by_name) < len(left):
        raise UserError(f"{folder} holds two folders of one name, in two Unicode forms: join them.")
    return by_name


def _matches(path: str, patterns: Sequence[str]) -> bool:
    # image[1].jpg is itself, too
    return any(nfc(path) == nfc(p) or fnmatchcase(nfc(path), nfc(p)) for p in patterns)


def _read_classes(
    root: Path,
    folder: Path,
    classes: Sequence[str],
    exclude: Sequence[str],
    others: list[str],
    all_needed: bool = True,
) -> Iterator[tuple[str, str, str, int]]:
    """Yield ``COLUMNS`` of the pictures in the folders of all classes; ``others`` gets the rest."""
    class_folders = _class_folders(root, folder, exclude)
    _require_visible(folder, class_folders)
    listed = ", ".join(classes)
    if unknown := sorted(set(class_folders) - set(map(nfc, classes))):
        raise UserError(
            f"Class folder(s) that data.classes does not name, in {folder}: {', '.join(unknown)}.\n"
            f"data.classes is [{listed}].{did_you_mean(unknown[0], classes)} "
            "Rename the folder, name the class in data.classes, or leave it out: "
            f"{shell(setting('data.ignore_classes', unknown))}"
        )
    if not class_folders:
        raise UserError(f"{folder} is empty: it should hold one folder a class ({listed}).")

    prefix = os.path.join(root, "")  # noqa: PTH118  a Path for each takes longer
    base = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"

    def kept(paths: Iterable[str]) -> dict[str, str]:
        names = {p.removeprefix(prefix).replace(os.sep, "/"): p for p in paths}
        return {name: path for name, path in names.items() if not _matches(name, exclude)}

    beside, rest = sort_out(e for e in entries_of(folder) if not _is_folder(e))
    others += [f"{name}: lies in no class folder" for name in kept([*beside, *rest])]
    for label, name in enumerate(classes):
        class_folder = class_folders.get(nfc(name))
        if class_folder is None:
            if all_needed:
                raise UserError(f"Class {name} has no folder in {folder}, or it is left out.")
            continue
        pictures, rest = sort_out(entries_of(class_folder))
        files, rest_kept = kept(pictures), kept(rest)
        _require_visible(class_folder, files)
        others += [f"{file}: {rest[path]}" for file, path in rest_kept.items()]
        if not files and all_needed:
            found = ", ".join([*rest_kept][:10]) or "nothing"
            raise UserError(f"Class {name} has no picture in {class_folder} (found: {found}).")
        yield from ((file, file.removeprefix(base), name, label) for file in files)


def sort_out(files: Iterable[os.DirEntry[str] | Path]) -> tuple[list[str], dict[str, str]]:
    """Return the paths of the pictures among files and below folders, and why others are none.

    Hidden files, those of systems and ``SIDE_SUFFIXES`` are neither; a link that leads nowhere is a
    picture, which cannot be read. UserError if a folder cannot be read.
    """
    pictures: list[str] = []
    others: dict[str, str] = {}
    for file in files:
        path = os.fspath(file)
        if _is_folder(file) and file.is_symlink():
            others[path] = "is a link to a folder"
        elif _is_folder(file):
            below = sort_out(entries_of(Path(file)))
            pictures, others = pictures + below[0], others | below[1]
        elif taken := is_picture(file):
            pictures.append(path)
        elif taken is False:
            others[path] = "is no picture of a format that can be read"
    return pictures, others


def is_picture(file: os.DirEntry[str] | Path) -> bool | None:
    """Tell whether a file (no folder) is a picture, or should be; None for one of another use."""
    suffix = os.path.splitext(file.name)[1].lower()  # noqa: PTH122  a Path for each takes longer
    try:
        if suffix in PICTURES or not file.is_file():
            return file.is_file() or file.is_symlink()
        with Path(file).open("rb") as stream:
            if SIGNATURE.match(stream.read(12)):
                return suffix not in RAW
    # whoever reads it says why
    except OSError:
        return suffix not in SIDE_SUFFIXES
    return None if suffix in SIDE_SUFFIXES else False


def find_pictures(images: str) -> list[Path]:
    """Return the pictures of a file, a folder or a glob; what else lies there is named on stderr.

    Raises:
        UserError: there is none, or a folder cannot be read.
    """
    path = Path(images)
    if path.is_file():
        return [path]
    if path.is_dir():
        pictures, others = sort_out(entries_of(path))
    else:
        matches = map(Path, glob.glob(images, recursive=True))  # noqa: PTH207  absolute ones
        pictures, others = sort_out(
            m for m in matches if not any(part.lower() in SYSTEM_NAMES for part in m.parts)
        )
    name_others(images, *(f"{other}: {why}" for other, why in sorted(others.items())))
    if not pictures:
        ways = "Give a picture, a folder, or a glob: 'images=new/*.jpg'"
        raise UserError(f"images={images} names no picture. {ways}")
    return sorted(set(map(Path, pictures)))


@cache
def name_others(root: str, *others: str) -> None:
    """Say on stderr, once in a process, which files in ``root`` were not taken, and why."""
    if others:
        listed = visible(shorten(others))
        warn(f"{len(others)} file(s) in {root} are not taken:\n{listed}")


def _require_visible(folder: Path, names: Iterable[str]) -> None:
    if bad := list(filter(holds_invisible, names)):
        raise UserError(
            f"{len(bad)} name(s) in {folder} hold control characters, text directions or bytes that are no UTF-8:\n"
            f"{shorten(map(ascii, bad))}\nRename them: tables and reports could not hold them as they are."
        )
