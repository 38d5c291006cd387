"""What crosses from one split of a fold into another: found, then refused, dropped or allowed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mpoxcv.audit.descriptions import describe, likenesses
from mpoxcv.audit.likeness import CERTAIN, SUSPECTED
from mpoxcv.command_line import command_for, data_options
from mpoxcv.errors import UserError, shorten
from mpoxcv.pictures.patients import Doubt
from mpoxcv.storage.files import StrPath

CHOICES = ("stop", "drop", "allow")
KINDS = {
    "same patient": "a patient has pictures in Train and in Valid or Test",
    "same picture": "a picture of Valid or Test is also in Train, pixel by pixel",
    "near-duplicate": "a picture of Train looks like one of Valid or Test, changed",
    "copy by name": "an augmented picture's original is in Valid or Test, by its name",
    "copy by likeness": "an augmented picture looks like one of Valid or Test, whatever its name says",
}
COLUMNS = ["kind", "fold", "split", "picture", "other", "likeness"]


def settle_leaks(
    table: pd.DataFrame,
    root: Path,
    choice: str,
    cache_dir: StrPath,
    threads: int | None = None,
    leaks_from: float = CERTAIN,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Look for leaks in one fold and do with them what was chosen.

    ``table`` is of one fold, as from ``mpoxcv.pictures.tree.index_folds``, and has its files'
    ``digest``; ``choice`` is ``stop``, ``drop`` (leave the training pictures out) or ``allow``; a
    pair leaks from a likeness of ``leaks_from``; the rest is as in
    ``mpoxcv.audit.descriptions.describe``.

    Returns:
        The table without what was dropped, and for provenance.json ``choice``, ``leaks_from``,
        training pictures by kind that are ``leaks`` or merely ``suspected``, pictures
        ``in_valid_and_test``, and how many training pictures were ``dropped``.

    Raises:
        UserError: leaks while ``choice`` is ``stop``, or no training picture of a class is left.
    """
    records = describe(root, table["path"].tolist(), table["digest"].to_numpy(), cache_dir, threads)
    held = (table["split"] != "train").to_numpy()
    patients = table.loc[held, "patient"].tolist(), table["patient"].tolist()
    pairs = likenesses(records[held], records, SUSPECTED, cache_dir, patients)
    leaks, suspected, shared = by_degree(leaks_of(table, records, pairs), leaks_from)
    leaking = table["path"].isin(leaks["picture"])
    outcome = {
        "choice": choice, "leaks_from": leaks_from, "leaks": _count(leaks), "suspected": _count(suspected),
        "in_valid_and_test": shared["picture"].nunique(), "dropped": 0,
    }  # fmt: skip
    if choice == "allow" or not leaking.any():
        return table, outcome

    number = int(leaking.sum())
    if choice == "stop":
        # the first of each kind, then the second of each: all kinds are shown in a shortened list
        turns = leaks.groupby("kind").cumcount().sort_values(kind="stable").index
        once = leaks.loc[turns].drop_duplicates(["kind", "picture"])
        lines = [f"{row.kind}: {row.picture} and {row.other}" for row in once.itertuples()]
        raise UserError("\n".join([
            f"{number} training picture(s) of fold {table['fold'].iloc[0]} leak into its Valid or Test:",
            f"{shorten(lines)}\nA score on them would be too high. Three ways on:",
            "  protocol=grouped   makes the folds anew, with each patient and photograph on one side",
            "  data.leaks=drop    leaves those training pictures out",
            "  data.leaks=allow   trains on them, and everything written says so",
            *told(outcome),
            f"See them side by side: {command_for('get_data', *data_options(), 'report=audit.html')}",
        ]))  # fmt: skip

    clean = table[~leaking].reset_index(drop=True)
    missing = set(table["class"]) - set(clean.loc[clean["split"] == "train", "class"])
    if missing:
        raise UserError(
            f"data.leaks=drop leaves no training picture of {', '.join(sorted(missing))}. Make folds by patient anew."
        )
    return clean, outcome | {"dropped": number}


