"""What a picture file shows without its content: how it was made and stored."""

import numpy as np

from mpoxcv.pictures.images import opened, read_profile
from mpoxcv.pictures.pixels import edges_and_colours

SURFACE = (
    "file size", "width", "height", "JPEG quantisation", "dark border", "bright border",
    "mean red", "mean green", "mean blue", "SD red", "SD green", "SD blue",
    "sRGB profile", "other profile", "broken profile",
)  # fmt: skip
# pixels at each edge
BORDER = 4


def surface(data: bytes, pixels: np.ndarray) -> tuple[float, ...]:
    """Return the numbers named in ``SURFACE`` of a file's bytes and uint8 (height, width, 3)."""
    with opened(data) as image:
        tables = getattr(image, "quantization", None) or {}
        profile, *_ = read_profile(image.info.get("icc_profile"))
    quantisation = sum(tables[0]) / len(tables[0]) if 0 in tables else 0.0

    height, width, _ = pixels.shape
    dark, bright, *colours = edges_and_colours(pixels, BORDER).tolist()
    edge = 2 * (min(BORDER, height) * width + min(BORDER, width) * height)
    sampled = -(-height // 4) * -(-width // 4)
    means = [total / sampled for total in colours[:3]]
    variances = [s / sampled - mean * mean for s, mean in zip(colours[3:], means, strict=True)]
    deviations = [max(0.0, variance) ** 0.5 for variance in variances]
    profiles = [profile == kind for kind in ("sRGB", "other", "broken")]
    file = len(data), width, height, quantisation, dark / edge, bright / edge
    return (*file, *means, *deviations, *profiles)
