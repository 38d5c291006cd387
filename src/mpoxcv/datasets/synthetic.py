"""Procedural pictures of skin, laid out and counted as in MSLD v2.0, for work without a download.

They are drawn from random numbers and know nothing of real lesions: what is measured on them says
how the code works, never how a network does on patients. Their folder holds the marker file
``synthetic.json``.
"""

import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track

from mpoxcv.datasets.folds import make_folders, whole_folder
from mpoxcv.datasets.lesions import LOOKS, augment, draw
from mpoxcv.datasets.published import CLASS_COUNTS, SPLIT_COUNTS, TEST_CLASS_COUNTS
from mpoxcv.errors import UserError, check_number
from mpoxcv.pictures.images import encode_jpeg
from mpoxcv.storage.files import StrPath, lock, read_json, write_json, write_linked

# raise it when the same options would give other files
VERSION = 1
MARKER = "synthetic.json"
# share of pictures that show the lesions of another class; the same in every test split
ATYPICAL = 0.06
_encode = partial(encode_jpeg, quality=90)


class Picture(NamedTuple):
    """What a picture is of; ``shown`` is the class of its lesions, not its own in the atypical."""

    name: str
    patient: int
    number: int
    shown: str
    splits: dict[int, str]


def write_synthetic(
    root: StrPath,
    seed: int = 0,
    size: int = 96,
    copies: int = 4,
    folds: Iterable[int] = (1, 2, 3, 4, 5),
    threads: int | None = None,
) -> None:
    """Write the data set into ``root``; do nothing if it is there, made with the same options.

    Equal options give equal files. A process that wants the same root meanwhile waits. A picture's
    files in several folds are hard links. Pictures are ``size`` pixels wide and high, with
    ``copies`` augmented ones of each in Train.

    Raises:
        UserError: an option is out of range, or ``root`` is there and is something else.
        OSError: the disk is full, or the folder cannot be written to; nothing is left behind.
    """
    root = Path(root)
    folds = sorted(set(folds))
    for key, value, least in (("seed", seed, 0), ("size", size, 16), ("copies", copies, 0)):
        check_number(f"data.generator.{key}", value, least)
    if not folds or not set(folds) <= set(SPLIT_COUNTS):
        raise UserError(f"data.generator.folds={folds} should be some of {list(SPLIT_COUNTS)}.")
    options = {"seed": seed, "size": size, "copies": copies, "folds": folds}
    marker = {"synthetic": True, "version": VERSION, **options}
    if _is_there(root, marker):
        return

    with lock(root.with_name(f"{root.name}.lock")):
        if _is_there(root, marker):
            return
        with whole_folder(root, locked=True) as folder:
            _write_tree(folder, seed, size, copies, folds, threads)
            write_json(folder / MARKER, marker)


def is_synthetic(root: StrPath) -> bool:
    """Tell whether the folder holds pictures from :func:`write_synthetic`."""
    return (Path(root) / MARKER).is_file()


def _is_there(root: Path, marker: dict[str, Any]) -> bool:
    if not root.exists():
        return False
    what = "is there and holds no synthetic data"
    if is_synthetic(root):
        stored = read_json(root / MARKER)
        if stored == marker:
            return True
        differs = [f"{k}={stored.get(k)}, not {v}" for k, v in marker.items() if stored.get(k) != v]
        what = f"holds other synthetic data: {'; '.join(differs)}"
    remedy = "delete that folder, or choose another with data.root=DIR"
    raise UserError(f"{root} {what}.\nNothing is overwritten: {remedy}.")


def _write_tree(
    root: Path, seed: int, size: int, copies: int, folds: list[int], threads: int | None
) -> None:
    """Draw, encode and write each picture and copy once, and link it into the other folds."""

    def write_picture(picture: Picture) -> None:
        name, patient, number, shown, splits = picture
        stem = f"{LOOKS[name].code}_{patient:02d}_{number:02d}"
        ids = [seed, list(LOOKS).index(name), patient]
        of_patient = np.random.default_rng([0, *ids])
        of_picture = np.random.default_rng([1, *ids, number])
        image = draw(LOOKS[shown], size, of_patient, of_picture)
        parts = {fold: splits[fold] for fold in folds}
        originals, augmented = make_folders(root, name, parts, copies)
        write_linked([folder / f"{stem}.jpg" for folder in originals], _encode(image))
        for copy in range(1, copies + 1) if augmented else ():
            changed = augment(image, np.random.default_rng([2, *ids, number, copy]))
            files = [folder / f"{stem}_aug{copy:02d}.jpg" for folder in augmented]
            write_linked(files, _encode(changed))

    pictures = _pictures(seed)
    n = len(pictures)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        writes = pool.map(write_picture, pictures)
        list(track(writes, f"Drawing {n} pictures", n, transient=True))


def _pictures(seed: int) -> list[Picture]:
    """Deal the published numbers of pictures out to patients, and in each fold them to splits."""
    rng = np.random.default_rng([3, seed])
    val = {fold: _shares(counts["val"]) for fold, counts in SPLIT_COUNTS.items()}
    patients: list[list[Picture]] = []
    for name, (count, n) in CLASS_COUNTS.items():
        more = np.bincount(rng.integers(n, size=count - n), minlength=n)
        sizes = (1 + more).tolist()
        splits: list[dict[int, str]] = [{} for _ in sizes]
        for fold in SPLIT_COUNTS:
            left = {"test": TEST_CLASS_COUNTS[fold][name], "val": val[fold][name], "train": count}
            for patient in rng.permutation(n):
                split = next(split for split in left if sizes[patient] <= left[split])
                left[split] -= sizes[patient]
                splits[patient][fold] = split
            assert left["test"] == left["val"] == 0, "patients with one picture fill every gap"
        for p, size in enumerate(sizes):
            patients.append([Picture(name, p + 1, i + 1, name, splits[p]) for i in range(size)])
    _make_atypical(patients, rng)
    return [picture for pictures in patients for picture in pictures]


def _make_atypical(patients: list[list[Picture]], rng: np.random.Generator) -> None:
    """Let some patients show another class: the same share in and outside each test split."""
    tests = [[f for f, split in p[0].splits.items() if split == "test"] or [0] for p in patients]
    totals = Counter(fold for p, folds in enumerate(tests) for fold in folds * len(patients[p]))
    left = {fold: round(ATYPICAL * total) for fold, total in totals.items()}
    for p in rng.permutation(len(patients)):
        pictures = patients[p]
        if all(left[fold] >= len(pictures) for fold in tests[p]):
            shown = str(rng.choice([name for name in LOOKS if name != pictures[0].name]))
            patients[p] = [picture._replace(shown=shown) for picture in pictures]
            for fold in tests[p]:
                left[fold] -= len(pictures)


def _shares(pictures: int) -> dict[str, int]:
    """Share pictures among the classes by their size, with the largest remainders rounded up."""
    total = sum(count for count, _ in CLASS_COUNTS.values())
    products = {name: pictures * count for name, (count, _) in CLASS_COUNTS.items()}
    shares = {name: product // total for name, product in products.items()}
    by_remainder = sorted(products, key=lambda name: -(products[name] % total))
    for name in by_remainder[: pictures - sum(shares.values())]:
        shares[name] += 1
    return shares
