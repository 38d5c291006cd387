"""Recall and false alarms of the audit's likeness on photographs: ``benchmarks/likeness.py DIR``.

DIR holds one folder a class, with the names of MSLD v1. Every photograph is changed once in each
way and sought among the originals. A false alarm is a pair of different patients' photographs, or
of a copy and a photograph of a patient whom the copy does not show. ``DIR 10`` plants ten of each.
"""

import hashlib
import io
import re
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from mpoxcv.audit.descriptions import Descriptions, likenesses
from mpoxcv.audit.likeness import CERTAIN, SUSPECTED
from mpoxcv.pictures.images import decode, encode_jpeg

# a picture, three others to paste it to, and a generator, to the copy
Change = Callable[[Image.Image, list[Image.Image], np.random.Generator], Image.Image]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def crop(image: Image.Image, share: float, place: tuple[float, float]) -> Image.Image:
    width, height = (int(side * share) for side in image.size)
    left, top = (
        int(p * (a - b)) for p, a, b in zip(place, image.size, (width, height), strict=True)
    )
    return image.crop((left, top, left + width, top + height)).resize(image.size)


def noise(image: Image.Image, sigma: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, float) + rng.normal(0, 255 * sigma, (image.height, image.width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def framed(image: Image.Image, share: float, colour: str) -> Image.Image:
    border = tuple(int(side * share) for side in image.size)
    return ImageOps.expand(image, border, colour).resize(image.size)


def lettered(image: Image.Image, lines: int, opacity: int) -> Image.Image:
    layer = Image.new("RGBA", image.size)
    draw, size = ImageDraw.Draw(layer), image.height // 9
    for line in range(lines):
        place = (image.width * 0.05, image.height * (line + 0.4) / lines)
        draw.text(place, "SKIN ATLAS 2024 (c)", (255, 255, 255, opacity), font_size=size)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def perspective(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    corners = np.array([(0, 0), (0, height), (width, height), (width, 0)], float)
    moved = corners + rng.uniform(-share, share, (4, 2)) * image.size
    rows = [
        row
        for (x, y), (u, v) in zip(corners, moved, strict=True)
        for row in ([x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y])
    ]
    solved = np.linalg.solve(np.array(rows), moved.reshape(-1))
    way = Image.Transform.PERSPECTIVE
    return image.transform(image.size, way, solved.tolist(), Image.Resampling.BILINEAR)


def collage(image: Image.Image, others: list[Image.Image], rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    sheet = Image.new("RGB", (2 * width, 2 * height))
    for part, place in zip([image, *others], rng.permutation(4).tolist(), strict=True):
        sheet.paste(part.resize(image.size), (place % 2 * width, place // 2 * height))
    return sheet.resize(image.size)


def inset(image: Image.Image, others: list[Image.Image], _: np.random.Generator) -> Image.Image:
    sheet = others[0].resize(image.size)
    small = image.resize([int(side * 0.4) for side in image.size])
    sheet.paste(small, (sheet.width - small.width - 4, sheet.height - small.height - 4))
    return sheet


def make_folds_copy() -> Change:
    augment = instantiate(
        OmegaConf.load(Path(__file__).parents[1] / "conf/make_folds.yaml").augment
    )

    def change(image: Image.Image, _: list[Image.Image], rng: np.random.Generator) -> Image.Image:
        torch.manual_seed(int(rng.integers(2**31)))
        return Image.fromarray(augment(image.resize((224, 224))).permute(1, 2, 0).numpy())

    return change


CHANGES: dict[str, Change] = {
    "recompressed, quality 30": lambda i, *_: jpeg(i, 30),
    "halved in size": lambda i, *_: i.resize([side // 2 for side in i.size]),
    "mirrored": lambda i, *_: ImageOps.mirror(i),
    "upside down": lambda i, *_: ImageOps.flip(i),
    "quarter turn": lambda i, *_: i.rotate(90, expand=True),
    "brightness +40 %": lambda i, *_: ImageEnhance.Brightness(i).enhance(1.4),
    "contrast -40 %": lambda i, *_: ImageEnhance.Contrast(i).enhance(0.6),
    "colour: other hue": lambda i, *_: Image.fromarray(np.roll(np.asarray(i), 1, 2)),
    "grey": lambda i, *_: i.convert("L").convert("RGB"),
    "blurred, radius 2": lambda i, *_: i.filter(ImageFilter.GaussianBlur(2)),
    "noise 8 %": lambda i, _, rng: noise(i, 0.08, rng),
    "text": lambda i, *_: lettered(i, 1, 255),
    "watermark": lambda i, *_: lettered(i, 4, 110),
    "white border 10 %": lambda i, *_: framed(i, 0.1, "white"),
    "black frame 20 %": lambda i, *_: framed(i, 0.2, "black"),
    "stretched 4:3": lambda i, *_: i.resize((i.width, i.height * 3 // 4)),
    "centre crop 60 %": lambda i, *_: crop(i, 0.6, (0.5, 0.5)),
    "crop 75 %, anywhere": lambda i, _, rng: crop(i, 0.75, rng.random(2)),
    "turned 7 degrees": lambda i, *_: i.rotate(7, Image.Resampling.BILINEAR),
    "turned 30 degrees": lambda i, *_: i.rotate(30, Image.Resampling.BILINEAR),
    "perspective 12 %": lambda i, _, rng: perspective(i, 0.12, rng),
    "make_folds' copy": make_folds_copy(),
    "collage of four": collage,
    "inset 40 %": inset,
    "negative": lambda i, *_: ImageOps.invert(i),
}
PASTED = {"collage of four": 3, "inset 40 %": 1}
# patients of MSLD v1 who show the same skin: laid over each other their spots agree
TWINS = [{"NM68", "NM110"}, {"NM28", "NM32"}, {"NM04", "NM12"}]


class Planted(NamedTuple):
    """Of one kind: n copies sought among N originals."""

    recall: dict[float, float]
    false: dict[float, int]
    n: int


def smooth(rng: np.random.Generator, side: int = 224) -> Image.Image:
    """Draw a lesion as dermoscopy shows it: a soft blob on smooth skin, and a few hairs."""
    y, x = np.mgrid[:side, :side] / side - 0.5 - rng.normal(0, 0.04, (2, 1, 1))
    angle = rng.uniform(0, np.pi)
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    radius = np.hypot(u, v / rng.uniform(0.65, 1)) / rng.uniform(0.1, 0.3)
    blob = 1 / (1 + np.exp((radius - 1) / rng.uniform(0.05, 0.2)))
    skin, dark = (
        rng.uniform((170, 120, 95), (240, 190, 160)),
        rng.uniform((40, 60, 60), (110, 110, 100)),
    )
    light = 1 + rng.normal(0, 0.08, 2) @ np.stack([x, y]).reshape(2, -1)
    pixels = (skin - blob[..., None] * dark) * light.reshape(side, side, 1)
    image = Image.fromarray((pixels + rng.normal(0, 2, pixels.shape)).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 6)):
        ends = rng.uniform(0, side, 4).tolist()
        draw.line(ends, tuple((skin * 0.4).astype(int).tolist()), 1)
    return image


def twins_of(patients: set[str]) -> set[str]:
    return set().union(*(pair for pair in TWINS if pair & patients))


def described(images: Iterable[Image.Image], folder: Path) -> np.ndarray:
    """Return the audit's records of pictures, saved as JPEG."""
    store, digests = Descriptions(folder), []
    for image in images:
        data = encode_jpeg(image.convert("RGB"), 90)
        digests.append(hashlib.blake2b(data, digest_size=16).hexdigest())
        store.add(digests[-1], data, decode(data))
    store.save()
    return store.records(np.array(digests))


def plant(
    kind: str,
    images: list[Image.Image],
    patients: Sequence[str],
    chosen: Iterable[int],
    folder: Path,
) -> Planted:
    """Change the ``chosen`` pictures, and seek the copies, of unknown patients, among all."""
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    chosen, copies, shown = list(chosen), [], []
    for i in chosen:
        strangers = [j for j, patient in enumerate(patients) if patient != patients[i]]
        partners = rng.choice(strangers, 3, replace=False).tolist()
        copies.append(CHANGES[kind](images[i].copy(), [images[j] for j in partners], rng))
        shown.append({patients[j] for j in [i, *partners[: PASTED.get(kind, 0)]]})
    left, right = described(images, folder), described(copies, folder)
    names = list(patients), [f"copy {i}" for i in range(len(copies))]
    pairs = likenesses(left, right, SUSPECTED, folder, names)
    found = {(a, b): value for a, b, value in pairs.itertuples(index=False)}
    # two of the photographs are one file
    wanted = [(left["pixels"][i], right["pixels"][j]) for j, i in enumerate(chosen)]
    place = {pixels: i for i, pixels in enumerate(left["pixels"])}
    copy = {pixels: i for i, pixels in enumerate(right["pixels"])}
    recall, false = {}, {}
    for least in (SUSPECTED, CERTAIN):
        recall[least] = float(np.mean([found.get(pair, 0) >= least for pair in wanted]))
        hits = [(patients[place[a]], shown[copy[b]]) for (a, b), v in found.items() if v >= least]
        false[least] = sum(patient not in whose | twins_of(whose) for patient, whose in hits)
    return Planted(recall, false, len(copies))


def false_among(
    images: list[Image.Image], patients: Sequence[str], folder: Path
) -> dict[float, int]:
    """Return how many pairs of different patients' pictures are taken for one."""
    records = described(images, folder)
    pairs = likenesses(records, records, SUSPECTED, folder, (patients, patients))
    of = dict(zip(records["pixels"], patients, strict=True))
    ends = {frozenset((a, b)): v for a, b, v in pairs.itertuples(index=False)}
    wrong = [
        v for pair, v in ends.items() if len(ps := {of[p] for p in pair}) > 1 and ps not in TWINS
    ]
    return {least: sum(v >= least for v in wrong) for least in (SUSPECTED, CERTAIN)}


def main(folder: Path, n: int | None = None) -> None:
    """Print a row a kind."""
    files = sorted(folder.glob("*/*.jpg"))
    patients = [re.match(r"N?M\d+", file.name)[0] for file in files]
    images = [Image.open(file).convert("RGB") for file in files]
    rng = np.random.default_rng(0)
    chosen = range(len(files)) if n is None else sorted(rng.choice(len(files), n, replace=False))
    with tempfile.TemporaryDirectory() as cache:
        print("False pairs of photographs:", false_among(images, patients, Path(cache)))
        drawn = [smooth(rng) for _ in range(400)]
        print("of smooth skin, 400:", false_among(drawn, [str(i) for i in range(400)], Path(cache)))
        print(f"{'':26}  n  " + "  ".join(f"recall from {t}  false" for t in (SUSPECTED, CERTAIN)))
        for kind in CHANGES:
            begin = time.perf_counter()
            recall, false, count = plant(kind, images, patients, chosen, Path(cache))
            cells = "".join(f"{recall[t]:14.3f}{false[t]:10}" for t in recall)
            print(f"{kind:26}{count:4}{cells}  {time.perf_counter() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
