"""Procedural pictures of skin in the layout and with the counts of MSLD v2.0, for work without a download.

They are drawn from random numbers and know nothing of real lesions: what is measured on them says how the
code works, never how a network does on patients. Their folder holds the marker file ``synthetic.json``.
"""

import io
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from PIL import Image
from rich.progress import track

from mpoxcv.datasets.lesions import LOOKS, augment, draw
from mpoxcv.datasets.published import CLASS_COUNTS, SPLIT_COUNTS, TEST_CLASS_COUNTS
from mpoxcv.errors import UserError
from mpoxcv.pictures.tree import FOLDERS
from mpoxcv.storage.files import read_json, write_json, write_linked

VERSION = 1  # raise it when the same options would give other files
MARKER = "synthetic.json"


class Picture(NamedTuple):
    """What a picture is of; ``shown`` is the class whose lesions it shows, another one in atypical patients."""

    name: str
    patient: int
    number: int
    shown: str
    splits: dict[int, str]


ATYPICAL = (
    0.06  # share of pictures that show the lesions of another class; the same in every test split
)


def write_synthetic(
    root: str | os.PathLike[str],
    seed: int = 0,
    size: int = 96,
    copies: int = 4,
    folds: Iterable[int] = (1, 2, 3, 4, 5),
    threads: int | None = None,
) -> None:
    """Write the data set into ``root``, or do nothing if it is there already, made with the same options.

    Equal options give equal files, whatever the number of threads. ``root`` gets its name only when whole; a
    process that wants the same root meanwhile waits. A picture's files in several folds are hard links.

    Args:
        root: folder to make.
        seed: of everything, from 0.
        size: width and height in pixels; MSLD v2.0 has 224.
        copies: augmented copies a training picture; MSLD v2.0 has 14.
        folds: numbers of the folds to write.
        threads: number of threads; None takes one a core.

    Raises:
        UserError: an option is out of range, or ``root`` is there and is something else.
        OSError: the disk is full, or the folder cannot be written to; nothing is left behind.
    """
    root, folds = Path(root), sorted(set(folds))
    for option, value, lowest in (("seed", seed, 0), ("size", size, 16), ("copies", copies, 0)):
        if not isinstance(value, int) or value < lowest:
            raise UserError(
                f"data.generator.{option}={value} should be a whole number from {lowest}."
            )
    if not folds or not set(folds) <= set(SPLIT_COUNTS):
        raise UserError(f"data.generator.folds={folds} should be some of {list(SPLIT_COUNTS)}.")
    options = {"seed": seed, "size": size, "copies": copies, "folds": folds}
    marker = {"synthetic": True, "version": VERSION, **options}
    if _is_there(root, marker):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f"{root.name}.lock")):
        if _is_there(root, marker):
            return
        partial = root.with_name(f".{root.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        try:
            _write_tree(partial, seed, size, copies, folds, threads)
            write_json(partial / MARKER, marker)
            partial.rename(root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def is_synthetic(root: str | os.PathLike[str]) -> bool:
    """Tell whether the folder holds pictures from :func:`write_synthetic`."""
    return (Path(root) / MARKER).is_file()


def _is_there(root: Path, marker: dict[str, Any]) -> bool:
    if not root.exists():
        return False
    what = "is there and holds no synthetic data"
    if is_synthetic(root):
        if (found := read_json(root / MARKER)) == marker:
            return True
        differs = [
            f"{k}={found.get(k)}, not {marker[k]}" for k in marker if found.get(k) != marker[k]
        ]
        what = f"holds other synthetic data: {'; '.join(differs)}"
    raise UserError(
        f"{root} {what}.\nNothing is overwritten: delete that folder, or choose another with data.root=DIR."
    )


def _write_tree(
    root: Path, seed: int, size: int, copies: int, folds: list[int], threads: int | None
) -> None:
    """Draw, encode and write each picture and copy once, and link it into the other folds."""
    originals = {
        fold: {split: root / "FOLDS" / f"fold{fold}" / folder for split, folder in FOLDERS.items()}
        for fold in folds
    }
    augmented = {fold: root / "FOLDS_AUG" / f"fold{fold}_AUG" / "Train" for fold in folds if copies}
    for folder in (*(f for fold in folds for f in originals[fold].values()), *augmented.values()):
        for name in LOOKS:
            (folder / name).mkdir(parents=True)

    def write_picture(picture: Picture) -> None:
        name, patient, number, shown, splits = picture
        stem = f"{LOOKS[name].code}_{patient:02d}_{number:02d}"
        ids = [seed, list(LOOKS).index(name), patient]
        image = draw(
            LOOKS[shown],
            size,
            np.random.default_rng([0, *ids]),
            np.random.default_rng([1, *ids, number]),
        )
        folders = [originals[fold][splits[fold]] / name for fold in folds]
        write_linked([folder / f"{stem}.jpg" for folder in folders], _encode(image))
        folders = [augmented[fold] / name for fold in augmented if splits[fold] == "train"]
        for copy in range(1, copies + 1) if folders else ():
            changed = augment(image, np.random.default_rng([2, *ids, number, copy]))
            write_linked(
                [folder / f"{stem}_aug{copy:02d}.jpg" for folder in folders], _encode(changed)
            )

    pictures = _pictures(seed)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        done = pool.map(write_picture, pictures)
        for _ in track(
            done, f"Drawing {len(pictures)} pictures", total=len(pictures), transient=True
        ):
            pass


def _pictures(seed: int) -> list[Picture]:
    """Deal the published numbers of pictures out to patients, and in each fold the patients to the splits."""
    rng = np.random.default_rng([3, seed])
    val = {fold: _shares(counts["val"]) for fold, counts in SPLIT_COUNTS.items()}
    pictures: list[Picture] = []
    for name, (count, patients) in CLASS_COUNTS.items():
        owned = (
            1 + np.bincount(rng.integers(patients, size=count - patients), minlength=patients)
        ).tolist()
        splits: list[dict[int, str]] = [{} for _ in owned]
        for fold in SPLIT_COUNTS:
            left = {"test": TEST_CLASS_COUNTS[fold][name], "val": val[fold][name], "train": count}
            for patient in rng.permutation(patients):
                split = next(split for split in left if owned[patient] <= left[split])
                left[split] -= owned[patient]
                splits[patient][fold] = split
            assert left["test"] == left["val"] == 0, "patients with one picture fill every gap"
        pictures += [
            Picture(name, p + 1, n + 1, name, splits[p])
            for p in range(patients)
            for n in range(owned[p])
        ]
    return _make_atypical(pictures, rng)


def _make_atypical(pictures: list[Picture], rng: np.random.Generator) -> list[Picture]:
    """Let some patients show another class, as many in each test split, and outside of them, as is its share."""
    tests = [
        [fold for fold, split in picture.splits.items() if split == "test"] or [0]
        for picture in pictures
    ]
    left = {fold: round(ATYPICAL * sum(fold in t for t in tests)) for fold in (0, *SPLIT_COUNTS)}
    patients: dict[tuple[str, int], list[int]] = {}
    for i, picture in enumerate(pictures):
        patients.setdefault((picture.name, picture.patient), []).append(i)
    by_patient = list(patients.values())
    for rows in (by_patient[p] for p in rng.permutation(len(by_patient))):
        folds = tests[rows[0]]
        if all(left[fold] >= len(rows) for fold in folds):
            shown = str(rng.choice([name for name in LOOKS if name != pictures[rows[0]].name]))
            for i in rows:
                pictures[i] = pictures[i]._replace(shown=shown)
            for fold in folds:
                left[fold] -= len(rows)
    return pictures


def _shares(pictures: int) -> dict[str, int]:
    """Share a number of pictures among the classes by their size, with the largest remainders rounded up."""
    total = sum(count for count, _ in CLASS_COUNTS.values())
    shares = {name: pictures * count // total for name, (count, _) in CLASS_COUNTS.items()}
    by_remainder = sorted(
        CLASS_COUNTS, key=lambda name: -(pictures * CLASS_COUNTS[name][0] % total)
    )
    for name in by_remainder[: pictures - sum(shares.values())]:
        shares[name] += 1
    return shares


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
