"""Which pictures show the same photograph: equal pixels, or likeness after flips, turns, crops and other changes.

A picture is described by the low frequencies of its grey values (the coefficients of pHash), each raised by its frequency,
since photographs have little power there, and scaled to unit length; likeness is the product of two such vectors. One side is
compared in all its flips and quarter turns, turned by up to 30 degrees, and cropped.

Measured on the 228 photographs of MSLD v1 (benchmarks/likeness.py): share of copies found, one a photograph and change; and
pairs of a copy and another patient's photograph, of 51,000, that were taken for one picture. NM68 and NM110, two patients,
are truly one picture: up to two in each row are right::

    likeness from                        0.80   0.90   0.95   0.98   false at 0.80 / 0.90 / 0.98
    re-encoded, halved, noise 5 %       1.000  1.000  1.000  1.000   8 / 2 / 2
    mirrored, quarter turn              1.000  1.000  1.000  1.000   8 / 2 / 2
    colour jitter 20 %                  1.000  1.000  1.000  1.000   7 / 2 / 2
    cropped to 90 %, anywhere           1.000  0.965  0.689  0.228   3 / 2 / 1
    cropped to 75 %, anywhere           0.491  0.162  0.057  0.013   3 / 0 / 0
    turned by up to 30 degrees          1.000  0.895  0.662  0.373   2 / 2 / 2
    make_folds' augment, all at once    0.114  0.048  0.004  0.000  52 / 1 / 0

The synthetic set's smooth skin gives false pairs up to 0.972, so 0.98 is taken for certain and 0.90 for suspected. **Copies
changed in every way at once are hardly found**: there names must tell.

Legend: N pictures, T templates of a picture, D = 99 coefficients.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.fft import dctn

CERTAIN, SUSPECTED = 0.98, 0.9  # likeness of one photograph: see the table above
THUMB, COEFFICIENTS = 32, 10  # pixels, and frequencies kept, a side
AXIS = np.arange(COEFFICIENTS, dtype=np.float32)
FREQUENCY = np.hypot(AXIS, AXIS[:, None])
ORDER = np.argsort(FREQUENCY, axis=None, kind="stable")[1:]  # lowest first, without the mean
HEAD, ROUNDING = 32, 1e-5  # coefficients that are enough to rule nearly all pairs out
CENTRE = (
    22  # pixels of the middle that turns are compared in: black corners would resemble each other
)
FULL = [(0, 1.0, 0.0, 0.0)] + [
    (0, z, x, y) for z in (0.92, 0.84, 0.76) for x in (-1, 0, 1) for y in (-1, 0, 1)
]
TURNED = [(angle, zoom, 0.0, 0.0) for angle in range(-30, 31, 10) for zoom in (0.85, 1.0, 1.15)]


def alike(
    left: np.ndarray, right: np.ndarray, threshold: float, block: int = 2048
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield positions in ``left``, in ``right``, and likeness of all pairs from ``threshold`` up, block by block.

    Args:
        left: uint8 (N, 32, 32) thumbnails, each tried in all its templates.
        right: uint8 (M, 32, 32) thumbnails.
        threshold: from 0 to 1.
        block: templates and thumbnails of a matrix product, which bounds the memory.
    """
    sides = [(shapes, cut, made, _bounding(made)) for shapes, cut, made in (
        (FULL, False, vectors(right)), (TURNED, True, vectors(_middle(right))),
    )]  # fmt: skip
    for start in range(0, len(left), max(1, block // 160)):
        part = left[start : start + max(1, block // 160)]
        best = np.full((len(part), len(right)), -1, np.float32)
        for shapes, cut, side, bounding in sides:
            made = templates(part, shapes, cut)  # (N, T, D)
            most = _bounding(made).reshape(-1, bounding.shape[1])
            for column in range(0, len(right), block):
                product = most @ bounding[column : column + block].T
                product = product.reshape(len(part), made.shape[1], -1).max(1)
                possible = product >= threshold - ROUNDING
                for row in np.flatnonzero(possible.any(1)):
                    columns = column + np.flatnonzero(possible[row])
                    best[row, columns] = np.maximum(
                        best[row, columns], (side[columns] @ made[row].T).max(1)
                    )
        rows, columns = np.nonzero(best >= threshold)
        yield rows + start, columns, best[rows, columns]


def _bounding(made: np.ndarray) -> np.ndarray:
    """Return float32 (…, HEAD + 1) from unit vectors (…, D); their products are no less than the vectors' own.

    What is left out of two vectors has a product of at most that of the lengths left out (Cauchy and Schwarz).
    """
    head = made[..., :HEAD]
    left_out = np.sqrt(np.maximum(0, 1 - np.square(head).sum(-1, keepdims=True)))
    return np.concatenate([head, left_out], -1)


def templates(
    thumbs: np.ndarray, shapes: Sequence[tuple[float, float, float, float]], cut: bool
) -> np.ndarray:
    """Return float32 (N, 8 * len(shapes), D): each thumbnail turned, cropped, then in its eight flips and quarter turns."""
    found = thumbs.reshape(len(thumbs), -1).astype(np.float32) @ _operator(tuple(shapes), cut)
    found = found.reshape(len(thumbs), len(shapes), COEFFICIENTS, COEFFICIENTS)
    odd = np.where(np.arange(COEFFICIENTS) % 2, -1, 1).astype(np.float32)
    flips = [found, found * odd, found * odd[:, None], found * odd * odd[:, None]]
    return _unit(np.concatenate([*flips, *(flip.swapaxes(-1, -2) for flip in flips)], 1))


def vectors(thumbs: np.ndarray) -> np.ndarray:
    """Return float32 (N, D) of unit length from uint8 (N, S, S); zeros for a picture of one colour."""
    parts = range(
        0, max(1, len(thumbs)), 4096
    )  # all at once would take ten times the memory of the thumbnails
    return np.concatenate([_unit(_coefficients(thumbs[i : i + 4096])) for i in parts])


@functools.cache
def _operator(shapes: tuple[tuple[float, float, float, float], ...], cut: bool) -> np.ndarray:
    """Return float32 (32 * 32, len(shapes) * 100): all that is done to a thumbnail before the flips is linear."""
    made = []
    for angle, zoom, x, y in shapes:
        half, radians = THUMB / 2, np.deg2rad(angle)
        cos, sin = zoom * np.cos(radians), zoom * np.sin(radians)
        row, column = np.mgrid[:THUMB, :THUMB] + 0.5 - half
        centre_x, centre_y = np.array([x, y]) * (1 - zoom) * half + half  # of the crop
        source = (
            sin * -column + cos * row + centre_y - 0.5,
            cos * column + sin * row + centre_x - 0.5,
        )
        changed = _bilinear(*source).reshape(-1, THUMB, THUMB)
        made.append(_coefficients(_middle(changed) if cut else changed).reshape(len(changed), -1))
    return np.concatenate(made, 1)


def _bilinear(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return float32 (32 * 32, positions): how much each pixel gives to each position; nothing gives beyond the border."""
    weights = np.zeros((THUMB * THUMB, row.size), np.float32)
    inside = (np.abs(row + 0.5 - THUMB / 2) <= THUMB / 2) & (
        np.abs(column + 0.5 - THUMB / 2) <= THUMB / 2
    )
    for di, dj in itertools.product((0, 1), (0, 1)):
        i, j = np.floor(row) + di, np.floor(column) + dj
        share = (1 - np.abs(row - i)) * (1 - np.abs(column - j)) * inside
        pixel = np.clip(i, 0, THUMB - 1) * THUMB + np.clip(j, 0, THUMB - 1)
        np.add.at(
            weights,
            (pixel.astype(int).ravel(), np.arange(row.size)),
            share.ravel().astype(np.float32),
        )
    return weights


def _middle(thumbs: np.ndarray) -> np.ndarray:
    margin = (THUMB - CENTRE) // 2
    return thumbs[:, margin:-margin, margin:-margin]


def _coefficients(thumbs: np.ndarray) -> np.ndarray:
    """Return float32 (N, 10, 10): low frequencies of (N, S, S), raised by their frequency, so that the mean is zero."""
    found = dctn(thumbs.astype(np.float32), axes=(1, 2), norm="ortho")[
        :, :COEFFICIENTS, :COEFFICIENTS
    ]
    return found * FREQUENCY


def _unit(found: np.ndarray) -> np.ndarray:
    flat = found.reshape(*found.shape[:-2], -1)[..., ORDER]
    length = np.linalg.norm(flat, axis=-1, keepdims=True)
    return np.divide(flat, length, out=np.zeros_like(flat), where=length > 1).astype(np.float32)
