"""Which pictures share a part: keypoints of one that lie in the other as one affine map puts them.

SIFT (Lowe 2004) by OpenCV describes what surrounds a keypoint; here each of its 128 numbers becomes
one bit, whether it is above their median, so that a picture takes 2 KB. Mirrored and negative
pictures have the same bits in another order. Candidates are pictures that share words, which are
some of a keypoint's bits, and are weighed as in text retrieval (Indyk and Motwani 1998; Sivic and
Zisserman 2003). RANSAC then counts the matches that one affine map explains.

Legend: N, M pictures; P keypoints of a picture; V = 4 variants; B = 128 bits; W words.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, vstack

# pixels of the longer side that keypoints are sought in; how many are kept, the strongest of each
# cell in turn, CELLS a side: letters on a picture would take all
SIDE, POINTS, CELLS = 160, 160, 6
KEYPOINT = np.dtype([("place", "u1", 2), ("bits", "u1", 16)])
# SIFT's least contrast: skin has little
CONTRAST = 0.005
# a word is 24 of a keypoint's bits, as each of 12 drawings picks them
READ = np.stack([np.random.default_rng(n).choice(128, 24, replace=False) for n in range(12)])
WORD_BITS, SPREAD = 22, np.uint64(0x9E3779B97F4A7C15)
# candidates of a picture that are looked at, and pictures of each side in a product
CANDIDATES, LEFT, RIGHT = 8, 2048, 512
# a match is nearer than RATIO times the second nearest, and lies within TOLERANCE pixels
RATIO, TOLERANCE = 0.85, 4.0
# matches that chance does not give: of 27,000 pairs of photographs and strangers' copies 156 have 5
# and 2 have 6; the likeness of 8 is CERTAIN, 1 - DOUBT / 8
LEAST, DOUBT = 7, 0.16
# how much larger, and how much wider than high, a copy may be than its original
MOST_ZOOM, MOST_STRETCH = 6.0, 2.0
# most of what they share covers that part of one of them at least
PART = 0.1
# order of the bits as seen by a picture, a mirrored one, a negative, and both
GRID = np.arange(128).reshape(4, 4, 8)
REVERSED = -np.arange(8) % 8
VARIANTS = np.stack([
    GRID, GRID[::-1][..., REVERSED], GRID[::-1, ::-1], GRID[:, ::-1][..., REVERSED],
]).reshape(4, 128)  # fmt: skip


def keypoints(pixels: np.ndarray) -> np.ndarray:
    """Return ``KEYPOINT`` (P,) of uint8 (height, width, 3); zeros where there are fewer."""
    # here, since it takes a while
    import cv2

    scale = SIDE / max(pixels.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    # SIFT takes none that are thinner
    size = [max(16, round(side * scale)) for side in pixels.shape[1::-1]]
    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), size, interpolation=way)
    # 0: as many as there are
    sift = cv2.SIFT.create(nfeatures=0, contrastThreshold=CONTRAST)
    points = sorted(sift.detect(grey), key=lambda point: -point.response)
    places = np.array([point.pt for point in points], np.float32).reshape(-1, 2)
    column, row = (places * CELLS / size).astype(int).T
    turn = pd.Series(row * CELLS + column).groupby(row * CELLS + column).cumcount()
    chosen = np.argsort(turn, kind="stable")[:POINTS]
    described, features = sift.compute(grey, [points[i] for i in chosen])

    kept = np.zeros(POINTS, KEYPOINT)
    if n := len(described):
        kept["place"][:n] = np.array([point.pt for point in described])
        above = features > np.median(features, axis=1, keepdims=True)
        kept["bits"][:n] = np.packbits(above, axis=1)
    return kept


def sharing(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Yield positions in ``left`` and ``right`` of pictures that share a part, and their likeness.

    ``left`` is ``KEYPOINT`` (N, P), and ``right`` (M, P).
    """
    score, place, variant = candidates(left, right)
    rows, columns = np.nonzero(score)
    pairs = place[rows, columns].tolist(), rows.tolist(), variant[rows, columns].tolist()
    with ThreadPoolExecutor() as pool:
        counts = pool.map(lambda i, j, v: matches(left[i], right[j], v), *pairs)
        for i, j, count in zip(*pairs[:2], counts, strict=True):
            if count:
                yield i, j, 1 - DOUBT / count