def told(outcome: dict[str, Any]) -> Iterator[str]:
    """Yield what ``settle_leaks`` found or did and nobody asked for, a sentence each."""
    if number := outcome["dropped"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in outcome["leaks"].items())
        yield f"{number} training picture(s) leak and are left out (data.leaks=drop): {kinds}."
    if suspected := outcome["suspected"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in suspected.items())
        yield (
            f"{sum(suspected.values())} more training picture(s) are suspected to leak, with a likeness from {SUSPECTED} "
            f"to {outcome['leaks_from']} ({kinds}), and stay: data.leaks_from={SUSPECTED} counts them as leaks."
        )
    if number := outcome["in_valid_and_test"]:
        yield (
            f"{number} picture(s) of Valid are of a patient or photograph of Test: the checkpoint is chosen on what it is "
            "tested on. protocol=grouped makes the folds anew."
        )


def orphans(table: pd.DataFrame) -> Iterator[Doubt]:
    """Yield how many augmented pictures of a fold have their original in none of its splits."""
    names = pd.MultiIndex.from_frame(table[["fold", "class", "original"]])
    copies = table["augmented"].to_numpy()
    paths = table["path"][copies & ~names.isin(names[~copies])].tolist()
    if paths:
        effect = "Likeness alone can tell whether they show what Valid or Test holds."
        yield Doubt(
            len(paths), "augmented pictures have no original in their fold", effect, (paths[0],)
        )


def by_degree(
    found: pd.DataFrame, leaks_from: float
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Split what ``leaks_of`` found: leaks, suspected ones that are no leak, and Valid's in Test.

    What is found by name, or from a likeness of ``leaks_from``, is a leak.
    """
    certain = ~(found["likeness"] < leaks_from)
    of_train = found["split"] == "train"
    leaks = found[of_train & certain]
    keys = pd.MultiIndex.from_frame(found[["fold", "picture"]])
    suspected = found[of_train & ~keys.isin(keys[of_train & certain])]
    return leaks, suspected, found[~of_train & certain]


def leaks_of(
    table: pd.DataFrame, records: np.ndarray, pairs: pd.DataFrame, threshold: float = SUSPECTED
) -> pd.DataFrame:
    """Return all pairs of pictures by which a split of a fold knows a later one.

    ``table`` is as from ``mpoxcv.pictures.tree.index_folds``, ``records`` of its pictures and
    ``pairs`` (held-out pictures on the left) as from ``mpoxcv.audit.descriptions``. A pair counts
    from a likeness of ``threshold``.

    Returns:
        The columns ``kind`` (of ``KINDS``), ``fold``, the paths ``picture``, of Train or Valid
        (``split``), and ``other``, of Valid or Test, and ``likeness`` (NaN by name), highest first.
        A patient's pictures are named once each.
    """
    table = table.assign(pixels=records["pixels"])
    early = table[table["split"] != "test"].rename(columns={"path": "picture"})
    late = table[table["split"] != "train"].rename(columns={"path": "other", "split": "later"})
    late = late[["other", "later", "fold", "class", "patient", "original", "pixels"]]

    def known(pictures: pd.DataFrame, *keys: str) -> pd.DataFrame:
        both = pictures.merge(late, on=["fold", *keys], suffixes=("", "_b"))
        return both[(both["split"] == "train") | (both["later"] == "test")]

    near = pairs[pairs["likeness"] >= threshold].rename(columns={"right": "pixels"})
    near = early.merge(near, on="pixels").drop(columns="pixels").rename(columns={"left": "pixels"})
    near = known(near, "pixels").sort_values("likeness", ascending=False, kind="stable")
    same = known(early, "pixels").assign(likeness=1.0)
    by_name = known(early[early["augmented"]], "class", "original")
    alike = pd.concat([same, near])
    parts = {
        "same patient": known(early, "patient").drop_duplicates(["fold", "picture"]),
        "same picture": same[~same["augmented"]],
        "near-duplicate": near[~near["augmented"]],
        "copy by name": by_name,
        "copy by likeness": alike[alike["augmented"] & ~alike["picture"].isin(by_name["picture"])],
    }
    rows = [
        part.assign(kind=kind).reindex(columns=COLUMNS) for kind, part in parts.items() if len(part)
    ]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=COLUMNS)


def _count(found: pd.DataFrame) -> dict[str, int]:
    """Return how many pictures there are of each kind."""
    return found.groupby("kind", sort=False)["picture"].nunique().to_dict()
