"""What is wrong with a data set and its folds, and what each finding does to a result."""

import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mpoxcv.audit.descriptions import describe, likenesses
from mpoxcv.audit.leaks import KINDS, leaks_of
from mpoxcv.audit.likeness import CERTAIN, SUSPECTED
from mpoxcv.errors import UserError
from mpoxcv.evaluation.groups import bootstrap, estimate
from mpoxcv.evaluation.statistics import confusion
from mpoxcv.pictures.cache import digest_files
from mpoxcv.pictures.patients import Names, doubts
from mpoxcv.storage.files import StrPath, read_bytes

# shown of each finding
EXAMPLES = 24
# of datalog.xlsx: bytes, packed and unpacked, and rows of a sheet
MAX_BOOK, MAX_SHEETS, MAX_ROWS = 2**24, 2**27, 100_000
# columns of ``mpoxcv.audit.surface.SURFACE``
SHORTCUTS = {
    "the file alone (size, quantisation, resolution, borders)": slice(0, 6),
    "overall colour": slice(6, 12),
    "the colour profile in the file": slice(12, 15),
}
# of an original that lies there twice: severity and effect
TWINS = {
    "under two labels": ("warning", "One of the labels is wrong, or both."),
    "under two patients": (
        "warning",
        "Folds by patient can put it on both sides (make_folds.py and protocol=grouped keep it on one).",
    ),
    "twice for one patient": ("note", "It counts twice; intervals are too narrow."),
}
# of pictures that belong together
Paths = tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """One kind of defect: what it is in a few words, and what it does to a result."""

    kind: str
    # ``leak`` (stops train.py), ``warning`` or ``note``
    severity: str
    effect: str
    count: int
    cases: Sequence[Paths] = ()
    # of each case, where it belongs to one
    folds: Sequence[int] = ()

    @property
    def by_fold(self) -> dict[int, int]:
        """How many cases each fold has."""
        return dict(Counter(self.folds))

    @property
    def examples(self) -> Sequence[Paths]:
        """The first cases."""
        return self.cases[:EXAMPLES]


def audit(
    table: pd.DataFrame,
    root: Path,
    cache_dir: StrPath,
    threads: int | None = None,
    names: Names | None = None,
) -> list[Finding]:
    """Return the findings, leaks first.

    ``table`` is of all folds, as from ``mpoxcv.pictures.tree.index_folds``, and its paths are
    relative to ``root``, where datalog.xlsx may lie; ``names`` told the
    patients; the rest as in ``mpoxcv.audit.descriptions.describe``.
    """
    paths = table["path"].tolist()
    records = describe(root, paths, digest_files(root, paths, threads), cache_dir, threads)
    is_original = ~table["augmented"].to_numpy()
    originals = table[is_original]
    patients = originals["patient"].tolist(), table["patient"].tolist()
    pairs = likenesses(records[is_original], records, SUSPECTED, cache_dir, patients)
    first = originals.drop_duplicates("image")

    suspected = leaks_of(table, records, pairs, SUSPECTED)
    findings = (
        *_leaks(leaks_of(table, records, pairs)),
        *_leaks(suspected[suspected["likeness"] < CERTAIN], "warning"),
        *_twins(first.assign(pixels=records["pixels"][first.index]), pairs),
        _val_and_test(originals),
        *(
            Finding(d.kind, "note", d.effect, d.count, [d.example] * bool(d.example))
            for d in doubts(originals, names)
        ),
        *_datalog(originals, root),
        *_coverage(originals),
        *_shortcuts(first, records["surface"][first.index]),
        _broken_profiles(first, records["surface"][first.index, -1]),
    )
    return [finding for finding in findings if finding.count]


def _finding(
    kind: str, severity: str, effect: str, cases: Sequence[Paths], folds: Iterable[int] = ()
) -> Finding:
    return Finding(kind, severity, effect, len(cases), cases, list(folds))


def _leaks(leaks: pd.DataFrame, severity: str = "leak") -> Iterator[Finding]:
    effect = "The network has seen what it is tested on: the score is too high."
    if severity != "leak":
        effect = f"If it is so, t{effect[1:]} Look at them: likeness is not certain here, and train.py goes on."
    for name, part in leaks.groupby("kind", sort=False):
        kind = KINDS[str(name)] if severity == "leak" else f"suspected: {KINDS[str(name)]}"
        pairs = list(zip(part["train"], part["held"], strict=True))
        yield _finding(kind, severity, effect, pairs, part["fold"])


