"""Whose a picture is: told by its name, or by a table of patients; and what is odd about it."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import pandas as pd

from mpoxcv.errors import UserError, shorten
from mpoxcv.storage.files import StrPath

# what a table of patients calls its columns, the first that it has: ours, then those of
# HAM10000 and ISIC (image_id, lesion_id, dx) and PAD-UFES-20 (img_id, patient_id, diagnostic)
IMAGE = ("path", "image", "image_id", "img_id", "isic_id")
PATIENT = ("patient", "patient_id", "lesion_id")
LABEL = ("label", "class", "dx", "diagnostic")
GROUP = ("group",)
# advice: every picture of another patient; patients who count anew in each class
EACH_ANOTHER = r"(?P<original>(?P<patient>.+?))(?P<copy>_aug\d+)?"
BY_CLASS = r"(?P<original>(?P<patient>[^/]+/.+)_\d+)(?P<copy>_aug\d+)?"


class Told(NamedTuple):
    """Whose a picture is, and the name, without suffix, of the picture that it was made from."""

    patient: str
    original: str


class Names(Protocol):
    """What tells a picture's patient."""

    # "by data.name_pattern='…'"
    by: str
    # what to do where it tells none
    remedy: str

    def tell(self, path: str, copy: bool = False) -> Told | None:
        """Return whose the picture ``<folder>/<class>/<name>`` is; None where nothing tells.

        ``copy`` says that it may be a copy, of a picture that was told before.
        """


class NamePattern:
    """Patients by a regular expression of ``<name>``, or, with a slash in it, ``<class>/<name>``.

    Raises:
        UserError: it is no regular expression, or lacks the group ``patient`` or ``original``.
    """

    remedy = (
        "Rename them, leave them out with data.exclude=[…], name their patients in a table, data.patients=FILE.csv, or "
        "set data.name_pattern to a regular expression of the whole name without suffix, with the groups patient and "
        f"original. If every picture is of another patient: \"data.name_pattern='{EACH_ANOTHER}'\""
    )

    def __init__(self, name_pattern: str) -> None:
        self.by = f"by data.name_pattern='{name_pattern}'"
        self.depth = 2 if "/" in name_pattern else 1
        try:
            self.pattern = re.compile(name_pattern)
        except re.error as error:
            raise UserError(f"{self.by[3:]} is not a regular expression: {error}") from None
        if missing := {"patient", "original"} - set(self.pattern.groupindex):
            raise UserError(
                f"{self.by[3:]} lacks the group(s) {', '.join(sorted(missing))}. "
                r"Example: '(?P<original>(?P<patient>.+)_\d+)(?P<copy>_aug\d+)?'"
            )

    def tell(self, path: str, copy: bool = False) -> Told | None:
        """Match the name, then the class and the name."""
        whole = PurePosixPath(path).with_suffix("")
        for depth in range(1, self.depth + 1):
            if match := self.pattern.fullmatch("/".join(whole.parts[-depth:])):
                return Told(match["patient"], match["original"].rpartition("/")[2])
        return None


