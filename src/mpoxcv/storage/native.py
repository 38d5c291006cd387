"""Compiled helpers: plain C, built at installation where there is a compiler, used by ctypes."""

import contextlib
import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


def library(stem: Path) -> ctypes.CDLL | None:
    """Return the compiled file, given without its suffix; None where none fits the system."""
    for file in (stem.with_name(stem.name + suffix) for suffix in EXTENSION_SUFFIXES):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(str(file))
    return None
