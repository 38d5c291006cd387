"""What is known of each picture file, kept by content, and which pictures are alike."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from rich.progress import track

from mpoxcv.audit.keypoints import KEYPOINT, POINTS, keypoints, sharing
from mpoxcv.audit.likeness import CERTAIN, THUMB, alike
from mpoxcv.audit.surface import SURFACE, surface
from mpoxcv.errors import UserError
from mpoxcv.pictures.cache import digest_files, read_file, unreadable
from mpoxcv.pictures.images import decoded
from mpoxcv.pictures.pixels import grey
from mpoxcv.storage.arrays import map_array, save_array
from mpoxcv.storage.files import StrPath, lock

# raise it when the same bytes would give another description
VERSION = 5
PAIR = np.dtype([("left", "S32"), ("right", "S32"), ("likeness", "f4")])
RECORD = np.dtype([
    ("digest", "S32"), ("pixels", "S32"), ("thumb", "u1", (THUMB, THUMB)),
    ("surface", "f4", (len(SURFACE),)), ("keypoints", KEYPOINT, (POINTS,)),
])  # fmt: skip


class Descriptions:
    """One ``RECORD`` a distinct file content, kept in ``cache_dir``, which may be deleted."""

    def __init__(self, cache_dir: StrPath) -> None:
        self.file = Path(cache_dir) / f"audit-{VERSION}.npy"
        self._records = self._read()
        self._digests = set(self._records["digest"].tolist())
        self._added: list[np.ndarray] = []

    def __contains__(self, digest: str) -> bool:
        return digest.encode() in self._digests

    def add(self, digest: str, data: bytes, pixels: np.ndarray) -> None:
        """Describe a file, if it is new: its digest, its bytes, and uint8 (height, width, 3)."""
        if digest in self:
            return
        # many processors compute SHA-1 themselves: BLAKE2 would be a quarter of a picture's work
        key = hashlib.sha1(repr(pixels.shape).encode(), usedforsecurity=False)
        key.update(np.ascontiguousarray(pixels).data)
        record = np.zeros(1, RECORD)
        record["digest"], record["pixels"] = digest, key.hexdigest()[:32]
        record["thumb"], record["surface"] = grey(pixels, THUMB), surface(data, pixels)
        record["keypoints"] = keypoints(pixels)
        self._added.append(record)

    def save(self) -> None:
        """Keep what was added, with what other processes have added meanwhile."""
        if not self._added:
            return
        with lock(self.file.with_suffix(".lock")):
            records = np.concatenate([self._read(), *self._added])
            self._records = records[np.unique(records["digest"], return_index=True)[1]]
            save_array(self.file, self._records)
        self._digests = set(self._records["digest"].tolist())
        self._added = []

    def records(self, digests: np.ndarray) -> np.ndarray:
        """Return one saved ``RECORD`` a digest."""
        return self._records[np.searchsorted(self._records["digest"], digests.astype("S32"))]

    def _read(self) -> np.ndarray:
        records = map_array(self.file, RECORD)
        # a copy, since the file is replaced
        return np.zeros(0, RECORD) if records is None else np.array(records)


def describe(
    root: Path,
    paths: Sequence[str],
    digests: np.ndarray,
    cache_dir: StrPath,
    threads: int | None = None,
) -> np.ndarray:
    """Return one ``RECORD`` a path; each distinct file content is decoded once, ever.

    ``paths`` are relative to ``root``; ``digests`` are of their contents, as from
    ``mpoxcv.pictures.cache.digest_files``; ``cache_dir`` is as in :class:`Descriptions`. None takes
    one of the decoding ``threads`` a core. UserError names all that cannot be read or decoded.
    """
    store = Descriptions(cache_dir)
    files = list(zip(digests.tolist(), paths, strict=True))
    new = {digest: path for digest, path in files if digest not in store}
    # told by content: folds hold the same pictures again and again
    failures: dict[str, str] = {}

    def add(digest: str, path: str) -> None:
        data = read_file(root / path, digest)
        try:
            with decoded(data) as pixels:
                store.add(digest, data, pixels)
        except UserError as error:
            failures[digest] = str(error)

    try:
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            added = pool.map(add, new.keys(), new.values())
            list(track(added, f"Describing {len(new)} pictures", len(new), transient=True))
    finally:
        store.save()

    if failures:
        bad = [f"{path}: {failures[digest]}" for digest, path in files if digest in failures]
        raise UserError(unreadable(bad, root))
    return store.records(digests)


def likenesses(
    left: np.ndarray,
    right: np.ndarray,
    threshold: float,
    cache_dir: StrPath,
    patients: tuple[Sequence[str], Sequence[str]],
) -> pd.DataFrame:
    """Return pairs of distinct pictures: their ``pixels`` (``left``, ``right``) and ``likeness``.

    The records on the left are tried in all templates; ``threshold`` is the least likeness, and
    the records' ``patients`` tell which of them are featureless, as in
    ``mpoxcv.audit.likeness.alike``. Pairs are kept in ``cache_dir``, by the pictures' content.
    """
    firsts = [np.unique(side["pixels"], return_index=True)[1] for side in (left, right)]
    left, right = left[firsts[0]], right[firsts[1]]
    one, other = (np.asarray(side, str)[i] for side, i in zip(patients, firsts, strict=True))
    key = hashlib.blake2b(repr((VERSION, threshold, len(left))).encode(), digest_size=16)
    for column in (left["pixels"], right["pixels"], one, other):
        key.update(column.tobytes())
    file = Path(cache_dir) / f"likeness-{key.hexdigest()}.npy"
    pairs = map_array(file, PAIR)
    if pairs is None:
        # of runs that start together, one compares and the rest wait
        with lock(file.with_suffix(".lock")):
            pairs = map_array(file, PAIR)
            if pairs is None:
                pairs = _compare(left, right, threshold, (one, other))
                save_array(file, pairs)
    return pd.DataFrame({name: pairs[name] for name in PAIR.names or ()})


def _compare(
    left: np.ndarray, right: np.ndarray, threshold: float, patients: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return ``PAIR`` of two sides' records: alike as a whole, or sharing a part."""
    thumbs, points = ((left[name], right[name]) for name in ("thumb", "keypoints"))
    whole = list(alike(*thumbs, threshold, patients))
    parts = np.array([*sharing(*points)]).reshape(-1, 3)
    i, j = (np.concatenate([*(b[k] for b in whole), parts[:, k].astype(int)]) for k in (0, 1))
    likeness = np.concatenate([*(b[2] for b in whole), parts[:, 2]])
    pairs = np.rec.fromarrays([left["pixels"][i], right["pixels"][j], likeness], PAIR)
    pairs = pairs[(pairs["left"] != pairs["right"]) & (likeness >= threshold)]
    # the highest of each pair
    pairs = pairs[np.argsort(-pairs["likeness"], kind="stable")]
    first = np.unique(pairs[["left", "right"]], return_index=True)[1]
    return pairs[np.sort(first)][...]


def same_pictures(
    root: Path, table: pd.DataFrame, cache_dir: StrPath, threads: int | None = None
) -> np.ndarray:
    """Return int (N,), equal for one picture, changed or not; errors as ``describe``.

    ``table`` has the columns ``path`` and ``patient``.
    """
    # here, since it takes a while
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    paths, patients = table["path"].tolist(), table["patient"].tolist()
    records = describe(root, paths, digest_files(root, paths, threads), cache_dir, threads)
    distinct, number = np.unique(records["pixels"], return_inverse=True)
    pairs = likenesses(records, records, CERTAIN, cache_dir, (patients, patients))
    ends = np.searchsorted(distinct, pairs["left"]), np.searchsorted(distinct, pairs["right"])
    graph = coo_array((np.ones(len(pairs)), ends), shape=(len(distinct), len(distinct)))
    return connected_components(graph, directed=False)[1][number]