class PatientTable:
    """Patients by a CSV file with the columns ``image`` (or ``path``) and ``patient``.

    A row may call a picture by its path or an end of it, with or without its suffix, or by a longer
    path that ends in its class and name. Patients of one ``group``, where there is such a column,
    are one: a family, or the lesions of a person. Copies are called
    ``<name of the original>_<anything>``.

    Raises:
        UserError: it cannot be read, lacks a column or a patient, or names two for a picture.
    """

    remedy = "Add their rows, or leave them out with data.exclude=[…]."

    def __init__(self, file: StrPath) -> None:
        rows, column = _read_rows(Path(file))
        self.by = f"by the column {column} of data.patients={file}"
        keys = rows["image"].map(_normal)
        if double := [key for key, part in rows["patient"].groupby(keys) if part.nunique() > 1]:
            raise UserError(f"{file} names several patients of one picture:\n{shorten(double)}")
        self.patients = dict(zip(keys, rows["patient"], strict=True))
        self.labels = dict(zip(keys, rows["label"], strict=True)) if "label" in rows else {}
        long = pd.Series({key: _end(key) for key in self.patients if key.count("/") > 1}, dtype=str)
        self.by_end = {end: key for key, end in long.drop_duplicates(keep=False).items()}
        # of the pictures that were told: a copy's suffix need not be its original's
        self.originals: dict[str, str] = {}

    def key(self, path: str) -> str | None:
        """Return what the table calls a picture; None where it has no row."""
        name = PurePosixPath(_normal(path))
        for form in (name, name.with_suffix("")):
            for start in range(len(form.parts)):
                if (key := "/".join(form.parts[start:])) in self.patients:
                    return key
        return self.by_end.get(_end(str(name)))

    def tell(self, path: str, copy: bool = False) -> Told | None:
        """Look for the picture's row; for a copy's by leaving off what its name appends."""
        file = PurePosixPath(path)
        ends = [end.start() for end in re.finditer("_", file.stem)] if copy else []
        for end in (len(file.stem), *reversed(ends)):
            stem = file.stem[:end]
            original = f"{file.parent.name}/{stem}"
            if key := self.key(f"{file.parent}/{stem}{file.suffix}"):
                self.originals[original] = self.patients[key]
            elif not copy or original not in self.originals:
                continue
            return Told(self.originals[original], stem)
        return None


def read_names(name_pattern: str, patients: StrPath | None = None) -> Names:
    """Return the table of ``patients`` where one is given, otherwise the pattern."""
    return NamePattern(name_pattern) if patients is None else PatientTable(patients)


def parse_names(table: pd.DataFrame, names: Names) -> pd.DataFrame:
    """Return ``patient`` and ``original`` of each row of ``path``, originals before their copies.

    Where there is a column ``augmented``, it says which may be copies.

    Raises:
        UserError: nothing tells whose a picture is.
    """
    copies = table.get("augmented", pd.Series(False, table.index))
    told = [names.tell(*pair) for pair in zip(table["path"], copies, strict=True)]
    if failed := [p for p, t in zip(table["path"], told, strict=True) if t is None]:
        counted = f"{len(failed)} file name(s) do not tell their patient {names.by}"
        raise UserError(f"{counted}:\n{shorten(failed)}\n{names.remedy}")
    return pd.DataFrame(told, columns=["patient", "original"], index=table.index)


@dataclass(frozen=True)
class Doubt:
    """What is odd about the patients: how often, what, what it does, and two pictures."""

    count: int
    kind: str
    effect: str
    example: tuple[str, ...] = ()

    def __str__(self) -> str:
        example = f", for example {' and '.join(self.example)}" if self.example else ""
        return f"{self.count} {self.kind}{example}. {self.effect}"


def doubts(table: pd.DataFrame) -> Iterator[Doubt]:
    """Yield what speaks against the patients of a table, at any share, with its number.

    It has a row a picture, with ``path``, ``class`` and ``patient``.
    """
    n = table["patient"].nunique()
    crossing = table[table.groupby("patient")["class"].transform("nunique") > 1]
    if len(crossing):
        first = crossing[crossing["patient"] == crossing["patient"].iloc[0]]
        yield Doubt(
            crossing["patient"].nunique(), f"of {n} patients have pictures in several classes",
            "Each counts as one person. If names count anew in each class, let the pattern see the class: "
            f"\"data.name_pattern='{BY_CLASS}'\", or give data.patients=FILE.csv.",
            tuple(first.drop_duplicates("class")["path"][:2]),
        )  # fmt: skip

    if n == len(table):
        effect = (
            "Each picture counts as another patient's: a patient who has several crosses splits."
        )
        yield Doubt(n, "pictures are of as many patients", effect)
        return
    # M43_01 and M43_02: a number that may be the patient's, and one more. MKP_17 has but one.
    base = table["patient"].str.extract(r"(.*\d)[\W_]+\d+$", expand=False)
    names = table["patient"].groupby(base).unique()
    if len(several := names[names.map(len) > 1]):
        one, other = sorted(several.iloc[0])[:2]
        yield Doubt(
            int(several.map(len).sum()), f"of {n} patients have names as if of {len(several)} persons",
            f"{one} and {other} count as two patients: those who are one cross splits.",
        )  # fmt: skip


