"""The metrics of one split, by torchmetrics, under the names that every result uses."""

import math
from collections.abc import Sequence

from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

CALIBRATION_BINS = 15


def classification_metrics(
    probabilities: Tensor, labels: Tensor, classes: Sequence[str]
) -> dict[str, float]:
    """Compute all metrics of a split at once.

    Precision, recall and F1 average over the classes that occur among labels or predictions (scikit-learn's
    ``zero_division=0``), balanced accuracy over those among the labels (``balanced_accuracy_score``). AUROC is one class
    against the rest; a class without positives or negatives has none, and the averages leave it out (torchmetrics'
    multiclass AUROC would count it as 0). ``ece`` is the expected calibration error over 15 equal bins (Guo et al. 2017).

    Args:
        probabilities: float (N, C), rows sum to 1.
        labels: int64 (N,).
        classes: C names.

    Returns:
        Values by name, those of one class as ``f1/<class>``, ``recall/<class>`` and ``auroc/<class>``; NaN where a value
        is not defined.
    """
    n_classes = len(classes)  # nothing is validated: that takes longer than computing
    predictions = probabilities.argmax(1)
    matrix = multiclass_confusion_matrix(
        predictions, labels, n_classes, validate_args=False
    ).double()
    hits, support, predicted = (
        matrix.diag(),
        matrix.sum(1),
        matrix.sum(0),
    )  # rows: true, columns: predicted
    scores = {
        "precision": hits / predicted.clamp(min=1),
        "recall": hits / support.clamp(min=1),
        "f1": 2 * hits / (support + predicted).clamp(min=1),
    }
    ece = multiclass_calibration_error(
        probabilities, labels, n_classes, CALIBRATION_BINS, validate_args=False
    )
    values = {
        "accuracy": hits.sum().item() / len(labels),
        "balanced_accuracy": scores["recall"][support > 0].mean().item(),
        "ece": ece.item(),
    }
    values |= {
        f"{name}_macro": score[support + predicted > 0].mean().item()
        for name, score in scores.items()
    }
    values |= {
        f"{name}_weighted": (score @ support / support.sum()).item()
        for name, score in scores.items()
    }
    auroc = [
        binary_auroc(probabilities[:, label], (labels == label).long(), validate_args=False).item()
        if 0 < n < len(labels)
        else math.nan
        for label, n in enumerate(support.tolist())
    ]
    defined = [
        (area, n) for area, n in zip(auroc, support.tolist(), strict=True) if not math.isnan(area)
    ]
    areas, weights = zip(*defined, strict=True) if defined else ((math.nan,), (1,))
    values["auroc_macro"] = sum(areas) / len(areas)
    values["auroc_weighted"] = sum(a * n for a, n in zip(areas, weights, strict=True)) / sum(
        weights
    )
    for label, name in enumerate(classes):
        values[f"f1/{name}"] = scores["f1"][label].item()
        values[f"recall/{name}"] = scores["recall"][label].item() if support[label] else math.nan
        values[f"auroc/{name}"] = auroc[label]
    return values
