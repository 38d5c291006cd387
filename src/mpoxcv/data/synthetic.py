"""Procedural pictures of skin in the layout and with the counts of MSLD v2.0, for work without a download.

They are drawn from random numbers and know nothing of real lesions: what is measured on them says how the
code works, never how a network does on patients. Their folder holds the marker file ``synthetic.json``.
"""

import io
import json
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

from mpoxcv.data.published import CLASS_COUNTS, SPLIT_COUNTS, TEST_CLASS_COUNTS
from mpoxcv.errors import UserError
from mpoxcv.files import write_json

VERSION = 1  # raise it when the same options would give other files
MARKER = "synthetic.json"
FOLDERS = {"train": "Train", "val": "Valid", "test": "Test"}


class Picture(NamedTuple):
    """What a picture is of; ``shown`` is the class whose lesions it shows, another one in atypical patients."""

    name: str
    patient: int
    number: int
    shown: str
    splits: dict[int, str]


class Look(NamedTuple):
    """How a class's lesions look; radii are parts of the picture's width, strengths lie between 0 and 1."""

    code: str  # in file names
    number: tuple[int, int]
    radius: tuple[float, float]
    colour: tuple[int, int, int]
    opacity: float
    halo: float  # redness around a lesion
    centre: float  # darkness of a dimple or scab
    blister: float  # raised, with a highlight


LOOKS = {
    "Chickenpox": Look("CHP", (14, 34), (0.035, 0.055), (205, 40, 45), 0.85, 0.7, 0.0, 0.8),
    "Cowpox": Look("CWP", (2, 5), (0.13, 0.2), (130, 40, 60), 0.9, 0.9, 0.9, 0.2),
    "Healthy": Look("HEALTHY", (0, 5), (0.01, 0.025), (85, 50, 40), 0.8, 0.0, 0.0, 0.0),
    "HFMD": Look("HFMD", (10, 22), (0.045, 0.075), (170, 85, 115), 0.85, 0.2, 0.0, 0.2),
    "Measles": Look("MSL", (45, 80), (0.035, 0.065), (205, 65, 45), 0.65, 0.5, 0.0, 0.0),
    "Monkeypox": Look("MKP", (5, 16), (0.06, 0.1), (240, 203, 135), 0.9, 0.6, 0.9, 0.5),
}
ATYPICAL = 0.06  # share of pictures that show the lesions of another class; the same in every test split
SKIN = np.array([(243, 209, 190), (232, 180, 150), (205, 145, 110), (165, 110, 78), (120, 78, 56)], np.float32)


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
            raise UserError(f"data.generator.{option}={value} should be a whole number from {lowest}.")
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
        try:
            found = dict(json.loads((root / MARKER).read_text()))
        except (ValueError, TypeError):
            found = {}
        if found == marker:
            return True
        differs = [f"{k}={found.get(k)}, not {marker[k]}" for k in marker if found.get(k) != marker[k]]
        what = f"holds other synthetic data: {'; '.join(differs)}"
    raise UserError(
        f"{root} {what}.\nNothing is overwritten: delete that folder, or choose another with data.root=DIR."
    )


def _write_tree(root: Path, seed: int, size: int, copies: int, folds: list[int], threads: int | None) -> None:
    """Draw, encode and write each picture and copy once, and link it into the other folds."""
    originals = {
        fold: {split: root / "FOLDS" / f"fold{fold}" / folder for split, folder in FOLDERS.items()} for fold in folds
    }
    augmented = {fold: root / "FOLDS_AUG" / f"fold{fold}_AUG" / "Train" for fold in folds if copies}
    for folder in (*(f for fold in folds for f in originals[fold].values()), *augmented.values()):
        for name in LOOKS:
            (folder / name).mkdir(parents=True)

    def write_picture(picture: Picture) -> None:
        name, patient, number, shown, splits = picture
        stem = f"{LOOKS[name].code}_{patient:02d}_{number:02d}"
        ids = [seed, list(LOOKS).index(name), patient]
        image = _draw(LOOKS[shown], size, np.random.default_rng([0, *ids]), np.random.default_rng([1, *ids, number]))
        folders = [originals[fold][splits[fold]] / name for fold in folds]
        _write_linked([folder / f"{stem}.jpg" for folder in folders], _encode(image))
        folders = [augmented[fold] / name for fold in augmented if splits[fold] == "train"]
        for copy in range(1, copies + 1) if folders else ():
            changed = _augment(image, np.random.default_rng([2, *ids, number, copy]))
            _write_linked([folder / f"{stem}_aug{copy:02d}.jpg" for folder in folders], _encode(changed))

    pictures = _pictures(seed)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        done = pool.map(write_picture, pictures)
        for _ in track(done, f"Drawing {len(pictures)} pictures", total=len(pictures), transient=True):
            pass


def _pictures(seed: int) -> list[Picture]:
    """Deal the published numbers of pictures out to patients, and in each fold the patients to the splits."""
    rng = np.random.default_rng([3, seed])
    val = {fold: _shares(counts["val"]) for fold, counts in SPLIT_COUNTS.items()}
    pictures: list[Picture] = []
    for name, (count, patients) in CLASS_COUNTS.items():
        owned = (1 + np.bincount(rng.integers(patients, size=count - patients), minlength=patients)).tolist()
        splits: list[dict[int, str]] = [{} for _ in owned]
        for fold in SPLIT_COUNTS:
            left = {"test": TEST_CLASS_COUNTS[fold][name], "val": val[fold][name], "train": count}
            for patient in rng.permutation(patients):
                split = next(split for split in left if owned[patient] <= left[split])
                left[split] -= owned[patient]
                splits[patient][fold] = split
            assert left["test"] == left["val"] == 0, "patients with one picture fill every gap"
        pictures += [Picture(name, p + 1, n + 1, name, splits[p]) for p in range(patients) for n in range(owned[p])]
    return _make_atypical(pictures, rng)