def candidates(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what of ``left`` may share a part with each on the right, (M, ``CANDIDATES``).

    They are scores (0: no candidate), positions in ``left``, and which of ``VARIANTS`` of the left
    picture is meant: those with the most words in common, weighed by their rarity.
    """
    best, place, variant = (np.zeros((len(right), CANDIDATES), dtype) for dtype in ("f4", int, int))
    for part in np.array_split(np.arange(len(left)), len(left) // LEFT + 1):
        n = len(part)
        by_word = vstack([_words(left[part], order) for order in VARIANTS]).T.tocsr()
        rarity = np.log((1 + 4 * n) / (1 + np.diff(by_word.indptr))).astype(np.float32)
        for start in range(0, len(right), RIGHT):
            rows = np.s_[start : start + RIGHT]
            words = _words(right[rows], VARIANTS[0])
            words.data = rarity[words.indices]
            found = (words @ by_word).toarray().reshape(-1, 4, n)
            score = found.max(1)
            known = (
                (best, score), (place, np.broadcast_to(part, score.shape)), (variant, found.argmax(1))
            )  # fmt: skip
            order = np.argsort(-np.hstack([best[rows], score]), kind="stable")[:, :CANDIDATES]
            for kept, new in known:
                kept[rows] = np.take_along_axis(np.hstack([kept[rows], new]), order, 1)
    return best, place, variant


def matches(left: np.ndarray, right: np.ndarray, variant: int) -> int:
    """Return how many keypoints of two pictures, ``KEYPOINT`` (P,), one affine map explains.

    The picture on the right is taken for one of ``VARIANTS`` of the left.
    """
    import cv2

    left, right = (side[side["bits"].any(-1)] for side in (left, right))
    if min(len(left), len(right)) < LEAST:
        return 0
    # different bits: (of the right, of the left)
    seen = np.packbits(np.unpackbits(right["bits"], axis=1)[:, VARIANTS[variant]], axis=1)
    ours, theirs = (np.ascontiguousarray(bits).view(np.uint64) for bits in (left["bits"], seen))
    halves = (np.bitwise_count(theirs[:, [half]] ^ ours[:, half]) for half in (0, 1))
    apart = next(halves) + next(halves)
    partner = apart.argmin(1)
    nearest, second = np.partition(apart, 1, axis=1)[:, :2].T
    mutual = apart.argmin(0)[partner] == np.arange(len(right))
    matched = mutual & (nearest < RATIO * second)
    if matched.sum() < LEAST:
        return 0

    source = left["place"][partner[matched]].astype(np.float32)
    target = right["place"][matched].astype(np.float32)
    affine, inliers = cv2.estimateAffine2D(
        source, target, ransacReprojThreshold=TOLERANCE, maxIters=500
    )
    if affine is None:
        return 0
    longest, shortest = np.linalg.svd(affine[:, :2])[1]
    if longest > MOST_ZOOM or shortest < 1 / MOST_ZOOM or longest > MOST_STRETCH * shortest:
        return 0
    agreeing = [side[inliers[:, 0] > 0] for side in (source, target)]
    # two photographs may bear the same mark
    most = [np.ptp(np.quantile(side, (0.1, 0.9), axis=0), axis=0).prod() for side in agreeing]
    if max(most) < PART * SIDE**2:
        return 0
    # keypoints at one place, of several sizes, say one thing
    count = min(len(np.unique(side // 4, axis=0)) for side in agreeing)
    return count if count >= LEAST else 0


def _words(pictures: np.ndarray, order: np.ndarray) -> csr_array:
    """Return which words pictures, ``KEYPOINT`` (N, P), have: float32, 0 or 1, sparse (N, W)."""
    rows, points = np.nonzero(pictures["bits"].any(-1))
    bits = np.unpackbits(pictures["bits"][rows, points], axis=1)[:, order]
    words = np.empty((len(rows), len(READ)), np.int32)
    for number, places in enumerate(READ):
        read = np.zeros((len(rows), 8), np.uint8)
        read[:, 0] = number
        read[:, 1:4] = np.packbits(bits[:, places], axis=1)
        # spread by a multiplication, whose upper bits are the word (Knuth, vol. 3, 6.4)
        words[:, number] = (read.view("<u8")[:, 0] * SPREAD) >> np.uint64(64 - WORD_BITS)
    ends = np.repeat(rows, len(READ)), words.ravel()
    found = csr_array((np.ones(words.size, np.float32), ends), (len(pictures), 2**WORD_BITS))
    found.sum_duplicates()
    found.data[:] = 1
    return found
