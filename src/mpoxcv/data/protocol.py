"""Which pictures a fold trains, validates and tests on."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mpoxcv.audit.descriptions import same_pictures
from mpoxcv.command_line import require_suffix
from mpoxcv.datasets.folds import assign_folds
from mpoxcv.errors import UserError, shorten
from mpoxcv.evaluation.runs import LEAKING
from mpoxcv.pictures.patients import Names, join_twins
from mpoxcv.pictures.tree import fold_numbers, index_folds
from mpoxcv.storage.files import StrPath, lock, naming, opened, write_csv
from mpoxcv.terminal import say

PROTOCOLS = ("published", "grouped")
NOTES = {
    "grouped": "folds made anew by patient",
    LEAKING: "ALL FOLDS TOGETHER: TEST PICTURES WERE TRAINED ON",
}


def fold_table(
    root: StrPath,
    classes: Sequence[str],
    name_pattern: str | Names,
    fold: int | str,
    protocol: str = "published",
    split_file: StrPath | None = None,
    seed: int = 42,
    exclude: Sequence[str] = (),
    cache_dir: StrPath = "data/cache",
    threads: int | None = None,
    makes_folds: bool = True,
) -> pd.DataFrame:
    """Return the pictures of one fold, as ``mpoxcv.pictures.tree.index_folds`` does.

    ``published`` takes the folds as they lie on disk. ``grouped`` deals all their originals out
    anew by patient and class (``assign_folds``), without copying a file, patients with the same
    picture as one; augmented copies follow their original into Train. ``fold="leaking"`` puts all
    folds together, as a widely copied project does: a test picture of one fold is a training
    picture of another.

    Args:
        root: as in ``index_folds``.
        classes: likewise.
        name_pattern: likewise.
        fold: number of the fold, or ``leaking``.
        protocol: ``published`` or ``grouped``.
        split_file: CSV file of the grouped folds; made where it is not there, and the truth from
            then on. None takes ``<root>_grouped_folds.csv`` beside ``root``.
        seed: of the grouped folds, when they are made.
        exclude: as in ``index_folds``.
        cache_dir: where what is known of the pictures is kept.
        threads: of decoding, when grouped folds are made.
        makes_folds: false refuses where ``split_file`` is not there.

    Raises:
        UserError: the tree is not as expected, or ``split_file`` is of other pictures.
    """
    root = Path(root)
    if fold != LEAKING and protocol == "published":
        return index_folds(root, classes, name_pattern, [int(fold)], exclude)
    table = index_folds(root, classes, name_pattern, fold_numbers(root), exclude)
    if fold == LEAKING:
        repeated = table.duplicated(["split", "image"]) & (table["split"] != "train")
        return table[~repeated].assign(fold=LEAKING).reset_index(drop=True)

    originals = table[~table["augmented"]].drop_duplicates("image")
    if split_file is None:
        split_file = root.absolute().with_name(f"{root.absolute().name}_grouped_folds.csv")

    def make() -> pd.DataFrame:
        same = same_pictures(root, originals, cache_dir, threads)
        joined = originals.assign(patient=join_twins(originals, pd.Series(same, originals.index)))
        return assign_folds(joined, 5, seed)

    require_suffix("data.split_file", split_file, ".csv")
    if not (makes_folds or Path(split_file).is_file()):
        way = "Give the run's own: data.split_file=FILE"
        raise UserError(f"The folds that the run was trained on are not there: {split_file}. {way}")
    folds = _grouped_folds(Path(split_file), originals, make)
    if fold not in set(folds["fold"]):
        numbers = sorted(set(folds["fold"]))
        raise UserError(f"Fold {fold} is missing in {split_file} (found: {numbers}).")

    split = folds[folds["fold"] == fold].set_index("image")["split"]
    chosen = originals.assign(fold=fold, split=originals["image"].map(split))
    keys = ["class", "original"]
    trained = chosen.loc[chosen["split"] == "train", keys]
    copies = table[table["augmented"]].drop_duplicates("image")
    of_trained = pd.MultiIndex.from_frame(copies[keys]).isin(pd.MultiIndex.from_frame(trained))
    joined = pd.concat([chosen, copies[of_trained].assign(fold=fold)])
    return joined.sort_values(["augmented", "split", "label", "path"], ignore_index=True)


def _grouped_folds(
    file: Path, originals: pd.DataFrame, make: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    """Return the table of grouped folds that ``file`` holds; where it is not there, make it."""
    keys = ["image", "patient", "class"]
    # where it is there, no lock is written either
    if not file.is_file():
        with naming(file), lock(file.with_name(f".{file.name}.lock")):
            if not file.is_file():
                table = make().merge(originals[keys], on="image")
                write_csv(file, table[[*keys, "fold", "split"]])
                n = len(originals)
                say(f"Folds by patient and class over {n} pictures are made, and kept in {file}")

    try:
        with opened(file) as stream:
            folds = pd.read_csv(stream, dtype=dict.fromkeys(keys, str), keep_default_na=False)
        listed = set(folds[keys].itertuples(index=False, name=None))
    except (KeyError, ValueError, OSError):
        columns = "image, patient, class, fold, split"
        raise UserError(f"{file} is no table of folds: {columns}.") from None
    on_disk = set(originals[keys].itertuples(index=False, name=None))
    if listed != on_disk or (folds.groupby("fold").size() != len(on_disk)).any():
        differing = [image for image, _, _ in sorted(listed ^ on_disk)]
        raise UserError(
            f"The folds in {file} are those of other pictures than {len(on_disk)} here:\n{shorten(differing)}\n"
            "Bring the pictures back, or start anew with another data.split_file=FILE."
        )
    return folds


def permute_labels(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Deal the classes of Train and Valid out anew among their patients; Test keeps its own.

    A negative control: whatever is learnt from such labels, a test score above chance comes from a
    leak (Yagis et al. 2021). Copies and other pictures of a patient stay together, and each class
    keeps its number of patients. The new classes are spread evenly over each old one: where many
    patients keep theirs by luck, something true could be learnt.
    """
    rng = np.random.default_rng(seed)
    held_in = table["split"] != "test"
    keys = ["class", "label", "patient"]
    patients = table.loc[held_in, keys].drop_duplicates().sort_values(["label", "patient"])
    patients = patients.iloc[rng.permutation(len(patients))].sort_values("label", kind="stable")
    places = [(np.arange(n) + rng.random()) / n for n in patients.groupby("label").size()]
    order = np.argsort(np.concatenate(places), kind="stable")

    classes, labels = patients["class"].to_numpy()[order], patients["label"].to_numpy()[order]
    dealt = patients.assign(new_class=classes, new_label=labels)
    new = table[keys].merge(dealt, how="left", on=keys)
    return table.assign(
        **{"class": np.where(held_in, new["new_class"], table["class"])},
        label=np.where(held_in, new["new_label"].fillna(-1).astype(int), table["label"]),
    )
