"""What a picture file shows without its content: how it was made and stored."""

import io

import numpy as np
from PIL import Image

SURFACE = (
    "file size", "width", "height", "JPEG quantisation", "dark border", "bright border",
    "mean red", "mean green", "mean blue", "SD red", "SD green", "SD blue",
)  # fmt: skip
BORDER = 4  # pixels at each edge


def surface(data: bytes, pixels: np.ndarray) -> tuple[float, ...]:
    """Return the numbers named in ``SURFACE``.

    Args:
        data: the file's bytes.
        pixels: the picture, uint8 (height, width, 3).
    """
    with Image.open(io.BytesIO(data)) as image:
        tables = getattr(image, "quantization", None) or {}
    quantisation = sum(tables[0]) / len(tables[0]) if 0 in tables else 0.0
    edge = np.concatenate(
        [side.reshape(-1, 3) for side in (pixels[:BORDER], pixels[-BORDER:], pixels[:, :BORDER], pixels[:, -BORDER:])]
    )
    red, green, blue = np.ascontiguousarray(edge.T)  # one after another: numpy is slow over an axis of three
    dark = np.count_nonzero((red | green | blue) < 16) / len(edge)  # all three, since 16 is a power of two
    bright = np.count_nonzero((red & green & blue) > 239) / len(
        edge
    )  # all three, since 240 has its four highest bits set
    height, width, _ = pixels.shape
    few = np.ascontiguousarray(pixels[::4, ::4].reshape(-1, 3).T, np.float32)  # enough for colours
    colour = (*few.mean(1).tolist(), *few.std(1).tolist())
    return (len(data), width, height, quantisation, dark, bright, *colour)
