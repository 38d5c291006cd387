"""What is wrong with a data set and its folds, and what each finding does to a result."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from mpoxcv.audit.descriptions import describe, likenesses
from mpoxcv.audit.leaks import KINDS, by_degree, leaks_of, orphans
from mpoxcv.audit.likeness import CERTAIN, SUSPECTED
from mpoxcv.evaluation.groups import bootstrap, estimate
from mpoxcv.evaluation.statistics import confusion
from mpoxcv.pictures.cache import digest_files
from mpoxcv.pictures.patients import Doubt, Names, doubts
from mpoxcv.storage.files import StrPath

# shown of each finding
EXAMPLES = 24
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
COLUMNS = ["fold", "picture", "other", "likeness"]


@dataclass(frozen=True, eq=False)
class Finding:
    """One kind of defect: what it is in a few words, and what it does to a result."""

    kind: str
    # ``leak`` (stops train.py), ``warning`` or ``note``
    severity: str
    effect: str
    # a row a pair or picture: some of ``COLUMNS``, ``picture`` among them, a path
    cases: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))
    # where there is not one case a picture
    number: int | None = None

    @cached_property
    def pictures(self) -> pd.DataFrame:
        """The first case of each picture and fold."""
        return self.cases.drop_duplicates([c for c in COLUMNS[:2] if c in self.cases])

    @property
    def count(self) -> int:
        """How many pictures, or what else is counted."""
        return len(self.pictures) if self.number is None else self.number

    @property
    def by_fold(self) -> dict[int, int]:
        """How many pictures each fold has, where cases belong to one."""
        return self.pictures.reindex(columns=["fold"])["fold"].value_counts().sort_index().to_dict()

    @property
    def examples(self) -> list[tuple[str, ...]]:
        """The first pictures, each with the one that it belongs to."""
        paths = self.pictures.reindex(columns=["picture", "other"]).drop_duplicates("picture")
        return [tuple(row.dropna()) for _, row in paths[:EXAMPLES].iterrows()]


def audit(
    table: pd.DataFrame,
    root: Path,
    cache_dir: StrPath,
    threads: int | None = None,
    names: Names | None = None,
    leaks_from: float = CERTAIN,
) -> list[Finding]:
    """Return the findings, leaks first.

    ``table`` is of all folds, as from ``mpoxcv.pictures.tree.index_folds``, and its paths are
    relative to ``root``; ``names`` told the patients; ``leaks_from`` is
    as in ``mpoxcv.audit.leaks.settle_leaks``, the rest as in
    ``mpoxcv.audit.descriptions.describe``.
    """
    paths = table["path"].tolist()
    records = describe(root, paths, digest_files(root, paths, threads), cache_dir, threads)
    is_original = ~table["augmented"].to_numpy()
    originals = table[is_original]
    patients = originals["patient"].tolist(), table["patient"].tolist()
    pairs = likenesses(records[is_original], records, SUSPECTED, cache_dir, patients)
    first = originals.drop_duplicates("image")

    findings = (
        *_leaks(*by_degree(leaks_of(table, records, pairs), leaks_from)),
        *_twins(first.assign(pixels=records["pixels"][first.index]), pairs, leaks_from),
        *_doubted("warning", orphans(table)),
        *_doubted("note", doubts(originals, names)),
        *_shortcuts(first, records["surface"][first.index]),
        *_notes(originals, first.index[records["surface"][first.index, -1] > 0]),
    )
    return [finding for finding in findings if finding.count]


def _leaks(leaks: pd.DataFrame, suspected: pd.DataFrame, shared: pd.DataFrame) -> Iterator[Finding]:
    effect = "The network has seen what it is tested on: the score is too high."
    for kind, part in leaks.groupby("kind", sort=False):
        yield Finding(KINDS[str(kind)], "leak", effect, part)
    effect = f"If it is so, t{effect[1:]} Look at them: likeness is not certain here, and train.py goes on."
    for kind, part in suspected.groupby("kind", sort=False):
        yield Finding(f"suspected: {KINDS[str(kind)]}", "warning", effect, part)
    effect = "The checkpoint is chosen on what it is tested on: the score is slightly too high."
    for kind, part in shared.groupby("kind", sort=False):
        what = "a patient has pictures" if kind == "same patient" else "a photograph is"
        yield Finding(f"{what} in Valid and in Test", "warning", effect, part)


def _doubted(severity: str, found: Iterable[Doubt]) -> Iterator[Finding]:
    for doubt in found:
        pair = [*doubt.example, None, None][:2]
        example = pd.DataFrame([pair], columns=COLUMNS[1:3]).dropna(subset="picture")
        yield Finding(doubt.kind, severity, doubt.effect, example, doubt.count)


def _twins(first: pd.DataFrame, pairs: pd.DataFrame, leaks_from: float) -> Iterator[Finding]:
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

    certain = twins["likeness"].isna(), twins["likeness"] >= leaks_from
    differ = twins["class"] != twins["class_b"], twins["patient"] != twins["patient_b"]
    degrees = np.select(certain, ["the same", "nearly the same"], "perhaps the same")
    cases = np.select(differ, list(TWINS)[:2], list(TWINS)[2])
    for (degree, case), part in twins.groupby([degrees, cases], sort=False):
        severity, effect = TWINS[case]
        if degree.startswith("perhaps"):
            if severity == "note":
                continue
            severity, effect = "note", f"If it is (look at them), {effect[0].lower()}{effect[1:]}"
        ends = pd.DataFrame(part["pair"].tolist(), columns=["picture", "other"])
        likeness = part["likeness"].to_numpy()
        yield Finding(f"{degree} picture {case}", severity, effect, ends.assign(likeness=likeness))


def _notes(originals: pd.DataFrame, broken: pd.Index) -> Iterator[Finding]:
    pictures = originals.rename(columns={"path": "picture"}).drop_duplicates("image")
    tests = pictures["image"].map(originals["image"][originals["split"] == "test"].value_counts())
    unread = pictures.index.isin(broken)
    for kind, effect, which in (
        ("pictures never in a test set", "The pooled result says nothing of them.", tests.isna()),
        ("pictures in several test sets", "They are scored by several networks.", tests > 1),
        (
            "a colour profile that cannot be read",
            "Their colours are taken for sRGB's, and may be others.",
            unread,
        ),
    ):
        yield Finding(kind, "note", effect, pictures[["picture"]][which])


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
            yield Finding(
                f"the class can be told from {name}", "warning", effect, number=len(first)
            )
