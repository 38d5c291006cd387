"""Arrays in .npy files, of which nothing can claim to be larger than its file."""

import io
import math
import os
from pathlib import Path

import numpy as np

from mpoxcv.storage.files import opened, write_atomically

MAX_BYTES = 2**45


def map_array(file: Path, dtype: np.dtype | type) -> np.ndarray | None:
    """Return a file's array, memory-mapped; None where it is not there, or is another's or damaged.

    What is written into it stays in memory: torch warns about arrays that can't be written to.
    """
    try:
        with opened(file, MAX_BYTES) as stream:
            if np.lib.format.read_magic(stream) != (1, 0):
                return None
            shape, fortran_order, stored = np.lib.format.read_array_header_1_0(stream)
            size = os.fstat(stream.fileno()).st_size - stream.tell()
            if fortran_order or stored != dtype or math.prod(shape) * stored.itemsize != size:
                return None
            return (
                np.memmap(stream, dtype, "c", stream.tell(), shape) if size else np.zeros(0, dtype)
            )
    except (OSError, ValueError, EOFError):
        return None


def save_array(file: Path, array: np.ndarray) -> None:
    """Write the file whole or not at all."""
    stream = io.BytesIO()
    np.save(stream, array)
    write_atomically(file, stream.getbuffer())
