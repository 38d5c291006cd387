"""Which pictures show the same photograph: equal, or alike after flips, turns and crops.

A picture is described by the low frequencies of its grey values (the coefficients of pHash), each
raised by its frequency, since photographs have little power there, and scaled to unit length;
likeness is the product of two such vectors. One side is compared in all its flips and quarter
turns, turned by up to 30 degrees, and cropped.

Measured on the 228 photographs of MSLD v1, each changed in each way (benchmarks/likeness.py): share
of copies found; and pairs of a copy and another patient's photograph, of 51,000, taken for one
picture. NM68 and NM110, two patients, are truly one picture: up to two in each row are right::

    likeness from                        0.80   0.90   0.95   0.98   false at 0.80 / 0.90 / 0.98
    re-encoded, halved, noise 5 %       1.000  1.000  1.000  1.000   8 / 2 / 2
    mirrored, quarter turn              1.000  1.000  1.000  1.000   8 / 2 / 2
    colour jitter 20 %                  1.000  1.000  1.000  1.000   7 / 2 / 2
    cropped to 90 %, anywhere           1.000  0.965  0.689  0.228   3 / 2 / 1
    cropped to 75 %, anywhere           0.491  0.162  0.057  0.013   3 / 0 / 0
    turned by up to 30 degrees          1.000  0.895  0.662  0.373   2 / 2 / 2
    make_folds' augment, all at once    0.114  0.048  0.004  0.000  52 / 1 / 0

The synthetic set's smooth skin gives false pairs up to 0.972, so 0.98 is taken for certain and 0.90
for suspected. Where lesions lie centred on pale skin, as in dermoscopy, most pictures resemble many
others: of 400 drawn so, 11,694 pairs are over 0.90. There a picture is held against its nearest
others and not against a fixed likeness: 83 pairs are left. Of the photographs' copies as many are
found as without it, but of those turned, whose black corners are alike, 0.912 for 0.925.

**Copies changed in every way at once are hardly found**: there names must tell.

Legend: N pictures, T templates of a picture, D = 99 coefficients.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.fft import dctn

# likeness of one photograph: see the table above
CERTAIN, SUSPECTED = 0.98, 0.9
# A picture that resembles those of so many other patients is featureless: it tells of those alone
# that are at a quarter of the last one's distance (1 - likeness), or equal but for their encoding.
MANY, SHARE, EQUAL = 5, 0.25, 0.995
# pixels, and frequencies used, a side
THUMB, COEFFICIENTS = 32, 10
AXIS = np.arange(COEFFICIENTS, dtype=np.float32)
FREQUENCY = np.hypot(AXIS, AXIS[:, None])
# lowest first, without the mean
ORDER = np.argsort(FREQUENCY, axis=None, kind="stable")[1:]
# coefficients that are enough to rule nearly all pairs out
HEAD, ROUNDING = 32, 1e-5
# the middle, 22 pixels a side, that turns are compared in: black corners would resemble each other
MIDDLE = np.s_[:, 5:-5, 5:-5]
# template: angle in degrees, zoom, and where the crop lies, from -1 to 1
Shape = tuple[float, float, float, float]
FULL = [(0, 1, 0, 0), *itertools.product([0], [0.92, 0.84, 0.76], [-1, 0, 1], [-1, 0, 1])]
TURNED = list(itertools.product(range(-30, 31, 10), [0.85, 1.0, 1.15], [0], [0]))


def alike(
    left: np.ndarray,
    right: np.ndarray,
    threshold: float,
    patients: tuple[np.ndarray, np.ndarray],
    block: int = 2048,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield positions in ``left``, in ``right``, and likeness of all pairs, block by block.

    ``left`` are uint8 (N, 32, 32) thumbnails, each tried in all its templates, and ``right``
    (M, 32, 32). A pair counts from a likeness of ``threshold``, or more where the left picture is
    featureless, which its and the others' ``patients``, int (N,) and (M,), tell. ``block`` bounds
    the memory: it is the number of templates and of thumbnails in a matrix product.
    """
    least = min(threshold, SUSPECTED)
    whole, middle = vectors(right), vectors(right[MIDDLE])
    sides = ((FULL, False, whole, _bounding(whole)), (TURNED, True, middle, _bounding(middle)))
    step = max(1, block // 160)
    for start in range(0, len(left), step):
        part = left[start : start + step]
        best = np.full((len(part), len(right)), -1, np.float32)

        for shapes, cut, targets, bounding in sides:
            # (N, T, D) and (N * T, HEAD + 1)
            sources = templates(part, shapes, cut)
            source_bounding = _bounding(sources).reshape(-1, bounding.shape[1])
            for column in range(0, len(right), block):
                bounds = source_bounding @ bounding[column : column + block].T
                bounds = bounds.reshape(len(part), sources.shape[1], -1).max(1)
                possible = bounds >= least - ROUNDING
                for row in np.flatnonzero(possible.any(1)):
                    columns = column + np.flatnonzero(possible[row])
                    likeness = (targets[columns] @ sources[row].T).max(1)
                    best[row, columns] = np.maximum(best[row, columns], likeness)

        telling = _nearest_that_tells(best, patients[0][start : start + step], patients[1])
        needed = np.maximum(np.float32(threshold), telling)
        rows, columns = np.nonzero(best >= needed[:, None])
        yield rows + start, columns, best[rows, columns]


def _nearest_that_tells(likeness: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return from which likeness, float (N,), pictures tell anything; 0 for all with features.

    ``likeness`` is float (N, M), ``left`` and ``right`` are the patients, int (N,) and (M,).
    """
    order = np.argsort(right, kind="stable")
    others, starts = np.unique(right[order], return_index=True)
    if len(others) < MANY:
        return np.zeros(len(left))
    by_patient = np.maximum.reduceat(likeness[:, order], starts, axis=1)
    by_patient[left[:, None] == others] = -1
    last = np.partition(by_patient, -MANY, axis=1)[:, -MANY]
    return np.where(last < SUSPECTED, 0, np.minimum(EQUAL, 1 - SHARE * (1 - last)))


def _bounding(units: np.ndarray) -> np.ndarray:
    """Return float32 (…, HEAD + 1) of unit vectors (…, D); products are no less than the vectors'.

    The parts left out have a product of at most that of their lengths (Cauchy and Schwarz).
    """
    head = units[..., :HEAD]
    left_out = np.sqrt(np.maximum(0, 1 - np.square(head).sum(-1, keepdims=True)))
    return np.concatenate([head, left_out], -1)


def templates(thumbs: np.ndarray, shapes: Sequence[Shape], cut: bool) -> np.ndarray:
    """Return float32 (N, 8 * len(shapes), D): turned, cropped, then all flips and quarter turns."""
    low = thumbs.reshape(len(thumbs), -1).astype(np.float32) @ _operator(tuple(shapes), cut)
    low = low.reshape(len(thumbs), len(shapes), COEFFICIENTS, COEFFICIENTS)
    odd = np.where(np.arange(COEFFICIENTS) % 2, -1, 1).astype(np.float32)
    flips = [low, low * odd, low * odd[:, None], low * odd * odd[:, None]]
    return _unit(np.concatenate([*flips, *(flip.swapaxes(-1, -2) for flip in flips)], 1))


def vectors(thumbs: np.ndarray) -> np.ndarray:
    """Return float32 (N, D), unit vectors of uint8 (N, S, S), or zeros for one colour."""
    # all at once would take ten times the memory of the thumbnails
    starts = range(0, len(thumbs), 4096)
    return np.concatenate([_unit(_coefficients(thumbs[i : i + 4096])) for i in starts])


@functools.cache
def _operator(shapes: tuple[Shape, ...], cut: bool) -> np.ndarray:
    """Return float32 (32 * 32, len(shapes) * 100): what is done before the flips is linear."""
    columns = []
    for angle, zoom, x, y in shapes:
        half, radians = THUMB / 2, np.deg2rad(angle)
        cos, sin = zoom * np.cos(radians), zoom * np.sin(radians)
        row, column = np.mgrid[:THUMB, :THUMB] + 0.5 - half
        crop_x, crop_y = np.array([x, y]) * (1 - zoom) * half + half
        source_row = sin * -column + cos * row + crop_y - 0.5
        source_column = cos * column + sin * row + crop_x - 0.5
        changed = _bilinear(source_row, source_column).reshape(-1, THUMB, THUMB)
        low = _coefficients(changed[MIDDLE] if cut else changed)
        columns.append(low.reshape(len(changed), -1))
    return np.concatenate(columns, 1)


def _bilinear(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return float32 (32 * 32, positions): what each pixel gives to positions within the border."""
    weights = np.zeros((THUMB * THUMB, row.size), np.float32)
    half = THUMB / 2
    inside = (np.abs(row + 0.5 - half) <= half) & (np.abs(column + 0.5 - half) <= half)
    for di, dj in itertools.product((0, 1), (0, 1)):
        i, j = np.floor(row) + di, np.floor(column) + dj
        share = (1 - np.abs(row - i)) * (1 - np.abs(column - j)) * inside
        pixel = np.clip(i, 0, THUMB - 1) * THUMB + np.clip(j, 0, THUMB - 1)
        places = pixel.astype(int).ravel(), np.arange(row.size)
        np.add.at(weights, places, share.ravel().astype(np.float32))
    return weights


def _coefficients(thumbs: np.ndarray) -> np.ndarray:
    """Return float32 (N, 10, 10) of (N, S, S): low frequencies, raised by it: the mean is zero."""
    spectrum = dctn(thumbs.astype(np.float32), axes=(1, 2), norm="ortho")
    return spectrum[:, :COEFFICIENTS, :COEFFICIENTS] * FREQUENCY


def _unit(low: np.ndarray) -> np.ndarray:
    flat = low.reshape(*low.shape[:-2], -1)[..., ORDER]
    length = np.linalg.norm(flat, axis=-1, keepdims=True)
    return np.divide(flat, length, out=np.zeros_like(flat), where=length > 1).astype(np.float32)
