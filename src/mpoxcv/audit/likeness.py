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

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
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
    block: int = 256,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield positions in ``left``, in ``right``, and likeness of all pairs, block by block.

    ``left`` are uint8 (N, 32, 32) thumbnails, each tried in all its templates, and ``right``
    (M, 32, 32). A pair counts from a likeness of ``threshold``, or more where the left picture is
    featureless, which its and the others' ``patients``, (N,) and (M,) of any type that sorts, tell.
    ``block`` bounds the memory: it is the number of left pictures in a matrix product.
    """
    sides = ((FULL, False, vectors(right)), (TURNED, True, vectors(right[MIDDLE])))
    for start in range(0, len(left), block):
        part = left[start : start + block]
        best = np.full((len(part), len(right)), -1, np.float32)
        for shapes, cut, targets in sides:
            for sources in templates(part, shapes, cut).swapaxes(0, 1):
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
    return np.where(last < SUSPECTED, 0, np.minimum(EQUAL, 1 - SHARE * (1 - last)))


def templates(thumbs: np.ndarray, shapes: Sequence[Shape], cut: bool) -> np.ndarray:
    """Return float32 (N, 8 * len(shapes), D): turned, cropped, then all flips and quarter turns."""
    images = map(Image.fromarray, thumbs.astype(np.float32))
    changed = np.stack([_changed(image, *shape) for image in images for shape in shapes])
    low = _coefficients(changed[MIDDLE] if cut else changed)
    low = low.reshape(len(thumbs), len(shapes), COEFFICIENTS, COEFFICIENTS)
    odd = np.where(np.arange(COEFFICIENTS) % 2, -1, 1).astype(np.float32)
    flips = [low, low * odd, low * odd[:, None], low * odd * odd[:, None]]
    return _unit(np.concatenate([*flips, *(flip.swapaxes(-1, -2) for flip in flips)], 1))


def vectors(thumbs: np.ndarray) -> np.ndarray:
    """Return float32 (N, D), unit vectors of uint8 (N, S, S), or zeros for one colour."""
    # all at once would take ten times the memory of the thumbnails
    starts = range(0, len(thumbs), 4096)
    return np.concatenate([_unit(_coefficients(thumbs[i : i + 4096])) for i in starts])


def _changed(image: Image.Image, angle: float, zoom: float, x: float, y: float) -> np.ndarray:
    """Return float32 (32, 32): turned and enlarged, bilinearly, black beyond the border."""
    half, radians = THUMB / 2, np.deg2rad(angle)
    cos, sin = zoom * np.cos(radians), zoom * np.sin(radians)
    left, top = (half + half * (1 - zoom) * place for place in (x, y))
    source = (cos, sin, left - half * (cos + sin), -sin, cos, top - half * (cos - sin))
    bilinear = Image.Resampling.BILINEAR
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, source, bilinear))


def _coefficients(thumbs: np.ndarray) -> np.ndarray:
    """Return float32 (N, 10, 10) of (N, S, S): low frequencies, raised by it: the mean is zero."""
    spectrum = dctn(thumbs.astype(np.float32), axes=(1, 2), norm="ortho")
    return spectrum[:, :COEFFICIENTS, :COEFFICIENTS] * FREQUENCY


def _unit(low: np.ndarray) -> np.ndarray:
    flat = low.reshape(*low.shape[:-2], -1)[..., ORDER]
    length = np.linalg.norm(flat, axis=-1, keepdims=True)
    return np.divide(flat, length, out=np.zeros_like(flat), where=length > 1).astype(np.float32)
