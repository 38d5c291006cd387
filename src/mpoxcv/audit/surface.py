"""What a picture file shows without its content: how it was made and stored."""

import io

import numpy as np
from PIL import Image

from mpoxcv.pictures.pixels import edges_and_colours

SURFACE = (
    "file size", "width", "height", "JPEG quantisation", "dark border", "bright border",
    "mean red", "mean green", "mean blue", "SD red", "SD green", "SD blue",
)  # fmt: skip
BORDER = 4  # pixels at each edge


def surface(data: bytes, pixels: np.ndarray) -> tuple[float, ...]:
    """Return the numbers named in ``SURFACE``.

    Args:
        data: the file's bytes.
        pixels: the picture, uint8 (height, width, 3); every fourth of every fourth row is enough for its colours.
    """
    with Image.open(io.BytesIO(data)) as image:
        tables = getattr(image, "quantization", None) or {}
    quantisation = sum(tables[0]) / len(tables[0]) if 0 in tables else 0.0
    height, width, _ = pixels.shape
    dark, bright, *colours = edges_and_colours(pixels, BORDER).tolist()
    edge, few = (
        2 * (min(BORDER, height) * width + min(BORDER, width) * height),
        -(-height // 4) * -(-width // 4),
    )
    means = [total / few for total in colours[:3]]
    deviations = [
        max(0.0, squares / few - mean * mean) ** 0.5
        for squares, mean in zip(colours[3:], means, strict=True)
    ]
    return (len(data), width, height, quantisation, dark / edge, bright / edge, *means, *deviations)
