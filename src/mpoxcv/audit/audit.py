"""What is wrong with a data set and its folds, and what each finding does to a result."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mpoxcv.audit.descriptions import describe, likenesses
from mpoxcv.audit.leaks import KINDS, leaks_of
from mpoxcv.audit.likeness import CERTAIN, SUSPECTED
from mpoxcv.errors import UserError
from mpoxcv.pictures.cache import digest_files

EXAMPLES = 24  # kept of each finding
SHARES_APART = 0.05  # of a class, between a test set and all pictures, from which it is told
SHORTCUTS = {
    "the file alone (size, quantisation, resolution, borders)": slice(0, 6),
    "overall colour": slice(6, None),
}


@dataclass(frozen=True)
class Finding:
    """One kind of defect."""

    kind: str  # what it is, in a few words
    severity: str  # ``leak`` (stops train.py), ``warning`` or ``note``
    effect: str  # what it does to a result
    count: int
    by_fold: dict[int, int] = field(
        default_factory=dict
    )  # count by fold, where it belongs to folds
    examples: list[tuple[str, ...]] = field(
        default_factory=list
    )  # paths of pictures that belong together


def audit(
    table: pd.DataFrame, root: Path, cache_dir: str | os.PathLike[str], threads: int | None = None
) -> list[Finding]:
    """Return the findings, leaks first.

    Args:
        table: of all folds, as from ``mpoxcv.pictures.tree.index_folds``.
        root: folder that its paths are relative to; holds datalog.xlsx or not.
        cache_dir: as in ``mpoxcv.audit.descriptions.describe``.
        threads: of decoding.
    """
    paths = table["path"].tolist()
    records = describe(root, paths, digest_files(root, paths, threads), cache_dir, threads)
    originals = ~table["augmented"].to_numpy()
    pairs = likenesses(records[originals], records, SUSPECTED, cache_dir)
    found = list(_leaks(leaks_of(table, records, pairs)))
    suspected = leaks_of(table, records, pairs, SUSPECTED)
    found += _leaks(suspected[suspected["likeness"] < CERTAIN], "warning")
    first = table.assign(row=np.arange(len(table)))[originals].drop_duplicates("image")
    found += _twins(first.assign(pixels=records["pixels"][first["row"]]), pairs)
    found += _val_and_test(table[originals])
    found += _datalog(table[originals], root)
    found += _coverage(table[originals])
    found += _shortcuts(first, records["surface"][first["row"]])
    return found


def _leaks(leaks: pd.DataFrame, severity: str = "leak") -> Iterator[Finding]:
    effect = "The network has seen what it is tested on: the score is too high."
    if severity != "leak":
        effect = f"If it is so, t{effect[1:]} Look at them: likeness is not certain here, and train.py goes on."
    for kind, part in leaks.groupby("kind", sort=False):
        by_fold = part["fold"].value_counts(sort=False).to_dict()
        pairs = list(part[["train", "held"]].head(EXAMPLES).itertuples(index=False, name=None))
        said = KINDS[str(kind)] if severity == "leak" else f"suspected: {KINDS[str(kind)]}"
        yield Finding(said, severity, effect, len(part), by_fold, pairs)


def _twins(first: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[Finding]:
    """Tell pictures that are there twice among the originals: equal, alike, and perhaps alike."""
    rows = first[["pixels", "path", "class", "patient"]]
    same = rows.merge(rows, on="pixels", suffixes=("", "_b")).assign(likeness=1.0)
    near = pairs.merge(rows, left_on="left", right_on="pixels")
    near = near.merge(rows, left_on="right", right_on="pixels", suffixes=("", "_b"))
    both = pd.concat([same, near]).sort_values("likeness", ascending=False, kind="stable")
    both["pair"] = [tuple(sorted(pair)) for pair in zip(both["path"], both["path_b"], strict=True)]
    both = both[both["path"] != both["path_b"]].drop_duplicates("pair")
    label = both["class"] != both["class_b"]
    patient = ~label & (both["patient"] != both["patient_b"])
    for degree, chosen in {
        "the same picture": both["likeness"] == 1.0,
        "nearly the same picture": (both["likeness"] >= CERTAIN) & (both["likeness"] < 1.0),
        "perhaps the same picture": both["likeness"] < CERTAIN,
    }.items():
        certain = not degree.startswith("perhaps")
        for where, effect, part in (
            ("under two labels", "One of the labels is wrong, or both.", label),
            (
                "under two patients",
                "Folds by patient can put it on both sides (make_folds.py and protocol=grouped keep it on one).",
                patient,
            ),
            (
                "twice for one patient",
                "It counts twice; intervals are too narrow.",
                ~label & ~patient,
            ),
        ):
            hits = both.loc[chosen & part, "pair"].tolist()
            if hits and (certain or not where.startswith("twice")):
                severity = "warning" if certain and not where.startswith("twice") else "note"
                effect = (
                    effect
                    if certain
                    else "If it is (look at them), " + effect[0].lower() + effect[1:]
                )
                yield Finding(f"{degree} {where}", severity, effect, len(hits), {}, hits[:EXAMPLES])


def _val_and_test(originals: pd.DataFrame) -> Iterator[Finding]:
    val, test = (originals[originals["split"] == split] for split in ("val", "test"))
    both = val.merge(test, on=["fold", "patient"], suffixes=("", "_b")).drop_duplicates(
        ["fold", "path"]
    )
    if len(both):
        effect = "The checkpoint is chosen on patients that it is tested on: the score is slightly too high."
        by_fold = both["fold"].value_counts(sort=False).to_dict()
        pairs = list(both[["path", "path_b"]].head(EXAMPLES).itertuples(index=False, name=None))
        yield Finding(
            "a patient has pictures in Valid and in Test",
            "warning",
            effect,
            len(both),
            by_fold,
            pairs,
        )


def _datalog(originals: pd.DataFrame, root: Path) -> Iterator[Finding]:
    """Compare with datalog.xlsx: one sheet a fold, the columns train, validation and test, names of pictures."""
    file = next(
        (f for depth in ("", "*/", "*/*/") for f in sorted(root.glob(f"{depth}datalog.xlsx"))), None
    )
    if file is None:
        return
    try:
        sheets = pd.read_excel(file, sheet_name=None, dtype=str)
    except Exception as error:  # openpyxl and zipfile raise a dozen kinds for damaged files
        raise UserError(f"{file} cannot be read: {error}. Replace it, or take it away.") from None
    columns = {"train": "train", "validation": "val", "valid": "val", "test": "test"}
    listed: dict[tuple[int, str], str] = {}
    for position, (name, sheet) in enumerate(sheets.items(), 1):
        number = "".join(filter(str.isdigit, str(name)))
        for column in sheet.columns:
            if split := columns.get(str(column).strip().lower()):
                names = sheet[column].dropna().str.strip()
                listed |= {(int(number or position), Path(one).stem): split for one in names}
    here = {
        (f, Path(p).stem): (s, p)
        for f, p, s in originals[["fold", "path", "split"]].itertuples(index=False)
    }
    effect = "These folds are not those published: say so beside the result."
    for kind, keys in {
        "listed in datalog.xlsx, and not in the tree": listed.keys() - here.keys(),
        "in the tree, and not listed in datalog.xlsx": here.keys() - listed.keys(),
        "in another split than datalog.xlsx says": {
            k for k in here.keys() & listed.keys() if here[k][0] != listed[k]
        },
    }.items():
        if keys:
            folds = [fold for fold, _ in keys]
            names = [(here[key][1] if key in here else key[1],) for key in sorted(keys)[:EXAMPLES]]
            yield Finding(
                kind,
                "warning",
                effect,
                len(keys),
                {f: folds.count(f) for f in sorted(set(folds))},
                names,
            )


def _coverage(originals: pd.DataFrame) -> Iterator[Finding]:
    tests = originals[originals["split"] == "test"].groupby("image")["path"].agg(["size", "first"])
    every = originals.drop_duplicates("image").set_index("image")["path"]
    never = every[~every.index.isin(tests.index)]
    for kind, paths, effect in (
        ("never in a test set", never, "The pooled result says nothing of them."),
        (
            "in several test sets",
            tests.loc[tests["size"] > 1, "first"],
            "They are scored by several networks.",
        ),
    ):
        if len(paths):
            yield Finding(
                f"pictures {kind}",
                "note",
                effect,
                len(paths),
                {},
                [(path,) for path in paths[:EXAMPLES]],
            )
    shares = (
        originals.groupby(["fold", "split"])["class"]
        .value_counts(normalize=True)
        .unstack(fill_value=0)
    )
    apart = (
        shares - originals.drop_duplicates("image")["class"].value_counts(normalize=True)
    ).abs()
    if (largest := apart.stack().max()) >= SHARES_APART:
        fold, split, name = apart.stack().idxmax()
        effect = f"The largest: {name} in {split} of fold {fold}, {largest:.1%} off. Folds differ in difficulty."
        count = int((apart >= SHARES_APART).any(axis=1).sum())
        yield Finding(
            "splits whose class shares are not those of all pictures", "note", effect, count
        )


def _shortcuts(
    first: pd.DataFrame, measured: np.ndarray, folds: int = 5, draws: int = 1000
) -> Iterator[Finding]:
    """Tell whether the class can be predicted for other patients from ``SURFACE``: the interval's lower end over chance."""
    from sklearn.linear_model import LogisticRegression  # here, since it takes a second
    from sklearn.metrics import recall_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = first["label"].to_numpy()
    patients = pd.factorize(pd.MultiIndex.from_frame(first[["class", "patient"]]))[0]
    enough = min(len(np.unique(patients[labels == label])) for label in np.unique(labels)) >= folds
    if not enough:
        return
    rng, n = np.random.default_rng(0), patients.max() + 1
    of_class = (labels[:, None] == np.unique(labels)).astype(float)  # (N, C)
    for name, columns in SHORTCUTS.items():
        network = make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
        )
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
        called = cross_val_predict(
            network, measured[:, columns], labels, groups=patients, cv=splitter
        )
        value = recall_score(labels, called, average="macro")
        weights = np.stack(
            [np.bincount(rng.integers(0, n, n), minlength=n)[patients] for _ in range(draws)]
        )
        hits, support = (
            weights @ (of_class * (labels == called)[:, None]),
            weights @ of_class,
        )  # (draws, C)
        low, high = np.quantile((hits / np.maximum(support, 1)).mean(1), [0.025, 0.975])
        chance = 1 / len(np.unique(labels))
        if low > chance:
            effect = (
                f"Balanced accuracy {value:.3f} (95 % interval {low:.3f} to {high:.3f}, chance {chance:.3f}) for other "
                "patients: a network may score without looking at lesions."
            )
            yield Finding(f"the class can be told from {name}", "warning", effect, len(first))
