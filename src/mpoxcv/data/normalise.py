"""Batches in one pass over their pictures, in C (normalise.c): half of a LeNet's epoch by torch."""

import ctypes
from pathlib import Path

import numpy as np

from mpoxcv.storage.native import library

C = library(Path(__file__).with_name("_normalise"))


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
        threads: of OpenMP; in a thread of Python's more than one keeps the main thread's waiting.
    """
    assert C is not None
    assert rows.dtype == np.int64 and len(out) == len(rows) and out.shape[1:] == pixels.shape[1:]
    n, side, workers = map(ctypes.c_int64, (len(rows), pixels.shape[1], threads))
    chosen = _at(pixels), _at(rows), _at(mirrored)
    C.batch(*chosen, n, side, _at(shift), _at(scale), _at(out), workers)


def _at(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)
