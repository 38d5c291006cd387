"""Metrics under bootstrap weights, intervals and tests: all that a report states.

Legend: N rows (scored pictures), C classes, R bootstrap replicates. Unless a function says more:
``labels`` and ``predicted`` are int (N,), from 0 to C - 1; ``probabilities`` are float (N, C), rows
sum to 1; ``weights`` are float (R, N), not negative: how often each picture counts in a replicate.

``np.ones((1, N))`` gives the plain scores. What is compared must share its weights: with the same
(R, N) for two models, the interval of the difference of their scores is the paired bootstrap's.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

METRICS = (
    *("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro"),
    *("precision_weighted", "recall_weighted", "f1_weighted", "auroc_macro", "auroc_weighted"),
    *("ece", "brier", "log_loss"),
)
CALIBRATION_BINS = 15
LOG_LOSS_CLIP = 1e-15
# weights of the areas at a time: as many as the processor keeps near
BLOCK = 2**18
Floats = NDArray[np.float64]


def scores(
    labels: ArrayLike,
    probabilities: ArrayLike,
    weights: Floats,
    by_class: Mapping[str, Floats] | None = None,
) -> dict[str, Floats]:
    """Compute every metric of ``METRICS``, from ``by_class`` where :func:`per_class` gave it.

    Precision, recall and F1 average over the classes that occur among the replicate's labels or
    predictions (scikit-learn's ``zero_division=0``), balanced accuracy over those among its labels,
    AUROC over the classes with positives and negatives. The last three are :func:`calibration`'s.
    Each metric is float64 (R,); NaN where a replicate leaves it undefined.
    """
    by_class = by_class or per_class(labels, probabilities, weights)
    support, auroc = by_class["support"], by_class["auroc"]
    occurs = support + by_class["called"] > 0
    values = {"balanced_accuracy": _average(by_class["recall"], support > 0)}
    for name in ("precision", "recall", "f1"):
        values[f"{name}_macro"] = _average(np.nan_to_num(by_class[name]), occurs)
        values[f"{name}_weighted"] = _average(np.nan_to_num(by_class[name]), support)
    values |= {
        "accuracy": values["recall_weighted"],
        "auroc_macro": _average(auroc, ~np.isnan(auroc)),
        "auroc_weighted": _average(auroc, np.where(np.isnan(auroc), 0, support)),
    } | calibration(labels, probabilities, weights)
    return {name: values[name] for name in METRICS}


def calibration(labels: ArrayLike, probabilities: ArrayLike, weights: Floats) -> dict[str, Floats]:
    """Compute ``ece``, ``brier`` and ``log_loss``, float64 (R,) each.

    ``ece``: expected calibration error over 15 equal bins of the top probability (Guo et al. 2017).
    ``brier``: squared error summed over the classes, from 0 to 2 (Brier 1950). ``log_loss``:
    natural logarithm, in nats, of probabilities clipped at 1e-15.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, float)
    predicted, total = probabilities.argmax(1), weights.sum(1)
    confidence = probabilities.max(1)
    bins = _one_hot(confidence_bins(confidence), CALIBRATION_BINS + 1)
    gaps = bins * (confidence - (predicted == labels))[:, None]
    squared_errors = ((probabilities - _one_hot(labels, probabilities.shape[1])) ** 2).sum(1)
    of_truth = probabilities[np.arange(len(labels)), labels]
    log_losses = -np.log(np.clip(of_truth, LOG_LOSS_CLIP, 1))
    return {
        "ece": _ratio(np.abs(weights @ gaps).sum(1), total),
        "brier": _ratio(weights @ squared_errors, total),
        "log_loss": _ratio(weights @ log_losses, total),
    }


def confidence_bins(confidence: ArrayLike) -> NDArray[np.int64]:
    """Return top probabilities' bins, int (N,), as torchmetrics: [low, high), 1 for itself."""
    # float32 as the network gave it
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1, dtype=np.float32)
    return np.searchsorted(edges, np.asarray(confidence, np.float32), side="right") - 1


