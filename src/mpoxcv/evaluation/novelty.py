"""How unlike all training pictures a picture is, by a network's own features.

The distance to the k-th nearest of the training pictures' features, all of length one (Sun et al.
2022, Out-of-distribution detection with deep nearest neighbors).

Legend: N pictures, M training pictures, D features.
"""

import numpy as np

NEIGHBOUR = 5
# of skin like Valid's, the share that is called unlike
FALSE_ALARMS = 0.05


def normalised(features: np.ndarray) -> np.ndarray:
    """Return features (N, D) of length one, float32."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def distances(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return each picture's distance to its k-th nearest training picture, float64 (N,), 0 to 2.

    Args:
        features: float (N, D).
        reference: float (M, D), of length one.
    """
    cosines = normalised(features) @ np.asarray(reference, np.float32).T
    k = min(NEIGHBOUR, cosines.shape[1])
    nearest = np.partition(cosines, -k, axis=1)[:, -k].astype(float)
    return np.sqrt(np.maximum(2 - 2 * nearest, 0))


def threshold(of_valid: np.ndarray) -> float:
    """Return the distance above which a picture is called unlike those of Train.

    The smallest that at most ``FALSE_ALARMS`` of Valid's pictures exceed.
    """
    return float(np.quantile(of_valid, 1 - FALSE_ALARMS, method="higher"))
