"""Which pictures are alike as a whole: equal, or so after flips and quarter turns.

A picture is described by the low frequencies of its grey values (the coefficients of pHash), each
raised by its frequency, since photographs have little power there, and scaled to unit length;
likeness is the product of two such vectors. One side is compared in all its flips and quarter
turns. What is cropped, turned or pasted is found by ``mpoxcv.audit.keypoints``; blurred pictures
and smooth ones, which have few keypoints, are found here.

Where lesions lie centred on pale skin, as in dermoscopy, most pictures resemble many others. There
a picture is held against its nearest others and not against a fixed likeness.

Legend: N pictures, T = 8 templates of a picture, D = 99 coefficients.
"""

from collections.abc import Iterator

import numpy as np
from scipy.fft import dctn

# likeness of one photograph: see benchmarks/results/likeness.txt
CERTAIN, SUSPECTED = 0.98, 0.9
# A picture that resembles those of so many other patients is featureless: it tells of those alone
# that are at a seventh of the last one's distance (1 - likeness), or equal but for their encoding.
MANY, RESEMBLING, SHARE, EQUAL = 5, 0.8, 0.15, 0.995
# pixels, and frequencies used, a side
THUMB, COEFFICIENTS = 32, 10
AXIS = np.arange(COEFFICIENTS, dtype=np.float32)
FREQUENCY = np.hypot(AXIS, AXIS[:, None])
# lowest first, without the mean
ORDER = np.argsort(FREQUENCY, axis=None, kind="stable")[1:]


def alike(
    left: np.ndarray,
    right: np.ndarray,
    threshold: float,
    patients: tuple[np.ndarray, np.ndarray],
    block: int = 256,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield positions in ``left``, in ``right``, and likeness of all pairs, block by block.

    ``left`` are uint8 (N, 32, 32) thumbnails, each tried in all its templates, and ``right``
    (M, 32, 32). A pair counts from a likeness of ``threshold``, or more where the left picture is
    featureless, which its and the others' ``patients``, (N,) and (M,) of any type that sorts, tell.
    ``block`` bounds the memory: it is the number of left pictures in a matrix product.
    """
    targets = vectors(right)
    for start in range(0, len(left), block):
        part = left[start : start + block]
        best = np.full((len(part), len(right)), -1, np.float32)
        for sources in templates(part).swapaxes(0, 1):
            np.maximum(best, sources @ targets.T, out=best)

        telling = _nearest_that_tells(best, patients[0][start : start + block], patients[1])
        needed = np.maximum(np.float32(threshold), telling)
        rows, columns = np.nonzero(best >= needed[:, None])
        yield rows + start, columns, best[rows, columns]


def _nearest_that_tells(likeness: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return from which likeness, float (N,), pictures tell anything; 0 for all with features.

    ``likeness`` is float (N, M), ``left`` and ``right`` are the patients, (N,) and (M,).
    """
    order = np.argsort(right, kind="stable")
    others, starts = np.unique(right[order], return_index=True)
    if len(others) < MANY:
        return np.zeros(len(left))
    by_patient = np.maximum.reduceat(likeness[:, order], starts, axis=1)
    by_patient[left[:, None] == others] = -1
    last = np.partition(by_patient, -MANY, axis=1)[:, -MANY]
    return np.where(last < RESEMBLING, 0, np.minimum(EQUAL, 1 - SHARE * (1 - last)))


def templates(thumbs: np.ndarray) -> np.ndarray:
    """Return float32 (N, T, D): all flips and quarter turns of uint8 (N, S, S)."""
    low = _coefficients(thumbs)[:, None]
    odd = np.where(np.arange(COEFFICIENTS) % 2, -1, 1).astype(np.float32)
    flips = [low, low * odd, low * odd[:, None], low * odd * odd[:, None]]
    return _unit(np.concatenate([*flips, *(flip.swapaxes(-1, -2) for flip in flips)], 1))


def vectors(thumbs: np.ndarray) -> np.ndarray:
    """Return float32 (N, D), unit vectors of uint8 (N, S, S), or zeros for one colour."""
    # all at once would take ten times the memory of the thumbnails
    starts = range(0, len(thumbs), 4096)
    return np.concatenate([_unit(_coefficients(thumbs[i : i + 4096])) for i in starts])


def _coefficients(thumbs: np.ndarray) -> np.ndarray:
    """Return float32 (N, 10, 10) of (N, S, S): low frequencies, raised by it: the mean is zero."""
    spectrum = dctn(thumbs.astype(np.float32), axes=(1, 2), norm="ortho")
    return spectrum[:, :COEFFICIENTS, :COEFFICIENTS] * FREQUENCY


def _unit(low: np.ndarray) -> np.ndarray:
    flat = low.reshape(*low.shape[:-2], -1)[..., ORDER]
    length = np.linalg.norm(flat, axis=-1, keepdims=True)
    return np.divide(flat, length, out=np.zeros_like(flat), where=length > 1).astype(np.float32)
