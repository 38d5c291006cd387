"""The metrics of one split, under the names that every result uses."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from mpoxcv.evaluation import statistics as st

# float noise beyond them would choose between equal epochs
DECIMALS = 7
# what is reported, in the order of metrics.json and learning_curves.csv
NAMES = (
    "accuracy", "balanced_accuracy", "ece", "precision_macro", "recall_macro", "f1_macro",
    "precision_weighted", "recall_weighted", "f1_weighted", "auroc_macro", "auroc_weighted",
)  # fmt: skip


def classification_metrics(
    probabilities: Tensor, labels: Tensor, classes: Sequence[str]
) -> dict[str, float]:
    """Compute all metrics of a split at once, as :func:`mpoxcv.evaluation.statistics.scores`.

    Args:
        probabilities: float (N, C), rows sum to 1.
        labels: int64 (N,).
        classes: C names.

    Returns:
        Values by name, those of one class as ``f1/<class>``, ``recall/<class>`` and
        ``auroc/<class>``; NaN where a value is not defined, but an F1 of 0/0 is 0.
    """
    truth, given, once = (
        labels.cpu().numpy(),
        probabilities.cpu().numpy(),
        np.ones((1, len(labels))),
    )
    by_class = st.per_class(truth, given, once)
    scores = st.scores(truth, given, once, by_class)
    by_class["f1"] = np.nan_to_num(by_class["f1"])
    values = {name: float(scores[name][0]) for name in NAMES}
    for label, name in enumerate(classes):
        for metric in ("f1", "recall", "auroc"):
            values[f"{metric}/{name}"] = float(by_class[metric][0, label])
    return {name: round(value, DECIMALS) for name, value in values.items()}
