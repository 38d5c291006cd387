"""This process's memory, and how the C library keeps what is freed.

mallopt(3) and malloc_trim(3) are glibc's alone.
"""

import ctypes
import sys

# of malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
GLIBC = LIBC if hasattr(LIBC, "malloc_trim") else None


def keep_freed_memory() -> None:
    """Keep what is freed: without, every step's tensors are pages that the system zeroes anew."""
    if GLIBC:
        GLIBC.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        GLIBC.mallopt(M_TRIM_THRESHOLD, 512 * 2**20)


def return_freed_memory() -> None:
    """Give back what is free now, after something large such as a figure."""
    if GLIBC:
        GLIBC.malloc_trim(0)


def peak_mib() -> int | None:
    """Return the most that this process has held, in MiB.

    None on Windows, whose Python does not say.
    """
    if sys.platform == "win32":
        return None
    import resource

    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
