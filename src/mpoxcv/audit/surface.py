"""What a picture file shows without its content: how it was made and stored; and its greys."""

import io

import numpy as np
from PIL import Image

SURFACE = (
    "file size", "width", "height", "JPEG quantisation", "dark border", "bright border",
    "mean red", "mean green", "mean blue", "SD red", "SD green", "SD blue",
)  # fmt: skip
# pixels at each edge
BORDER = 4


def grey(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return uint8 (size, size): a picture's luma, means over squares, as Pillow's L and BOX."""
    luma = Image.fromarray(pixels).convert("L")
    return np.asarray(luma.resize((size, size), Image.Resampling.BOX))


def edges_and_colours(pixels: np.ndarray, border: int) -> np.ndarray:
    """Return int64 (8,) of uint8 (height, width, 3): edge pixels counted, and colours summed up.

    Of the four edges, ``border`` wide (corners count twice), pixels with all colours below 16, and
    above 239; of every fourth pixel of every fourth row red, green and blue, and their squares.
    """
    sides = pixels[:border], pixels[-border:], pixels[:, :border], pixels[:, -border:]
    red, green, blue = np.concatenate([side.reshape(-1, 3) for side in sides]).T
    # 16 is a power of two, and 240 has its four highest bits set: so this is all three colours
    dark = np.count_nonzero((red | green | blue) < 16)
    bright = np.count_nonzero((red & green & blue) > 239)
    sampled = pixels[::4, ::4].reshape(-1, 3).astype(np.int64)
    return np.array([dark, bright, *sampled.sum(0), *(sampled * sampled).sum(0)])


def surface(data: bytes, pixels: np.ndarray) -> tuple[float, ...]:
    """Return the numbers named in ``SURFACE`` of a file's bytes and uint8 (height, width, 3)."""
    with Image.open(io.BytesIO(data)) as image:
        tables = getattr(image, "quantization", None) or {}
    quantisation = sum(tables[0]) / len(tables[0]) if 0 in tables else 0.0

    height, width, _ = pixels.shape
    dark, bright, *colours = edges_and_colours(pixels, BORDER).tolist()
    edge = 2 * (min(BORDER, height) * width + min(BORDER, width) * height)
    sampled = -(-height // 4) * -(-width // 4)
    means = [total / sampled for total in colours[:3]]
    variances = [s / sampled - mean * mean for s, mean in zip(colours[3:], means, strict=True)]
    deviations = [max(0.0, variance) ** 0.5 for variance in variances]
    return (len(data), width, height, quantisation, dark / edge, bright / edge, *means, *deviations)
