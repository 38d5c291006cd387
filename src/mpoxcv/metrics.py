"""The metrics of one split, by torchmetrics, under the names that every result uses."""

import math
from collections.abc import Sequence

from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

CALIBRATION_BINS = 15


def classification_metrics(probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, float]:
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
    n_classes = len(classes)
    predictions = probabilities.argmax(1)  # nothing is validated: that takes longer than computing
    matrix = multiclass_confusion_matrix(
        predictions, labels, n_classes, validate_args=False
    )  # rows: true, columns: predicted
    support = matrix.sum(1)
    recall = multiclass_recall(predictions, labels, n_classes, average="none", validate_args=False)
    f1 = multiclass_f1_score(predictions, labels, n_classes, average="none", validate_args=False)
    values = {
        "accuracy": matrix.diag().sum().item() / len(labels),
        "balanced_accuracy": recall[support > 0].mean().item(),
        "ece": multiclass_calibration_error(
            probabilities, labels, n_classes, CALIBRATION_BINS, validate_args=False
        ).item(),
    }
    for average in ("macro", "weighted"):
        for name, metric in (
            ("precision", multiclass_precision),
            ("recall", multiclass_recall),
            ("f1", multiclass_f1_score),
        ):
            values[f"{name}_{average}"] = metric(
                predictions, labels, n_classes, average=average, validate_args=False
            ).item()
    auroc = [
        binary_auroc(probabilities[:, label], (labels == label).long(), validate_args=False).item()
        if 0 < n < len(labels)
        else math.nan
        for label, n in enumerate(support.tolist())
    ]
    defined = [(area, n) for area, n in zip(auroc, support.tolist(), strict=True) if not math.isnan(area)]
    areas, weights = zip(*defined, strict=True) if defined else ((math.nan,), (1,))
    values["auroc_macro"] = sum(areas) / len(areas)
    values["auroc_weighted"] = sum(a * n for a, n in zip(areas, weights, strict=True)) / sum(weights)
    for label, name in enumerate(classes):
        values[f"f1/{name}"] = f1[label].item()
        values[f"recall/{name}"] = recall[label].item() if support[label] else math.nan
        values[f"auroc/{name}"] = auroc[label]
    return values
