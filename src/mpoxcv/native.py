"""Compiled helpers: plain C, built at installation where there is a compiler, and called through ctypes."""

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


def library(stem: Path) -> ctypes.CDLL | None:
    """Return the compiled file of that name, given without its suffix; None where it was not built."""
    files = [stem.with_name(stem.name + suffix) for suffix in EXTENSION_SUFFIXES]
    return next((ctypes.CDLL(str(file)) for file in files if file.is_file()), None)
