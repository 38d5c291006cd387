"""Training pictures that a fold's Valid and Test know: found, then refused, dropped or allowed."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mpoxcv.audit.descriptions import describe, likenesses
from mpoxcv.audit.likeness import CERTAIN
from mpoxcv.command_line import command_for, data_options
from mpoxcv.errors import UserError, shorten
from mpoxcv.storage.files import StrPath

CHOICES = ("stop", "drop", "allow")
KINDS = {
    "same patient": "a patient has pictures in Train and in Valid or Test",
    "same picture": "a picture of Valid or Test is also in Train, pixel by pixel",
    "near-duplicate": "a picture of Train looks like one of Valid or Test, changed",
    "copy by name": "an augmented picture's original is in Valid or Test, by its name",
    "copy by likeness": "an augmented picture looks like one of Valid or Test, whatever its name says",
}
COLUMNS = ["kind", "fold", "train", "held", "likeness"]


def settle_leaks(
    table: pd.DataFrame, root: Path, choice: str, cache_dir: StrPath, threads: int | None = None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Look for leaks in one fold and do with them what was chosen.

    ``table`` is of one fold, as from ``mpoxcv.pictures.tree.index_folds``, and has its files'
    ``digest``; ``choice`` is ``stop``, ``drop`` (leave the training pictures out) or ``allow``; the
    rest is as in ``mpoxcv.audit.descriptions.describe``. Returns the table without what was
    dropped, and for provenance.json ``choice``, ``leaks`` (training pictures by kind) and
    ``dropped``. UserError for leaks while ``choice`` is ``stop``, or where no training picture of a
    class is left.
    """
    records = describe(root, table["path"].tolist(), table["digest"].to_numpy(), cache_dir, threads)
    held = (table["split"] != "train").to_numpy()
    patients = table.loc[held, "patient"].tolist(), table.loc[~held, "patient"].tolist()
    pairs = likenesses(records[held], records[~held], CERTAIN, cache_dir, patients)
    leaks = leaks_of(table, records, pairs)
    leaking = table["path"].isin(leaks["train"]) & ~held
    by_kind = leaks["kind"].value_counts(sort=False).to_dict()
    outcome = {"choice": choice, "leaks": by_kind, "dropped": 0}
    if choice == "allow" or not leaking.any():
        return table, outcome

    if choice == "stop":
        # the first of each kind, then the second of each: all kinds are shown in a shortened list
        turns = leaks.groupby("kind").cumcount().sort_values(kind="stable").index
        lines = [f"{row.kind}: {row.train} and {row.held}" for row in leaks.loc[turns].itertuples()]
        raise UserError(
            f"{int(leaking.sum())} training picture(s) of fold {table['fold'].iloc[0]} leak into its Valid or Test:\n"
            f"{shorten(lines)}\nA score on them would be too high. Two ways on:\n"
            "  data.leaks=drop    leaves those training pictures out\n"
            "  data.leaks=allow   trains on them, and everything written says so\n"
            f"See them side by side: {command_for('get_data', *data_options(), 'report=audit.html')}"
        )

    clean = table[~leaking].reset_index(drop=True)
    missing = set(table["class"]) - set(clean.loc[clean["split"] == "train", "class"])
    if missing:
        raise UserError(
            f"data.leaks=drop leaves no training picture of {', '.join(sorted(missing))}. Make folds by patient anew."
        )
    return clean, outcome | {"dropped": int(leaking.sum())}


def leaks_of(
    table: pd.DataFrame, records: np.ndarray, pairs: pd.DataFrame, threshold: float = CERTAIN
) -> pd.DataFrame:
    """Return one row a leaking training picture of each fold and kind, with one it leaks from.

    ``table`` is as from ``mpoxcv.pictures.tree.index_folds``, ``records`` of its pictures and
    ``pairs`` (held-out pictures on the left) as from ``mpoxcv.audit.descriptions``. A pair counts
    from a likeness of ``threshold``. The columns are ``kind`` (of ``KINDS``), ``fold``, the paths
    ``train`` and ``held``, and ``likeness`` (NaN by name).
    """
    table = table.assign(pixels=records["pixels"])
    train = table[table["split"] == "train"].rename(columns={"path": "train"})
    held = table[table["split"] != "train"].rename(columns={"path": "held"})
    held = held[["held", "fold", "class", "patient", "original", "pixels"]]

    by_name = train[train["augmented"]].merge(held, on=["fold", "class", "original"])
    same = train.merge(held, on=["fold", "pixels"]).assign(likeness=1.0)
    near = pairs[pairs["likeness"] >= threshold].merge(train, left_on="right", right_on="pixels")
    near = near.merge(held.rename(columns={"pixels": "left"}), on=["fold", "left"])
    alike = pd.concat([same, near]).sort_values("likeness", ascending=False)
    parts = {
        "same patient": train.merge(held, on=["fold", "patient"]),
        "same picture": same[~same["augmented"]],
        "near-duplicate": near[~near["augmented"] & (near["pixels"] != near["left"])],
        "copy by name": by_name,
        "copy by likeness": alike[alike["augmented"] & ~alike["train"].isin(by_name["train"])],
    }
    rows = [
        part.assign(kind=kind).reindex(columns=COLUMNS).drop_duplicates(["fold", "train"])
        for kind, part in parts.items()
        if len(part)
    ]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=COLUMNS)
