"""What is known of each picture file: digests, a thumbnail and its surface, kept by content; and which are alike."""

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from rich.progress import track

from mpoxcv.audit.likeness import CERTAIN, THUMB, alike
from mpoxcv.audit.surface import SURFACE, surface
from mpoxcv.errors import UserError
from mpoxcv.pictures.cache import digest_files, read_file, unreadable
from mpoxcv.pictures.images import decode
from mpoxcv.pictures.pixels import grey
from mpoxcv.storage.files import write_atomically

VERSION = 3  # raise it when the same bytes would give another description
PAIR = np.dtype([("left", "S32"), ("right", "S32"), ("likeness", "f4")])
RECORD = np.dtype(
    [
        ("digest", "S32"),
        ("pixels", "S32"),
        ("thumb", "u1", (THUMB, THUMB)),
        ("surface", "f4", (len(SURFACE),)),
    ]
)


class Descriptions:
    """The store of one ``RECORD`` a distinct file content.

    Args:
        cache_dir: where it is kept; it may be deleted at any time.
    """

    def __init__(self, cache_dir: str | os.PathLike[str]) -> None:
        self.file = Path(cache_dir) / f"audit-{VERSION}.npy"
        self._known = self._read()
        self._has = set(self._known["digest"].tolist())
        self._added: list[np.ndarray] = []

    def __contains__(self, digest: str) -> bool:
        return digest.encode() in self._has

    def add(self, digest: str, data: bytes, pixels: np.ndarray) -> None:
        """Describe a file, if it is new, from its digest, bytes and pixels, uint8 (height, width, 3) at full size."""
        if digest in self:
            return
        # many processors compute SHA-1 themselves: a quarter of all that is done to a picture would be BLAKE2
        key = hashlib.sha1(repr(pixels.shape).encode(), usedforsecurity=False)
        key.update(np.ascontiguousarray(pixels).data)
        made = np.zeros(1, RECORD)
        made["digest"], made["pixels"], made["thumb"] = (
            digest.encode(),
            key.hexdigest()[:32].encode(),
            grey(pixels, THUMB),
        )
        made["surface"] = surface(data, pixels)
        self._added.append(made)

    def save(self) -> None:
        """Keep what was added, with what other processes have added meanwhile."""
        if not self._added:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.file.with_suffix(".lock")):
            together = np.concatenate([self._read(), *self._added])
            self._known = together[np.unique(together["digest"], return_index=True)[1]]
            _save_array(self.file, self._known)
        self._has, self._added = set(self._known["digest"].tolist()), []

    def records(self, digests: np.ndarray) -> np.ndarray:
        """Return one saved ``RECORD`` a digest."""
        return self._known[np.searchsorted(self._known["digest"], digests.astype("S32"))]

    def _read(self) -> np.ndarray:
        found = _load_array(self.file, RECORD)
        return np.zeros(0, RECORD) if found is None else found


def describe(
    root: Path,
    paths: Sequence[str],
    digests: np.ndarray,
    cache_dir: str | os.PathLike[str],
    threads: int | None = None,
) -> np.ndarray:
    """Return one ``RECORD`` a path; each distinct file content is decoded once, ever.

    Args:
        root: folder that ``paths`` are relative to.
        paths: picture files.
        digests: of their contents, as from ``mpoxcv.pictures.cache.digest_files``.
        cache_dir: as in :class:`Descriptions`.
        threads: of decoding; None takes one a core.

    Raises:
        UserError: files cannot be read or decoded (all are named).
    """
    store, failures = Descriptions(cache_dir), {}
    new = {
        str(digest): path
        for digest, path in zip(digests, paths, strict=True)
        if str(digest) not in store
    }

    def add(item: tuple[str, str]) -> None:
        data = read_file(root / item[1], item[0])
        try:
            store.add(item[0], data, decode(data))
        except UserError as error:
            failures[item[0]] = str(error)

    try:
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            done = pool.map(add, new.items())
            for _ in track(done, f"Describing {len(new)} pictures", len(new), transient=True):
                pass
    finally:
        store.save()
    if failures:  # told by content: folds hold the same pictures again and again
        bad = [
            f"{path}: {failures[d]}"
            for path, d in zip(paths, digests.tolist(), strict=True)
            if d in failures
        ]
        raise UserError(unreadable(bad, root))
    return store.records(digests)


def likenesses(
    left: np.ndarray, right: np.ndarray, threshold: float, cache_dir: str | os.PathLike[str]
) -> pd.DataFrame:
    """Return the pairs of distinct pictures from ``threshold`` up: ``left``, ``right`` (their ``pixels``) and ``likeness``.

    Args:
        left: records, tried in all templates.
        right: records.
        threshold: such as ``CERTAIN`` and ``SUSPECTED`` of ``mpoxcv.audit.likeness``.
        cache_dir: where the pairs are kept, by the pictures' content.
    """
    left, right = (side[np.unique(side["pixels"], return_index=True)[1]] for side in (left, right))
    key = hashlib.blake2b(repr((VERSION, threshold, len(left))).encode(), digest_size=16)
    key.update(left["pixels"].tobytes() + right["pixels"].tobytes())
    file = Path(cache_dir) / f"likeness-{key.hexdigest()}.npy"
    pairs = _load_array(file, PAIR)
    if pairs is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(
            file.with_suffix(".lock")
        ):  # of runs that start together, one compares and the rest wait
            pairs = _load_array(file, PAIR)
            if pairs is None:
                pairs = _compare(left, right, threshold)
                _save_array(file, pairs)
    return pd.DataFrame({name: pairs[name] for name in PAIR.names or ()})


def _compare(left: np.ndarray, right: np.ndarray, threshold: float) -> np.ndarray:
    blocks = [np.zeros(0, PAIR)]
    for i, j, value in alike(left["thumb"], right["thumb"], threshold):
        block = np.zeros(len(i), PAIR)
        block["left"], block["right"], block["likeness"] = (
            left["pixels"][i],
            right["pixels"][j],
            value,
        )
        blocks.append(block[block["left"] != block["right"]])
    return np.concatenate(blocks)


def same_pictures(
    root: Path, paths: Sequence[str], cache_dir: str | os.PathLike[str], threads: int | None = None
) -> np.ndarray:
    """Return int (len(paths),), equal for pictures that are one and the same, changed a little or not.

    Raises:
        UserError: files cannot be read or decoded (all are named).
    """
    from scipy.sparse import coo_array  # here, since it takes a while
    from scipy.sparse.csgraph import connected_components

    records = describe(root, paths, digest_files(root, paths, threads), cache_dir, threads)
    distinct, number = np.unique(records["pixels"], return_inverse=True)
    pairs = likenesses(records, records, CERTAIN, cache_dir)
    ends = np.searchsorted(distinct, pairs["left"]), np.searchsorted(distinct, pairs["right"])
    graph = coo_array((np.ones(len(pairs)), ends), shape=(len(distinct), len(distinct)))
    return connected_components(graph, directed=False)[1][number]


def _load_array(file: Path, dtype: np.dtype) -> np.ndarray | None:
    """Return what :func:`_save_array` kept; None where it is not there, or damaged from outside."""
    try:
        found = np.load(file)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.dtype == dtype else None


def _save_array(file: Path, records: np.ndarray) -> None:
    """Write the file whole or not at all."""
    stream = io.BytesIO()
    np.save(stream, records)
    write_atomically(file, stream.getbuffer())
