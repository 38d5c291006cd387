"""Whose a picture is, told by its name or by a table of patients, and what speaks against it."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from mpoxcv.command_line import setting, shell
from mpoxcv.errors import UserError, nfc, shorten
from mpoxcv.storage.files import StrPath, opened

# what a table of patients calls its columns, the first that it has: ours, then those of
# HAM10000 and ISIC (image_id, lesion_id, dx) and PAD-UFES-20 (img_id, patient_id, diagnostic)
COLUMNS = {
    "image": ("path", "image", "image_id", "img_id", "isic_id"),
    "patient": ("patient", "patient_id", "lesion_id"),
    "label": ("label", "class", "dx", "diagnostic"),
    "group": ("group",),
}
# advice: every picture of another patient; patients who count anew in each class
EACH_ANOTHER = r"(?P<original>(?P<patient>[^/]+/.+?))(?P<copy>_aug\d+)?"
BY_CLASS = r"(?P<original>(?P<patient>[^/]+/.+)_\d+)(?P<copy>_aug\d+)?"


class Told(NamedTuple):
    """Whose a picture is, and the name, without suffix, of the picture that it was made from."""

    patient: str
    original: str


@dataclass(frozen=True)
class Doubt:
    """What speaks against the patients: how often, what, what it does, and two pictures."""

    count: int
    kind: str
    effect: str
    example: tuple[str, ...] = ()

    def __str__(self) -> str:
        example = f", for example {' and '.join(self.example)}" if self.example else ""
        return f"{self.count} {self.kind}{example}. {self.effect}"


class NamePattern:
    """Patients by a regular expression of ``<name>``, or, with a slash in it, ``<class>/<name>``.

    It is of the whole name without suffix, with the groups ``patient`` and ``original``.

    Raises:
        UserError: it is no regular expression, or lacks the group ``patient`` or ``original``.
    """

    remedy = (
        "Rename them, leave them out with data.exclude=[…], name their patients in a table, data.patients=FILE.csv, or "
        "set data.name_pattern to a regular expression of the whole name without suffix, with the groups patient and "
        f"original. If every picture is of another patient: {shell(setting('data.name_pattern', EACH_ANOTHER))}"
    )

    def __init__(self, name_pattern: str) -> None:
        option = shell(setting("data.name_pattern", name_pattern))
        self.by = f"by {option}"
        self.depth = 2 if "/" in name_pattern else 1
        try:
            self.pattern = re.compile(name_pattern)
        except re.error as error:
            raise UserError(f"{option} is not a regular expression: {error}") from None
        if missing := {"patient", "original"} - set(self.pattern.groupindex):
            raise UserError(
                f"{option} lacks the group(s) {', '.join(sorted(missing))}. "
                r"Example: '(?P<original>(?P<patient>.+)_\d+)(?P<copy>_aug\d+)?'"
            )

    def tell(self, path: str, copy: bool = False) -> Told | None:
        """Return whose the picture ``<folder>/<class>/<name>`` is; None where nothing tells."""
        parts = PurePosixPath(path).with_suffix("").parts
        for depth in range(1, self.depth + 1):
            if match := self.pattern.fullmatch("/".join(parts[-depth:])):
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
        self.file = file
        rows, column = _read_rows(Path(file))
        self.by = f"by the column {column} of data.patients={file}"
        by_key = rows.groupby("image")["patient"]
        if double := [key for key, n in by_key.nunique().items() if n > 1]:
            raise UserError(f"{file} names several patients of one picture:\n{shorten(double)}")
        self.patients: dict[str, str] = by_key.first().to_dict()
        self.labels = rows.reindex(columns=["image", "label"]).set_index("image")["label"].to_dict()
        # of paths that are longer than ours: what they end in, where it is but one's
        ends = pd.Series({k: "/".join(k.split("/")[-2:]) for k in self.patients}, dtype=str)
        self.by_end = {end: key for key, end in ends.drop_duplicates(keep=False).items()}
        # of the pictures that were told: a copy's suffix need not be its original's
        self.originals: dict[str, str] = {}

    def tell(self, path: str, copy: bool = False) -> Told | None:
        """Return whose a picture is, or what may be a ``copy`` of one that was told before."""
        file = PurePosixPath(path)
        stem = file.stem
        while stem:
            original = f"{file.parent.name}/{stem}"
            key = self._key(f"{file.parent}/{stem}{file.suffix}")
            if key:
                self.originals[original] = self.patients[key]
            if key or (copy and original in self.originals):
                return Told(self.originals[original], stem)
            # what a copy's name appends
            stem = stem.rpartition("_")[0] if copy else ""
        return None

    def doubts(self, first: pd.DataFrame) -> Iterator[Doubt]:
        """Yield what the file says otherwise than the folders; ``first`` has a row a picture."""
        keys = first["path"].map(self._key)
        if gone := sorted(self.patients.keys() - set(keys)):
            kind = f"of {len(self.patients)} rows in {self.file} have no picture here"
            yield Doubt(len(gone), kind, "They are passed over.", tuple(gone[:2]))
        labels = keys.map(self.labels)
        other = labels.isin(set(first["class"])) & (labels != first["class"])
        if paths := first["path"][other].tolist():
            kind = f"pictures lie in another class's folder than {self.file} says"
            yield Doubt(len(paths), kind, "The folder counts: one is wrong.", (paths[0],))

    def _key(self, path: str) -> str | None:
        """Return what the table calls a picture; None where it has no row."""
        name = PurePosixPath(_normal(path))
        for form in (name, name.with_suffix("")):
            for start in range(len(form.parts)):
                if (key := "/".join(form.parts[start:])) in self.patients:
                    return key
        return self.by_end.get("/".join(name.parts[-2:]))


# what tells a picture's patient
Names = NamePattern | PatientTable


def read_names(names: str | Names, patients: StrPath | None = None) -> Names:
    """Return the table of ``patients`` where one is given, otherwise the pattern."""
    if patients is not None:
        return PatientTable(patients)
    return NamePattern(names) if isinstance(names, str) else names


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


def doubts(originals: pd.DataFrame, names: Names | None = None) -> Iterator[Doubt]:
    """Yield what speaks against a table's patients and classes, at any share, with its number.

    The table is as from ``mpoxcv.pictures.tree``, read with ``names``.
    """
    first = originals.drop_duplicates("image")
    patients = first["patient"]
    n = patients.nunique()
    crossing = first[first.groupby("patient")["class"].transform("nunique") > 1]
    if len(crossing):
        one = crossing[crossing["patient"] == crossing["patient"].iloc[0]]
        yield Doubt(
            crossing["patient"].nunique(), f"of {n} patients have pictures in several classes",
            "Each counts as one person. If names count anew in each class, let the pattern see the class, as in "
            f"{shell(setting('data.name_pattern', BY_CLASS))}, or give data.patients=FILE.csv.",
            tuple(one.drop_duplicates("class")["path"][:2]),
        )  # fmt: skip

    # M43_01 and M43_02: a number that may be the patient's, and one more. MKP_17 has but one.
    by_base = patients.groupby(patients.str.extract(r"(.*\d)[\W_]+\d+$", expand=False)).unique()
    several = by_base[by_base.map(len) > 1]
    if n == len(first):
        effect = "Each picture counts as another patient's: one who has several crosses splits."
        yield Doubt(n, "pictures are of as many patients", effect)
    elif len(several):
        one, other = sorted(several.iloc[0])[:2]
        count, persons = int(several.map(len).sum()), len(several)
        effect = f"{one} and {other} count as two patients: those who are one cross splits."
        yield Doubt(count, f"of {n} patients have names as if of {persons} persons", effect)

    if isinstance(names, PatientTable):
        yield from names.doubts(first)
    if "split" in originals:
        counts = pd.crosstab([originals["fold"], originals["split"]], originals["class"]).stack()
        if len(absent := counts[counts == 0]):
            fold, split, name = absent.index[0]
            kind = f"class(es) lack in a split: fold {fold}'s {split} has no {name}, and so on"
            yield Doubt(len(absent), kind, "Its metrics are of the other classes alone.")


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


def _normal(path: str) -> str:
    """Return a path with forward slashes, in one Unicode form."""
    return nfc(path).replace("\\", "/").removeprefix("./")


def _read_rows(file: Path) -> tuple[pd.DataFrame, str]:
    """Return ``image``, ``patient`` and ``label`` as text, and what the file calls its patients."""
    if not file.is_file():
        raise UserError(f"data.patients={file} is no file. Give a CSV file: image, patient.")
    try:
        # a spreadsheet may write semicolons, and a mark before the first column
        with io.TextIOWrapper(opened(file), "utf-8-sig") as stream:
            separator = max(",;\t", key=stream.readline().count)
            stream.seek(0)
            options = {"sep": separator, "dtype": str, "keep_default_na": False}
            table = pd.read_csv(stream, index_col=False, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"data.patients={file} is no table in UTF-8: {error}") from None
    table = table.rename(columns=lambda name: str(name).strip().lower())

    called = {name: [c for c in known if c in table] for name, known in COLUMNS.items()}
    if missing := [name for name in ("image", "patient") if not called[name]]:
        wanted, has = ", ".join(COLUMNS[missing[0]]), ", ".join(table.columns)
        raise UserError(f"data.patients={file} has no column {wanted}; it has {has}.")
    rows = pd.DataFrame({name: table[cs[0]].str.strip() for name, cs in called.items() if cs})
    if empty := (rows[["image", "patient"]] == "").any(axis=1).sum():
        raise UserError(f"data.patients={file}: {empty} row(s) name no picture or no patient.")
    if "group" in rows:
        groups = rows["group"].where(rows["group"] != "", "patient " + rows["patient"])
        rows["patient"] = join_twins(rows, groups)
    rows["image"] = rows["image"].map(_normal)
    return rows, called["patient"][0]
