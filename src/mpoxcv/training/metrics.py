"""The metrics of one split, by torchmetrics, under the names that every result uses.

A report computes its own of all pictures together, with weights: ``mpoxcv.evaluation.statistics``.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics import classification as tm
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities import dim_zero_cat

CALIBRATION_BINS = 15
# torchmetrics counts in float32: what follows is noise, and would choose between equal epochs
DECIMALS = 7
# what is reported, in the order of metrics.json and learning_curves.csv
NAMES = (
    "accuracy", "balanced_accuracy", "ece", "precision_macro", "recall_macro", "f1_macro",
    "precision_weighted", "recall_weighted", "f1_weighted", "auroc_macro", "auroc_weighted",
)  # fmt: skip


def classification_metrics(
    probabilities: Tensor, labels: Tensor, classes: Sequence[str]
) -> dict[str, float]:
    """Compute all metrics of a split at once.

    Precision, recall and F1 average over the classes that occur among labels or predictions
    (scikit-learn's ``zero_division=0``), balanced accuracy over those among the labels
    (``balanced_accuracy_score``). AUROC is one class against the rest; a class without positives or
    negatives has none, and the averages leave it out. ``ece`` is the expected calibration error
    over 15 equal bins (Guo et al. 2017).

    Args:
        probabilities: float (N, C), rows sum to 1.
        labels: int64 (N,).
        classes: C names.

    Returns:
        Values by name, those of one class as ``f1/<class>``, ``recall/<class>`` and
        ``auroc/<class>``; NaN where a value is not defined.
    """
    collection = split_metrics(len(classes))
    collection.update(probabilities, labels)
    computed = collection.compute()
    collection.reset()

    by_class = {name: computed.pop(name).double() for name in ("f1", "recall", "auroc")}
    support = torch.bincount(labels, minlength=len(classes))
    # torchmetrics' recall of a class that no label has is 0
    by_class["recall"][support == 0] = math.nan
    areas = by_class["auroc"]
    computed["balanced_accuracy"] = by_class["recall"].nanmean()
    computed["auroc_macro"] = areas.nanmean()
    computed["auroc_weighted"] = (areas * support).nansum() / support[~areas.isnan()].sum()

    values = {name: computed[name].item() for name in NAMES}
    for label, name in enumerate(classes):
        values |= {f"{metric}/{name}": by_class[metric][label].item() for metric in by_class}
    return {name: round(value, DECIMALS) for name, value in values.items()}


@functools.cache
def split_metrics(num_classes: int) -> MetricCollection:
    """Return the collection that is updated with a whole split, of all processes together."""
    # validating takes longer than computing; the split has been gathered already
    options: Any = {"num_classes": num_classes, "validate_args": False, "sync_on_compute": False}
    metrics: dict[str, Metric | MetricCollection] = {
        "accuracy": tm.MulticlassAccuracy(average="micro", **options),
        "ece": tm.MulticlassCalibrationError(n_bins=CALIBRATION_BINS, **options),
        "auroc": AUROCByClass(average="none", **options),
        "f1": tm.MulticlassF1Score(average="none", **options),
        "recall": tm.MulticlassRecall(average="none", **options),
    }
    for average in ("macro", "weighted"):
        metrics |= {
            f"precision_{average}": tm.MulticlassPrecision(average=average, **options),
            f"recall_{average}": tm.MulticlassRecall(average=average, **options),
            f"f1_{average}": tm.MulticlassF1Score(average=average, **options),
        }
    return MetricCollection(metrics)


class AUROCByClass(tm.MulticlassAUROC):
    """AUROC of each class against the rest, (C,); NaN where torchmetrics would warn and say 0."""

    def compute(self) -> Tensor:  # type: ignore[override]  # noqa: D102
        scores, labels = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        areas = []
        for label in range(self.num_classes):
            positive = (labels == label).long()
            if 0 < positive.sum() < len(labels):
                areas.append(binary_auroc(scores[:, label], positive, validate_args=False))
            else:
                areas.append(scores.new_tensor(math.nan))
        return torch.stack(areas)
