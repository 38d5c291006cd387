"""What is done to every picture's pixels, in C where it was compiled (pixels.c): the same values, several times as fast."""

import ctypes
from pathlib import Path

import numpy as np
from PIL import Image

from mpoxcv.storage.native import library

C = library(Path(__file__).with_name("_pixels"))


def resize(pixels: np.ndarray, size: int, antialias: bool = True) -> np.ndarray:
    """Resize a picture to a square, as Pillow does, without keeping its aspect ratio.

    Args:
        pixels: uint8 (height, width, 3).
        size: height and width of the result in pixels.
        antialias: bilinear over all pixels that a new one covers, as Pillow and torchvision do by default; false takes the
            four nearest alone, as ``cv2.resize`` does (there the result may differ by a grey level, of rounding).

    Returns:
        uint8 (size, size, 3).
    """
    if antialias and _takes(pixels):
        return _resized(pixels, np.empty((size, size, 3), np.uint8))
    image, bilinear = Image.fromarray(pixels), Image.Resampling.BILINEAR
    if antialias:
        return np.asarray(image.resize((size, size), bilinear))
    scale = (image.width / size, 0, 0, 0, image.height / size, 0)
    return np.asarray(image.transform((size, size), Image.Transform.AFFINE, scale, bilinear))


def grey(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return a picture's luma in squares, each the mean of what it covers: uint8 (size, size), as Pillow's L and BOX."""
    if _takes(pixels):
        return _resized(pixels, np.empty((size, size), np.uint8))
    return np.asarray(
        Image.fromarray(pixels).convert("L").resize((size, size), Image.Resampling.BOX)
    )


def edges_and_colours(pixels: np.ndarray, border: int) -> np.ndarray:
    """Count a picture's dark and bright edge pixels, and sum its colours.

    Args:
        pixels: uint8 (height, width, 3).
        border: width of the four edges in pixels; corners count twice.

    Returns:
        int64 (8,): pixels with all colours below 16, with all above 239; red, green and blue of every fourth pixel of every
        fourth row summed up, and their squares.
    """
    found = np.empty(8, np.int64)
    if C is not None:
        pixels = np.ascontiguousarray(pixels)
        C.surface(_at(pixels), *pixels.shape[:2], border, _at(found))
        return found
    sides = pixels[:border], pixels[-border:], pixels[:, :border], pixels[:, -border:]
    edge = np.concatenate([side.reshape(-1, 3) for side in sides])
    few = pixels[::4, ::4].reshape(-1, 3).astype(np.int64)
    found[:2] = (edge.max(1) < 16).sum(), (edge.min(1) > 239).sum()
    found[2:5], found[5:] = few.sum(0), (few * few).sum(0)
    return found


def normalise(
    pixels: np.ndarray,
    rows: np.ndarray,
    mirrored: np.ndarray | None,
    shift: np.ndarray,
    scale: np.ndarray,
    out: np.ndarray,
    threads: int = 1,
) -> None:
    """Gather, mirror and normalise pictures in one pass; only where ``C`` is.

    Args:
        pixels: uint8 (n, S, S, 3).
        rows: int64 (B,), which of them.
        mirrored: uint8 (B,): 1 left for right, 2 top for bottom, 3 both; None mirrors none.
        shift: float32 (3 S,), of a row of pixels.
        scale: float32 (3 S,).
        out: float32 (B, S, S, 3), takes (pixel - shift) / scale.
        threads: that OpenMP may take; in a thread of Python's more than one would keep those of the main thread waiting.
    """
    assert C is not None
    arrays = (rows, mirrored, len(rows), pixels.shape[1], shift, scale, out, threads)
    assert rows.dtype == np.int64 and len(out) == len(rows) and out.shape[1:] == pixels.shape[1:]
    C.batch(
        _at(pixels),
        *(ctypes.c_int64(value) if isinstance(value, int) else _at(value) for value in arrays),
    )


def _takes(pixels: np.ndarray) -> bool:
    # Pillow 13 takes rows before columns of pictures that are no higher than wide, as Pillow always did; of others not always
    return C is not None and pixels.shape[0] <= pixels.shape[1]


def _resized(pixels: np.ndarray, out: np.ndarray) -> np.ndarray:
    assert C is not None
    pixels = np.ascontiguousarray(pixels)
    if C.resize(_at(pixels), *pixels.shape[:2], len(out), int(out.ndim == 2), _at(out)):
        raise MemoryError(
            f"There is no memory left to resize a picture of {pixels.shape[1]} x {pixels.shape[0]} pixels."
        )
    return out


def _at(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)
