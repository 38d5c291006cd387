"""What is done to all pictures' pixels: in C (pixels.c) several times as fast, equal values."""

import ctypes
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mpoxcv.storage.native import library

C = library(Path(__file__).with_name("_pixels"))


class Form(NamedTuple):
    """What a file's picture is made into: a square.

    Args:
        size: pixels of a side.
        antialias: ``bilinear`` over all that a new pixel covers, as Pillow and torchvision do by
            default; false, over the four nearest, as ``cv2.resize`` does (to a grey level).
        interpolation: ``bilinear``, ``bicubic`` or another of Pillow's.
        crop: ``squash`` takes the whole picture, without keeping its aspect ratio; a number resizes
            the shorter side to size / crop and takes the square in the middle, as torchvision's
            ``Resize`` and ``CenterCrop`` do.
    """

    size: int
    antialias: bool = True
    interpolation: str = "bilinear"
    crop: float | str = "squash"


def resize(pixels: np.ndarray, form: Form) -> np.ndarray:
    """Make uint8 (height, width, 3) into (size, size, 3)."""
    pixels = _sound(pixels)
    size = form.size
    squash = form.crop == "squash"
    if form.antialias and form.interpolation == "bilinear" and squash and _takes(pixels):
        return _resized(pixels, np.empty((size, size, 3), np.uint8))

    image = Image.fromarray(pixels)
    way = Image.Resampling[form.interpolation.upper()]
    if not form.antialias:
        scale = (image.width / size, 0, 0, 0, image.height / size, 0)
        return np.asarray(image.transform((size, size), Image.Transform.AFFINE, scale, way))
    if squash:
        return np.asarray(image.resize((size, size), way))
    # a share such as 224 / 232 gives 232 again
    shorter = int(size / float(form.crop) + 1e-6)
    width, height = (side * shorter // min(image.size) for side in image.size)
    left, top = (round((side - size) / 2) for side in (width, height))
    resized = image.resize((width, height), way)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def grey(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return uint8 (size, size): a picture's luma, means over squares, as Pillow's L and BOX."""
    pixels = _sound(pixels)
    if _takes(pixels):
        return _resized(pixels, np.empty((size, size), np.uint8))
    luma = Image.fromarray(pixels).convert("L")
    return np.asarray(luma.resize((size, size), Image.Resampling.BOX))


def edges_and_colours(pixels: np.ndarray, border: int) -> np.ndarray:
    """Return int64 (8,) of uint8 (height, width, 3): edge pixels counted, and colours summed up.

    Of the four edges, ``border`` wide (corners count twice), pixels with all colours below 16, and
    above 239; of every fourth pixel of every fourth row red, green and blue, and their squares.
    """
    pixels = _sound(pixels)
    if C is not None:
        sums = np.empty(8, np.int64)
        C.surface(_at(pixels), *pixels.shape[:2], border, _at(sums))
        return sums

    sides = pixels[:border], pixels[-border:], pixels[:, :border], pixels[:, -border:]
    edge = np.concatenate([side.reshape(-1, 3) for side in sides])
    dark, bright = (edge.max(1) < 16).sum(), (edge.min(1) > 239).sum()
    sampled = pixels[::4, ::4].reshape(-1, 3).astype(np.int64)
    return np.array([dark, bright, *sampled.sum(0), *(sampled * sampled).sum(0)], np.int64)


def _sound(pixels: np.ndarray) -> np.ndarray:
    """Return pixels as they lie in C; ValueError where they are none."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        shape = f"{pixels.dtype} {pixels.shape}"
        raise ValueError(f"pixels should be uint8 (height, width, 3), and are {shape}")
    return np.ascontiguousarray(pixels)


def _takes(pixels: np.ndarray) -> bool:
    # Pillow always took rows before columns; Pillow 13 does so of pictures no higher than wide
    return C is not None and pixels.shape[0] <= pixels.shape[1]


def _resized(pixels: np.ndarray, out: np.ndarray) -> np.ndarray:
    assert C is not None
    height, width, _ = pixels.shape
    if C.resize(_at(pixels), height, width, len(out), int(out.ndim == 2), _at(out)):
        size = f"{width} x {height} pixels"
        raise MemoryError(f"There is no memory left to resize a picture of {size}.")
    return out


def _at(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