def per_class(
    labels: ArrayLike, probabilities: ArrayLike, weights: Floats, runs: ArrayLike | None = None
) -> dict[str, Floats]:
    """Compute the metrics of each class against the rest; the likeliest class is the prediction.

    AUROC is the Mann-Whitney statistic (Hanley and McNeil 1982); average precision sums precision
    over the steps of recall, without interpolation, as scikit-learn does. Both rank pictures by the
    scores of one network alone: ``runs`` (N,) says whose each row is, and they are averaged over
    the networks (Parker et al. 2007; Airola et al. 2010). With them come ``support`` and ``called``
    (weighted numbers of labels and predictions), ``recall`` (sensitivity), ``specificity``,
    ``precision`` (PPV), ``npv`` and ``f1``, each float64 (R, C); NaN where undefined: 0/0, AUROC
    without positives or negatives, average precision without positives.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, float)
    matrix = confusion(labels, probabilities.argmax(1), probabilities.shape[1], weights)
    support, called = matrix.sum(2), matrix.sum(1)
    tp = np.diagonal(matrix, axis1=1, axis2=2)
    # sums over the other classes: a total minus one may miss 0 by rounding
    others = 1 - np.eye(probabilities.shape[1])
    tn = ((matrix @ others) * others).sum(1)

    names = np.zeros(len(labels)) if runs is None else np.asarray(runs)
    networks = [names == name for name in np.unique(names)]
    areas = [_areas(labels[own], probabilities[own], weights[:, own]) for own in networks]
    defined = (~np.isnan(areas)).sum(0)
    auroc, average_precision = _ratio(np.nansum(areas, axis=0), defined)
    return {
        "support": support,
        "called": called,
        "recall": _ratio(tp, support),
        "specificity": _ratio(tn, support @ others),
        "precision": _ratio(tp, called),
        "npv": _ratio(tn, called @ others),
        "f1": _ratio(2 * tp, support + called),
        "auroc": auroc,
        "average_precision": average_precision,
    }


def confusion(labels: ArrayLike, predicted: ArrayLike, classes: int, weights: ArrayLike) -> Floats:
    """Sum the weights by label (rows) and prediction (columns): float64 (R, C, C)."""
    cells = np.asarray(labels) * classes + np.asarray(predicted)
    sums = np.asarray(weights, float) @ _one_hot(cells, classes**2)
    return sums.reshape(-1, classes, classes)


def binary(labels: ArrayLike, flagged: ArrayLike, weights: ArrayLike) -> dict[str, Floats]:
    """Compute ``sensitivity``, ``specificity``, ``ppv`` and ``npv`` of a yes-or-no test.

    ``labels`` are bool (N,), who has the disease; ``flagged`` bool (N,), whom the test calls
    positive. Each rate is float64 (R,); NaN for 0/0.
    """
    matrix = confusion(np.asarray(labels, int), np.asarray(flagged, int), 2, weights)
    (tn, fp), (fn, tp) = np.moveaxis(matrix, 0, -1)
    rates = {"sensitivity": (tp, fn), "specificity": (tn, fp), "ppv": (tp, fp), "npv": (tn, fn)}
    return {name: _ratio(right, right + wrong) for name, (right, wrong) in rates.items()}


def youden_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the threshold of ``score >= threshold`` with the largest J (Youden 1950).

    J is sensitivity + specificity - 1. ``labels`` are bool (N,), of a validation set: on the same
    pictures the threshold is optimistic; ``scores`` are float (N,), finite. The threshold is one of
    these; of equally good ones the middle (of an even number, the lower). NaN without positives or
    negatives.
    """
    labels = np.asarray(labels, bool)
    scores = np.asarray(scores, float)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return math.nan

    candidates = np.unique(scores)
    tp = positives - np.searchsorted(np.sort(scores[labels]), candidates)
    fp = negatives - np.searchsorted(np.sort(scores[~labels]), candidates)
    # J times positives * negatives: whole numbers, so ties are exact
    index = tp * negatives - fp * positives
    best = candidates[index == index.max()]
    return float(best[(len(best) - 1) // 2])


def patient_bootstrap(
    patients: ArrayLike, weights: ArrayLike, replicates: int = 2000, seed: int = 0
) -> Floats:
    """Draw patients with replacement, each with all pictures.

    The pictures of a patient resemble each other, so drawing pictures would give intervals that are
    too narrow (Field and Welsh 2007; Bouwmeester et al. 2013). The models stay as they are: the
    variance of training them is left out (Bates et al. 2023).

    ``patients`` (N,) are those of the pictures, of any type that sorts, ``weights``, float (N,),
    how much each picture counts before the draw. The draws hang on ``seed`` and the number of
    patients alone. Returns float64 (R, N): the weights times how often the patient was drawn.
    """
    names, rows = np.unique(np.asarray(patients), return_inverse=True)
    chances = np.full(len(names), 1 / len(names))
    draws = np.random.default_rng(seed).multinomial(len(names), chances, replicates)
    return draws[:, rows] * np.asarray(weights, float)


def percentile_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval (Efron 1979) of replicates, float (R,), leaving NaN out."""
    replicates = np.asarray(values, float)
    if np.isnan(replicates).all():
        return math.nan, math.nan
    low, high = np.nanquantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def temperature(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Find the T with the least log loss of ``softmax(log(p) / T)`` on a validation set.

    It is over 1 where the network is overconfident (Guo et al. 2017), and stays within 0.01 and
    100: a network without mistakes would have 0, one worse than chance infinity.
    """
    logits = _logits(probabilities)
    cells = (np.arange(len(logits)), np.asarray(labels))

    def loss(log_t: float) -> float:
        return -float(special.log_softmax(logits / math.exp(log_t), axis=1)[cells].mean())

    # The loss is convex in 1/T, so it has one minimum in log T as well.
    search = {"bounds": (math.log(0.01), math.log(100)), "options": {"xatol": 1e-8}}
    return math.exp(optimize.minimize_scalar(loss, method="bounded", **search).x)


def apply_temperature(probabilities: ArrayLike, temperature: float) -> Floats:
    """Return ``softmax(log(p) / T)`` of probabilities, float (N, C); 1 gives them back."""
    return special.softmax(_logits(probabilities) / temperature, axis=1)


def corrected_resampled_t(values: ArrayLike, test_train_ratio: float) -> tuple[float, float]:
    """Return t and the two-sided p that a mean over folds is 0, by the corrected resampled t-test.

    The folds share training pictures, so the variance of the mean is ``s² (1/k + n_test/n_train)``
    in place of ``s²/k`` (Nadeau and Bengio 2003). Equal differences have t = ±inf and p = 0, or
    t = NaN and p = 1 if all are 0. Of one fold both are NaN.

    ``values``, float (k,), are one score of model A minus that of model B in each fold,
    ``test_train_ratio`` is the sum of n_test over the sum of n_train, pictures without copies; 0
    gives the plain paired t.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return math.nan, math.nan
    t = float(_ratio(values.mean(), _resampled_error(values, test_train_ratio)))
    return t, 1.0 if math.isnan(t) else 2 * float(stats.t.sf(abs(t), len(values) - 1))


def resampled_interval(
    values: ArrayLike, test_train_ratio: float, level: float = 0.95
) -> tuple[float, float]:
    """Return the mean over folds and half its interval, by the test of the same arguments.

    A score's interval holds for the training procedure, not for the networks at hand; half that of
    a difference is the smallest mean difference that the test would call one. NaN of one fold.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), math.nan
    times = stats.t.ppf((1 + level) / 2, len(values) - 1)
    return float(values.mean()), float(times * _resampled_error(values, test_train_ratio))


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p-values, float (k,), for their number, by the step-down method of Holm (1979).

    A NaN stays NaN, and counts as a comparison that was made.
    """
    p = np.asarray(p_values, float)
    # NaN last
    order = p.argsort()
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return adjusted


def variance_components(table: ArrayLike) -> dict[str, float]:
    """Split the spread of scores, float (folds, seeds), into that of folds, seeds and the rest.

    Two-way random effects by the method of moments; negative estimates become 0 (Searle, Casella
    and McCulloch 1992). Returns standard deviations in the unit of the scores: ``fold``, ``seed``
    and ``residual`` (what a seed does in one fold and not in another). The table has no gaps, and
    at least 2 folds and 2 seeds.
    """
    values = np.asarray(table, float)
    folds, seeds = values.shape
    fold_means, seed_means = values.mean(1), values.mean(0)
    rest = values - fold_means[:, None] - seed_means + values.mean()
    residual = (rest**2).sum() / ((folds - 1) * (seeds - 1))
    # The means carry the residual's variance too, divided by how many scores they average.
    fold = fold_means.var(ddof=1) - residual / seeds
    seed = seed_means.var(ddof=1) - residual / folds
    variances = {"fold": fold, "seed": seed, "residual": residual}
    return {name: max(float(variance), 0.0) ** 0.5 for name, variance in variances.items()}


def _resampled_error(values: Floats, test_train_ratio: float) -> float:
    # ptp, for the rounding of the mean would give equal differences a tiny variance
    spread = values.var(ddof=1) if np.ptp(values) else 0.0
    return math.sqrt(spread * (1 / len(values) + test_train_ratio))


def _one_hot(codes: NDArray, n: int) -> Floats:
    return (codes[:, None] == np.arange(n)).astype(float)


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(numerator, denominator)


def _average(values: Floats, weights: NDArray) -> Floats:
    # A class of weight 0 may be NaN.
    return _ratio((np.where(weights > 0, values, 0) * weights).sum(1), weights.sum(1))


def _areas(labels: NDArray, probabilities: Floats, weights: Floats) -> Floats:
    """Return AUROC and average precision of one network, (2, R, C)."""
    areas = np.empty((2, len(weights), probabilities.shape[1]))
    step = max(1, BLOCK // len(labels))
    for label, p in enumerate(probabilities.T):
        # likeliest first, and the last of each score
        order = np.argsort(-p, kind="stable")
        ends = np.flatnonzero(np.diff(p[order], append=np.nan))
        positive = (labels == label)[order]
        for start in range(0, len(weights), step):
            block = slice(start, start + step)
            drawn = weights[block, order]
            hits = (drawn * positive).cumsum(1)[:, ends]
            alarms = (drawn * ~positive).cumsum(1)[:, ends]
            new_hits, new_alarms = (np.diff(sums, prepend=0) for sums in (hits, alarms))
            # a tie wins half
            won = (new_alarms * (hits - new_hits / 2)).sum(1)
            precision = np.nan_to_num(_ratio(hits, hits + alarms))
            areas[0, block, label] = _ratio(won, hits[:, -1] * alarms[:, -1])
            areas[1, block, label] = _ratio((new_hits * precision).sum(1), hits[:, -1])
    return areas


def _logits(probabilities: ArrayLike) -> Floats:
    # Zeros as the smallest float32, in which networks compute: it changes no larger one's logit.
    return np.log(np.maximum(np.asarray(probabilities, float), np.finfo(np.float32).tiny))
