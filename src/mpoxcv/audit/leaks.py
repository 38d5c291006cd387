"""Training pictures that a fold's Valid and Test know: found, and then refused, dropped or allowed."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mpoxcv.audit.descriptions import describe, likenesses
from mpoxcv.audit.likeness import CERTAIN
from mpoxcv.errors import UserError, shorten

CHOICES = ("stop", "drop", "allow")
KINDS = {
    "same patient": "a patient has pictures in Train and in Valid or Test",
    "same picture": "a picture of Valid or Test is also in Train, pixel by pixel",
    "near-duplicate": "a picture of Train looks like one of Valid or Test, changed",
    "copy by name": "an augmented picture's original is in Valid or Test, by its name",
    "copy by likeness": "an augmented picture looks like one of Valid or Test, whatever its name says",
}
COLUMNS = ("kind", "fold", "train", "held", "likeness")


def settle_leaks(
    table: pd.DataFrame,
    root: Path,
    choice: str,
    cache_dir: str | os.PathLike[str],
    threads: int | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Look for leaks in one fold and do with them what was chosen.

    Args:
        table: of one fold, as from ``mpoxcv.pictures.tree.index_folds``, with the column ``digest`` of its files' contents.
        root: folder that its paths are relative to.
        choice: ``stop``, ``drop`` (leave the training pictures out) or ``allow``.
        cache_dir: as in ``mpoxcv.audit.descriptions.describe``.
        threads: of decoding.

    Returns:
        The table, without what was dropped, and what provenance.json holds of it: ``choice``, ``leaks`` (training
        pictures by kind) and ``dropped``.

    Raises:
        UserError: there are leaks and ``choice`` is ``stop``, or nothing of a class is left to train on.
    """
    records = describe(root, table["path"].tolist(), table["digest"].to_numpy(), cache_dir, threads)
    held = (table["split"] != "train").to_numpy()
    found = leaks_of(table, records, likenesses(records[held], records[~held], CERTAIN, cache_dir))
    leaking = table["path"].isin(found["train"]) & ~held
    outcome = {
        "choice": choice,
        "leaks": found["kind"].value_counts(sort=False).to_dict(),
        "dropped": 0,
    }
    if choice == "allow" or not leaking.any():
        return table, outcome
    if choice == "stop":
        raise UserError(
            f"{int(leaking.sum())} training picture(s) of fold {table['fold'].iloc[0]} leak into its Valid or Test:\n"
            f"{shorten(_lines(found))}\nA score on them would be too high. Two ways on:\n"
            "  data.leaks=drop    leaves those training pictures out\n"
            "  data.leaks=allow   trains on them, and everything written says so\n"
            "See them side by side: python scripts/get_data.py report=audit.html"
        )
    kept = table[~leaking].reset_index(drop=True)
    if gone := sorted(set(table["class"]) - set(kept.loc[kept["split"] == "train", "class"])):
        raise UserError(
            f"data.leaks=drop leaves no training picture of {', '.join(gone)}. Make folds by patient anew."
        )
    return kept, outcome | {"dropped": int(leaking.sum())}


def leaks_of(
    table: pd.DataFrame, records: np.ndarray, pairs: pd.DataFrame, threshold: float = CERTAIN
) -> pd.DataFrame:
    """Return one row a leaking training picture of each fold and kind, with one of the pictures it leaks from.

    Args:
        table: as from ``mpoxcv.pictures.tree.index_folds``.
        records: of its pictures, as from ``mpoxcv.audit.descriptions.describe``.
        pairs: as from ``mpoxcv.audit.descriptions.likenesses``, held-out pictures on the left.
        threshold: likeness from which a pair counts.

    Returns:
        Columns ``kind`` (of ``KINDS``), ``fold``, ``train`` and ``held`` (paths), ``likeness`` (NaN where names tell).
    """
    table = table.assign(pixels=records["pixels"])
    held, train = table[table["split"] != "train"], table[table["split"] == "train"]
    person, original = ["fold", "patient"], ["fold", "class", "original"]
    by_name = train[train["augmented"]].merge(held, on=original, suffixes=("", "_held"))
    same = train.merge(held, on=["fold", "pixels"], suffixes=("", "_held"))
    near = pairs[pairs["likeness"] >= threshold].merge(train, left_on="right", right_on="pixels")
    near = near.merge(
        held, left_on=["fold", "left"], right_on=["fold", "pixels"], suffixes=("", "_held")
    )
    alike_copy = pd.concat([same.assign(likeness=1.0), near]).sort_values(
        "likeness", ascending=False
    )
    alike_copy = alike_copy[alike_copy["augmented"] & ~alike_copy["path"].isin(by_name["path"])]
    parts = {
        "same patient": train.merge(held, on=person, suffixes=("", "_held")),
        "same picture": same[~same["augmented"]].assign(likeness=1.0),
        "near-duplicate": near[~near["augmented"] & (near["pixels"] != near["left"])],
        "copy by name": by_name,
        "copy by likeness": alike_copy,
    }
    rows = [
        part.assign(kind=kind)
        .rename(columns={"path": "train", "path_held": "held"})
        .reindex(columns=COLUMNS)
        .drop_duplicates(["fold", "train"])
        for kind, part in parts.items()
        if len(part)
    ]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=list(COLUMNS))


def _lines(found: pd.DataFrame) -> Sequence[str]:
    found = found.assign(turn=found.groupby("kind").cumcount()).sort_values(
        "turn", kind="stable"
    )  # of each kind some
    return [f"{row.kind}: {row.train} and {row.held}" for row in found.itertuples()]