def _twins(first: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[Finding]:
    """Tell originals that lie there twice: equal, alike, and perhaps alike."""
    rows = first[["pixels", "path", "class", "patient"]]
    # equal pixels have no likeness here: that of others may round to 1, or above
    same = rows.merge(rows, on="pixels", suffixes=("", "_b"))
    near = pairs.merge(rows, left_on="left", right_on="pixels")
    near = near.merge(rows, left_on="right", right_on="pixels", suffixes=("", "_b"))
    twins = pd.concat([same, near])
    twins = twins.sort_values("likeness", ascending=False, kind="stable", na_position="first")
    twins["pair"] = [tuple(sorted(p)) for p in zip(twins["path"], twins["path_b"], strict=True)]
    twins = twins[twins["path"] != twins["path_b"]].drop_duplicates("pair")

    certain = twins["likeness"].isna(), twins["likeness"] >= CERTAIN
    differ = twins["class"] != twins["class_b"], twins["patient"] != twins["patient_b"]
    degrees = np.select(certain, ["the same", "nearly the same"], "perhaps the same")
    cases = np.select(differ, list(TWINS)[:2], list(TWINS)[2])
    for (degree, case), part in twins.groupby([degrees, cases], sort=False):
        severity, effect = TWINS[case]
        if degree.startswith("perhaps"):
            if severity == "note":
                continue
            severity, effect = "note", f"If it is (look at them), {effect[0].lower()}{effect[1:]}"
        yield _finding(f"{degree} picture {case}", severity, effect, part["pair"].tolist())


def _val_and_test(originals: pd.DataFrame) -> Finding:
    val, test = (originals[originals["split"] == split] for split in ("val", "test"))
    pairs = val.merge(test, on=["fold", "patient"], suffixes=("", "_b"))
    pairs = pairs.drop_duplicates(["fold", "path"])
    kind = "a patient has pictures in Valid and in Test"
    effect = (
        "The checkpoint is chosen on patients that it is tested on: the score is slightly too high."
    )
    paths = list(zip(pairs["path"], pairs["path_b"], strict=True))
    return _finding(kind, "warning", effect, paths, pairs["fold"])


def _datalog(originals: pd.DataFrame, root: Path) -> Iterator[Finding]:
    """Compare with datalog.xlsx: a sheet a fold, names in columns train, validation and test."""
    depths = ("", "*/", "*/*/")
    file = next((f for d in depths for f in sorted(root.glob(f"{d}datalog.xlsx"))), None)
    if file is None:
        return
    try:
        content = io.BytesIO(read_bytes(file, MAX_BOOK))
        if sum(part.file_size for part in zipfile.ZipFile(content).infolist()) > MAX_SHEETS:
            raise ValueError(f"it unpacks to more than {MAX_SHEETS} bytes")
        sheets = pd.read_excel(content, sheet_name=None, dtype=str, nrows=MAX_ROWS)
    # openpyxl and zipfile raise a dozen kinds for damaged files
    except Exception as error:
        raise UserError(f"{file} cannot be read: {error}. Replace it, or take it away.") from None

    columns = {"train": "train", "validation": "val", "valid": "val", "test": "test"}
    listed: dict[tuple[int, str], str] = {}
    for position, (title, sheet) in enumerate(sheets.items(), 1):
        number = "".join(filter(str.isdigit, str(title)))
        for column in sheet.columns:
            if split := columns.get(str(column).strip().lower()):
                names = sheet[column].dropna().str.strip()
                listed |= {(int(number or position), Path(name).stem): split for name in names}

    pictures = {(row.fold, Path(row.path).stem): row for row in originals.itertuples()}
    common = pictures.keys() & listed.keys()
    moved = {key for key in common if pictures[key].split != listed[key]}
    effect = "These folds are not those published: say so beside the result."
    for kind, keys in {
        "listed in datalog.xlsx, and not in the tree": listed.keys() - common,
        "in the tree, and not listed in datalog.xlsx": pictures.keys() - common,
        "in another split than datalog.xlsx says": moved,
    }.items():
        ordered = sorted(keys)
        paths = [(pictures[key].path if key in pictures else key[1],) for key in ordered]
        yield _finding(kind, "warning", effect, paths, [fold for fold, _ in ordered])


def _coverage(originals: pd.DataFrame) -> Iterator[Finding]:
    tests = originals[originals["split"] == "test"].groupby("image")["path"].agg(["size", "first"])
    pictures = originals.drop_duplicates("image").set_index("image")
    never = [(path,) for path in pictures.loc[~pictures.index.isin(tests.index), "path"]]
    several = [(path,) for path in tests.loc[tests["size"] > 1, "first"]]
    effect = "The pooled result says nothing of them."
    yield _finding("pictures never in a test set", "note", effect, never)
    effect = "They are scored by several networks."
    yield _finding("pictures in several test sets", "note", effect, several)


def _broken_profiles(first: pd.DataFrame, broken: np.ndarray) -> Finding:
    kind = "a colour profile that cannot be read"
    effect = "Their colours are taken for sRGB's, and may be others."
    return _finding(kind, "note", effect, [(path,) for path in first["path"][broken > 0]])


def _shortcuts(first: pd.DataFrame, measured: np.ndarray) -> Iterator[Finding]:
    """Tell whether ``SURFACE`` predicts other patients' class: the interval's end over chance."""
    # here, since it takes a second
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = 5
    if first.groupby("label")["patient"].nunique().min() < folds:
        return

    labels = np.unique(first["label"], return_inverse=True)[1]
    n = labels.max() + 1
    draws = bootstrap(first.assign(weight=1.0), 1000)
    regression = LogisticRegression(class_weight="balanced", max_iter=1000)
    network = make_pipeline(StandardScaler(), regression)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    for name, columns in SHORTCUTS.items():
        inputs = measured[:, columns]
        # of files that are all alike nothing is told, but by luck
        if not np.ptp(inputs, axis=0).any():
            continue
        called = cross_val_predict(network, inputs, labels, groups=first["patient"], cv=splitter)
        counts = confusion(labels, called, n, draws)
        hits, support = np.diagonal(counts, axis1=1, axis2=2), counts.sum(2)
        value, low, high = estimate((hits / np.maximum(support, 1)).mean(1))
        if low > 1 / n:
            effect = (
                f"Balanced accuracy {value:.3f} (95 % interval {low:.3f} to {high:.3f}, chance {1 / n:.3f}) for other "
                "patients: a network may score without looking at lesions."
            )
            yield Finding(f"the class can be told from {name}", "warning", effect, len(first))