def _make_atypical(pictures: list[Picture], rng: np.random.Generator) -> list[Picture]:
    """Let some patients show another class, as many in each test split, and outside of them, as is its share."""
    tests = [[fold for fold, split in picture.splits.items() if split == "test"] or [0] for picture in pictures]
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
    by_remainder = sorted(CLASS_COUNTS, key=lambda name: -(pictures * CLASS_COUNTS[name][0] % total))
    for name in by_remainder[: pictures - sum(shares.values())]:
        shares[name] += 1
    return shares


def _draw(look: Look, size: int, patient: np.random.Generator, rng: np.random.Generator) -> Image.Image:
    """Draw a picture; ``patient`` gives the same numbers for each picture of a patient.

    Pixels are made with + - * / and the square root only, which round alike on every machine.
    """
    shade, zoom, amount, strength = patient.uniform([0, 0.8, 0.7, 0.75], [len(SKIN) - 1.01, 1.25, 1.1, 1])
    tint = patient.uniform(-8, 8, 3)
    skin = SKIN[int(shade)] + (SKIN[int(shade) + 1] - SKIN[int(shade)]) * np.float32(shade % 1)
    x = (np.arange(size, dtype=np.float32) + 0.5) / size
    slope = rng.uniform(-0.2, 0.2, 2).astype(np.float32)
    light = np.float32(rng.uniform(0.85, 1.08)) + slope[0] * (x[:, None] - 0.5) + slope[1] * (x - 0.5)
    light = light + 0.08 * _noise(5, size, rng) + 0.1 * _noise(32, size, rng)
    picture = (skin + tint.astype(np.float32)) * light[..., None]

    count = round(rng.integers(look.number[0], look.number[1] + 1) * amount)
    if count:
        radius = rng.uniform(*look.radius, count) * zoom
        stretch = rng.uniform(0.75, 1.3, count)
        u = ((x - rng.random((count, 1))) / (radius * stretch)[:, None]).astype(np.float32)
        v = ((x - rng.random((count, 1))) / (radius / stretch)[:, None]).astype(np.float32)
        squares = (u * u)[:, None, :] + (v * v)[:, :, None]
        nearest = squares.argmin(0)
        columns = np.arange(size)
        u, v = u[nearest, columns], v[nearest, columns[:, None]]
        distance = np.sqrt(u * u + v * v) + 0.5 * _noise(12, size, rng)  # 0 centre, 1 edge
        vivid = np.float32(strength) * rng.uniform(0.75, 1, count).astype(np.float32)[nearest]
        inside = _fade(distance, 0.75, 1.1)
        layers = [
            ((190, 50, 50), look.halo * _fade(distance, 0.9, 2.0) * 0.7),
            (look.colour, look.opacity * inside),
            ((60, 20, 20), look.centre * _fade(distance, 0.2, 0.5)),
            ((255, 245, 235), look.blister * _fade((u + 0.35) ** 2 + (v + 0.35) ** 2, 0.02, 0.16)),
        ]
        for colour, mask in layers:
            picture += (vivid * mask)[..., None] * (np.array(colour, np.float32) * light[..., None] - picture)
        picture *= (1 - look.blister * 0.25 * inside * np.clip(u + v, -1, 1))[..., None]
    if rng.random() < 0.3:  # something behind the skin
        across, down, bend = rng.uniform(-1, 1, 3).astype(np.float32)
        edge = across * (x - 0.5) + down * (x[:, None] - 0.5) + bend * (x - 0.5) ** 2 - 0.35
        behind = np.float32(rng.uniform(20, 220)) + rng.uniform(-25, 25, 3).astype(np.float32)
        picture += _fade(-edge, 0.0, 0.03)[..., None] * (behind - picture)
    picture += rng.integers(-7, 8, picture.shape, dtype=np.int8)
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _fade(values: np.ndarray, full: float, none: float) -> np.ndarray:
    """Return 1 up to ``full``, 0 from ``none``, and a smooth step between."""
    part = np.clip((none - values) / (none - full), 0, 1)
    return part * part * (3 - 2 * part)


def _noise(cells: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise around 0, float32 (size, size)."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32) - 0.5)
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn, mirror, crop, and change brightness, contrast and colour; add noise."""
    turn = int(rng.integers(8))
    if turn < 7:
        image = image.transpose(Image.Transpose(turn))
    left, top, right, bottom = rng.uniform([0, 0, 0.85, 0.85], [0.15, 0.15, 1, 1]) * image.width
    image = image.resize(image.size, Image.Resampling.BILINEAR, (left, top, right, bottom))
    gain = rng.uniform(0.9, 1.1) * rng.uniform(0.94, 1.06, 3)
    levels = (np.arange(256) - 128) * gain[:, None] + 128 + rng.uniform(-12, 12)
    image = image.point(np.clip(levels, 0, 255).astype(np.uint8).ravel().tolist())
    noisy = np.asarray(image) + rng.integers(-5, 6, (*image.size, 3), dtype=np.int16)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _write_linked(paths: list[Path], data: bytes) -> None:
    """Write a file under the first path and link the others to it; copies where links are not to be had."""
    paths[0].write_bytes(data)
    for path in paths[1:]:
        try:
            os.link(paths[0], path)
        except OSError:
            path.write_bytes(data)
