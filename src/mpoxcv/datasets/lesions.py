"""Drawing pictures of skin from random numbers; nothing here knows real lesions."""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image


class Look(NamedTuple):
    """How a class's lesions look: radii in picture widths, strengths between 0 and 1.

    ``code`` stands in file names; ``halo`` is the redness around a lesion, ``centre`` the darkness
    of a dimple or scab, and a ``blister`` is raised, with a highlight.
    """

    code: str
    number: tuple[int, int]
    radius: tuple[float, float]
    colour: tuple[int, int, int]
    opacity: float
    halo: float
    centre: float
    blister: float


LOOKS = {
    "Chickenpox": Look("CHP", (14, 34), (0.035, 0.055), (205, 40, 45), 0.85, 0.7, 0.0, 0.8),
    "Cowpox": Look("CWP", (2, 5), (0.13, 0.2), (130, 40, 60), 0.9, 0.9, 0.9, 0.2),
    "Healthy": Look("HEALTHY", (0, 5), (0.01, 0.025), (85, 50, 40), 0.8, 0.0, 0.0, 0.0),
    "HFMD": Look("HFMD", (10, 22), (0.045, 0.075), (170, 85, 115), 0.85, 0.2, 0.0, 0.2),
    "Measles": Look("MSL", (45, 80), (0.035, 0.065), (205, 65, 45), 0.65, 0.5, 0.0, 0.0),
    "Monkeypox": Look("MKP", (5, 16), (0.06, 0.1), (240, 203, 135), 0.9, 0.6, 0.9, 0.5),
}
SKIN = np.array(
    [(243, 209, 190), (232, 180, 150), (205, 145, 110), (165, 110, 78), (120, 78, 56)], np.float32
)


def draw(look: Look, size: int, patient: Generator, rng: Generator) -> Image.Image:
    """Draw a picture; ``patient`` gives the same numbers for each picture of a patient.

    Pixels are made with + - * / and the square root only, which round alike on every machine.
    """
    lowest, highest = [0, 0.8, 0.7, 0.75], [len(SKIN) - 1.01, 1.25, 1.1, 1]
    shade, zoom, amount, strength = patient.uniform(lowest, highest)
    tint = patient.uniform(-8, 8, 3)
    skin = SKIN[int(shade)] + (SKIN[int(shade) + 1] - SKIN[int(shade)]) * np.float32(shade % 1)
    x = (np.arange(size, dtype=np.float32) + 0.5) / size
    slope = rng.uniform(-0.2, 0.2, 2).astype(np.float32)
    brightness = np.float32(rng.uniform(0.85, 1.08))
    light = brightness + slope[0] * (x[:, None] - 0.5) + slope[1] * (x - 0.5)
    light = light + 0.08 * _noise(5, size, rng) + 0.1 * _noise(32, size, rng)
    picture = (skin + tint.astype(np.float32)) * light[..., None]

    count = round(rng.integers(look.number[0], look.number[1] + 1) * amount)
    if count:
        radius = rng.uniform(*look.radius, count) * zoom
        stretch = rng.uniform(0.75, 1.3, count)
        u = ((x - rng.random((count, 1))) / (radius * stretch)[:, None]).astype(np.float32)
        v = ((x - rng.random((count, 1))) / (radius / stretch)[:, None]).astype(np.float32)
        nearest = ((u * u)[:, None, :] + (v * v)[:, :, None]).argmin(0)
        columns = np.arange(size)
        u = u[nearest, columns]
        v = v[nearest, columns[:, None]]
        # 0 in the centre, 1 at the edge
        distance = np.sqrt(u * u + v * v) + 0.5 * _noise(12, size, rng)
        vivid = np.float32(strength) * rng.uniform(0.75, 1, count).astype(np.float32)[nearest]

        inside = _fade(distance, 0.75, 1.1)
        layers = [
            ((190, 50, 50), look.halo * _fade(distance, 0.9, 2.0) * 0.7),
            (look.colour, look.opacity * inside),
            ((60, 20, 20), look.centre * _fade(distance, 0.2, 0.5)),
            ((255, 245, 235), look.blister * _fade((u + 0.35) ** 2 + (v + 0.35) ** 2, 0.02, 0.16)),
        ]
        for colour, mask in layers:
            lit = np.array(colour, np.float32) * light[..., None]
            picture += (vivid * mask)[..., None] * (lit - picture)
        picture *= (1 - look.blister * 0.25 * inside * np.clip(u + v, -1, 1))[..., None]

    # something behind the skin
    if rng.random() < 0.3:
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


def _noise(cells: int, size: int, rng: Generator) -> np.ndarray:
    """Return smooth noise around 0, float32 (size, size)."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32) - 0.5)
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def augment(image: Image.Image, rng: Generator) -> Image.Image:
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
