"""Recall and false alarms of mpoxcv.audit.likeness on photographs: ``benchmarks/likeness.py DIR``.

DIR holds one folder a class, with the names of MSLD v1. Every photograph is changed once in each
way and sought by its original; false alarms are pairs of photographs, and of a changed copy and a
photograph, of different patients.
"""

import io
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image, ImageEnhance, ImageOps

from mpoxcv.audit.likeness import THUMB, alike

THRESHOLDS = (0.8, 0.9, 0.92, 0.95, 0.97, 0.98)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def crop(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    side = int(image.width * share)
    x, y = rng.integers(0, image.width - side + 1, 2)
    return image.crop((x, y, x + side, y + side)).resize(image.size)


def jitter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.8, 1.2))
    return image


def noise(image: Image.Image, sigma: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, float) + rng.normal(0, 255 * sigma, (image.height, image.width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def main(folder: Path) -> None:
    config = OmegaConf.load(Path(__file__).parents[1] / "conf/make_folds.yaml")
    full = instantiate(config.augment)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    changes = {
        "re-encoded, quality 40": lambda i: jpeg(i, 40),
        "halved in size": lambda i: i.resize((112, 112)),
        "mirrored": ImageOps.mirror,
        "quarter turn": lambda i: i.rotate(90),
        "colour jitter 20 %": lambda i: jitter(i, rng),
        "noise 5 %": lambda i: noise(i, 0.05, rng),
        "cropped to 90 %": lambda i: crop(i, 0.9, rng),
        "cropped to 75 %": lambda i: crop(i, 0.75, rng),
        "turned by up to 10 degrees": lambda i: i.rotate(rng.uniform(-10, 10)),
        "turned by up to 30 degrees": lambda i: i.rotate(rng.uniform(-30, 30)),
        "make_folds' augment (all at once)": lambda i: Image.fromarray(
            full(i).permute(1, 2, 0).numpy()
        ),
    }

    files = sorted(folder.glob("*/*.jpg"))
    patients = np.array([re.match(r"N?M\d+", file.name)[0] for file in files])
    images = [Image.open(file).convert("RGB") for file in files]
    thumbs = np.stack([thumb(image) for image in images])
    different = patients[:, None] != patients

    print(f"{'':36}" + "".join(f"{t:>8}" for t in THRESHOLDS))
    begin = time.perf_counter()
    similarity = likeness(thumbs, thumbs)
    print(f"{len(files)} x {len(files)} pictures in {time.perf_counter() - begin:.2f} s")
    false_pairs = np.triu(different) * np.maximum(similarity, similarity.T)
    report("false: photographs (pairs)", false_pairs, count=True)
    pairs = zip(*np.nonzero(np.triu(different)), strict=True)
    for i, j in sorted(pairs, key=lambda pair: -similarity[pair])[:25]:
        print(f"   {similarity[i, j]:.3f} {files[i].name} {files[j].name}")

    for name, change in changes.items():
        copies = likeness(thumbs, np.stack([thumb(change(image)) for image in images]))
        report(name, copies.diagonal())
        report("   false (pairs)", copies[different], count=True)


def thumb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize((THUMB, THUMB), Image.Resampling.BOX))


def likeness(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    similarity = np.zeros((len(left), len(right)))
    # of nobody, so that none counts as featureless
    patients = np.zeros(len(left), int), np.zeros(len(right), int)
    for rows, columns, values in alike(left, right, THRESHOLDS[0] - 0.1, patients):
        similarity[rows, columns] = values
    return similarity


def report(name: str, values: np.ndarray, count: bool = False) -> None:
    cells = [(values >= t).sum() if count else f"{(values >= t).mean():.3f}" for t in THRESHOLDS]
    print(f"{name:36}" + "".join(f"{cell:>8}" for cell in cells), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
