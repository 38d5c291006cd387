"""Pictures decoded once: memory-mapped files of uint8 pixels, named by what they were made from."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import PIL
import simplejpeg
from rich.progress import track

from mpoxcv.command_line import leaving_out
from mpoxcv.errors import UserError, shorten
from mpoxcv.pictures.ahead import map_ahead
from mpoxcv.pictures.images import decoded
from mpoxcv.pictures.pixels import Form, resize
from mpoxcv.pictures.tree import reading
from mpoxcv.storage.arrays import map_array
from mpoxcv.storage.files import StrPath, lock, read_bytes, replacing, write_atomically

# raise it when the same bytes and settings would give other pixels
VERSION = 3
# pictures of one task of a thread: a task of its own costs more than a file
CHUNK = 32
# of 7,532 files on 16 cores: one takes 0.47 s, four 0.63, sixteen, which wait for each other, 1.06;
# on network disks more than one read at a time helps
HASHING_THREADS = 4
# path and digest of each file
Files = list[tuple[str, str]]
# open caches by path, inode, size and time of change: runs in lockstep share them
_mapped: WeakValueDictionary[tuple[str, int, int, int], np.ndarray] = WeakValueDictionary()


@dataclass(frozen=True)
class PictureCache:
    """Decoded pictures."""

    # uint8 (n, size, size, 3), memory-mapped, every distinct picture once
    pixels: np.ndarray
    # int64 (len(paths),), where in ``pixels`` each path's picture lies
    rows: np.ndarray


def open_cache(
    root: StrPath,
    paths: Sequence[str],
    form: Form,
    cache_dir: StrPath,
    threads: int | None = None,
    digests: np.ndarray | None = None,
    watcher: Any = None,
) -> PictureCache:
    """Open the cache of these pictures; build it first if their content or a setting is new.

    Every file is read and hashed each time, so a changed picture is never missed. What another
    fold's cache holds is copied from there. Processes that want the same cache at once wait for the
    one that builds it. All files in ``cache_dir`` may be deleted at any time.

    ``paths`` are relative to ``root``. ``digests`` are of the files, where :func:`digest_files`
    has just made them. ``watcher.add`` sees each file that is decoded, from several threads, and
    ``watcher.save`` comes before any process may use the cache
    (``mpoxcv.audit.descriptions.Descriptions``).

    Raises:
        UserError: files cannot be read or decoded (all are named).
        OSError: the disk is full or ``cache_dir`` cannot be written to; nothing is left behind.
    """
    root, cache_dir = Path(root), Path(cache_dir)
    if digests is None:
        digests = digest_files(root, paths, threads)
    distinct, first, rows = np.unique(digests, return_index=True, return_inverse=True)
    settings = json.dumps([VERSION, PIL.__version__, simplejpeg.__version__, *form])
    content = distinct.astype("S32").tobytes()
    file = cache_dir / f"{form.size}px-{_digest(settings.encode())[:8]}-{_digest(content)}.npy"

    shape = (len(distinct), form.size, form.size, 3)
    if _load(file, shape) is None:
        with lock(file.with_suffix(".lock")):
            # another process may have built it meanwhile
            if _load(file, shape) is None:
                files = [(paths[i], str(digests[i])) for i in first]
                threads = threads or os.cpu_count() or 1
                _build(file, root, files, form, threads, watcher)
    pixels = _load(file, shape)
    assert pixels is not None
    return PictureCache(pixels, rows.astype(np.int64))


def digest_files(root: StrPath, paths: Sequence[str], threads: int | None = None) -> np.ndarray:
    """Return str (len(paths),), 32 hexadecimal digits a file; UserError if one cannot be read."""

    def digests_of(start: int) -> list[str]:
        return [_digest(read_file(Path(root) / path)) for path in paths[start : start + CHUNK]]

    with ThreadPoolExecutor(min(threads or os.cpu_count() or 1, HASHING_THREADS)) as pool:
        chunks = pool.map(digests_of, range(0, len(paths), CHUNK))
        return np.array([digest for chunk in chunks for digest in chunk], "U32")


def fingerprint(paths: Sequence[str], digests: np.ndarray) -> str:
    """Return the hex digest of paths and contents: equal for equal data, in any order and place."""
    lines = sorted(f"{path}\t{digest}" for path, digest in zip(paths, digests, strict=True))
    return _digest("\n".join(lines).encode("utf-8", "surrogateescape"))


def _load(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        state = file.stat()
        key = (str(file), state.st_ino, state.st_size, state.st_mtime_ns)
        pixels = _mapped.get(key)
        if pixels is None:
            pixels = map_array(file, np.uint8)
            if pixels is not None:
                _mapped[key] = pixels
    except OSError:
        return None
    # damaged from outside: build it again
    return pixels if pixels is not None and pixels.shape == shape else None


def _pixels_elsewhere(file: Path, wanted: set[str], size: int) -> dict[str, np.ndarray]:
    """Return pixels by digest, of the caches that were made with the same settings as ``file``."""
    pixels_of: dict[str, np.ndarray] = {}
    settings = file.name.rpartition("-")[0]
    for other in file.parent.glob(f"{settings}-*.digests"):
        try:
            data = read_bytes(other)
        except OSError:
            continue
        # damaged from outside
        if other.stem != f"{settings}-{_digest(data)}":
            continue
        digests = np.frombuffer(data, "S32").astype("U32").tolist()
        pixels = _load(other.with_suffix(".npy"), (len(digests), size, size, 3))
        if pixels is not None:
            pixels_of |= {d: pixels[row] for row, d in enumerate(digests) if d in wanted}
    return pixels_of


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _build(file: Path, root: Path, files: Files, form: Form, threads: int, watcher: Any) -> None:
    size = form.size
    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    elsewhere = _pixels_elsewhere(file, {digest for _, digest in files}, size)
    failures: list[str] = []

    def decode_chunk(chunk: Files) -> np.ndarray:
        resized = np.zeros((len(chunk), size, size, 3), np.uint8)
        for picture, (path, digest) in zip(resized, chunk, strict=True):
            if digest in elsewhere:
                picture[:] = elsewhere[digest]
                continue
            data = read_file(root / path, digest)
            try:
                with decoded(data) as pixels:
                    picture[:] = resize(pixels, form)
                    if watcher:
                        watcher.add(digest, data, pixels)
            except UserError as error:
                failures.append(f"{path}: {error}")
        return resized

    # of a process that was killed; this one has the lock
    for partial in file.parent.glob(f".{file.name[:40]}.*.partial"):
        partial.unlink()
    with replacing(file) as stream:
        with ThreadPoolExecutor(threads) as pool:
            shape = (len(files), size, size, 3)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            # plain writes, since a memory map on a full disk ends the process with SIGBUS
            arrays = map_ahead(pool, decode_chunk, chunks, 2 * threads)
            title = f"Decoding {len(files)} pictures"
            for pictures in track(arrays, title, len(chunks), transient=True):
                stream.write(pictures.data)
        if watcher:
            watcher.save()
        if failures:
            raise UserError(unreadable(failures, root))
    write_atomically(file.with_suffix(".digests"), "".join(digest for _, digest in files))


def unreadable(failures: list[str], root: Path) -> str:
    """Return the message for pictures that cannot be decoded, given as ``<path>: <reason>``."""
    names = sorted(failure.partition(": ")[0] for failure in failures)
    return (
        f"{len(failures)} picture(s) in {root} cannot be used:\n{shorten(sorted(failures))}\n"
        f"Replace them, or leave them out (paths; * stands for anything): {leaving_out(names[:10])}"
    )


def read_file(path: Path, digest: str | None = None) -> bytes:
    """Return a file's bytes; UserError if it cannot be read, or has another ``digest`` by now."""
    with reading(path):
        data = read_bytes(path)
    if digest is not None and _digest(data) != digest:
        remedy = "Begin again when nothing writes to the data."
        raise UserError(f"{path} was changed while it was read. {remedy}")
    return data
