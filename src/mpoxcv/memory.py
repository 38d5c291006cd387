"""How the C library keeps freed memory (glibc's mallopt(3) and malloc_trim(3); other systems go without)."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Keep what is freed: without, every step's tensors are pages that the system zeroes anew."""
    if library := _glibc():
        library.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        library.mallopt(M_TRIM_THRESHOLD, 512 * 2**20)


def return_freed_memory() -> None:
    """Give back what is free now, after something large such as a figure."""
    if library := _glibc():
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "malloc_trim") else None