def absent_classes(originals: pd.DataFrame) -> Iterator[Doubt]:
    """Yield whether a Valid or Test lacks a class; the columns are those of ``index_folds``."""
    counts = pd.crosstab([originals["fold"], originals["split"]], originals["class"]).stack()
    if len(absent := counts[counts == 0]):
        fold, split, name = absent.index[0]
        kind = f"class(es) lack in a split: fold {fold}'s {split} has no {name}, and so on"
        yield Doubt(len(absent), kind, "Its metrics are of the other classes alone.")


def compare_rows(table: pd.DataFrame, patients: StrPath | None) -> Iterator[Doubt]:
    """Yield what the table of ``patients``, if one is given, says otherwise than the folders.

    ``table`` is as for :func:`doubts`.
    """
    if patients is None:
        return
    listed = PatientTable(patients)
    keys = table["path"].map(listed.key)
    if gone := sorted(listed.patients.keys() - set(keys)):
        named = f"of {len(listed.patients)} rows in {patients} have no picture here"
        yield Doubt(len(gone), named, "They are passed over.", tuple(gone[:2]))
    labels = keys.map(listed.labels)
    other = table["path"][labels.isin(set(table["class"])) & (labels != table["class"])].tolist()
    if other:
        kind = f"pictures lie in another class's folder than {patients} says"
        yield Doubt(len(other), kind, "The folder counts: one of the two is wrong.", (other[0],))


def _normal(path: str) -> str:
    """Return a path with forward slashes, in one Unicode form."""
    return unicodedata.normalize("NFC", str(path)).replace("\\", "/").removeprefix("./")


def _end(path: str) -> str:
    """Return a path's class and name."""
    return "/".join(path.split("/")[-2:])


def _read_rows(file: Path) -> tuple[pd.DataFrame, str]:
    """Return the columns ``image``, ``patient`` and, if there is one, ``label``, as text.

    Beside it: what the file calls its patients.
    """
    if not file.is_file():
        raise UserError(f"data.patients={file} is no file. Give a CSV file: image, patient.")
    try:
        # a spreadsheet may write semicolons, and a mark before the first column
        text = file.read_text(encoding="utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        rows = pd.read_csv(
            file, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig",
            index_col=False,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise UserError(f"data.patients={file} is no table in UTF-8: {error}") from None
    rows = rows.rename(columns=lambda name: str(name).strip().lower())
    rows = rows.apply(lambda column: column.str.strip())

    columns: dict[str, str] = {}
    for name, known in {"image": IMAGE, "patient": PATIENT, "label": LABEL, "group": GROUP}.items():
        if present := [column for column in known if column in rows]:
            columns[name] = present[0]
        elif name in ("image", "patient"):
            wanted, has = ", ".join(known), ", ".join(rows.columns)
            raise UserError(f"data.patients={file} has no column {wanted}; it has {has}.")
    rows = rows[list(columns.values())].set_axis(list(columns), axis=1)
    if empty := (rows[["image", "patient"]] == "").any(axis=1).sum():
        raise UserError(f"data.patients={file}: {empty} row(s) name no picture or no patient.")
    if "group" in rows:
        groups = rows["group"].where(rows["group"] != "", rows["patient"].radd("patient "))
        rows["patient"] = join_twins(rows, groups)
    return rows, columns["patient"]


def join_twins(table: pd.DataFrame, contents: pd.Series) -> pd.Series:
    """Return ``patient``, with one name for all patients who have pictures of the same content.

    The same picture's rows have equal ``contents``.
    """
    patient = table["patient"]
    # a shares with b, b with c: until nothing changes
    while True:
        by_content = patient.groupby(contents).transform("min")
        joined = by_content.groupby(table["patient"]).transform("min")
        if joined.equals(patient):
            return joined
        patient = joined
