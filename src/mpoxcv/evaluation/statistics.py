"""Metrics under bootstrap weights, intervals and tests: everything a report states besides the plain scores.

N: rows (scored pictures), C: classes, R: bootstrap replicates. A replicate is a row of weights, how often each picture
counts; ``np.ones((1, N))`` gives the plain scores. What is compared must share its weights: with the same (R, N) for two
models, the interval of the difference of their scores is the paired bootstrap's.
"""

import math
from dataclasses import dataclass

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
BLOCK = 2**18  # weights of the areas at a time: as many as the processor keeps near
Floats = NDArray[np.float64]


def scores(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike) -> dict[str, Floats]:
    """Compute every metric of ``METRICS`` for all replicates at once, by the definitions of ``mpoxcv.training.metrics``.

    Precision, recall and F1 average over the classes that occur among the replicate's labels or predictions, balanced
    accuracy over those among its labels, AUROC (one class against the rest) over the classes with positives and
    negatives. ``ece``: expected calibration error over 15 equal bins of the top probability (Guo et al. 2017).
    ``brier``: squared error summed over the classes, from 0 to 2 (Brier 1950). ``log_loss``: natural logarithm, in nats,
    of probabilities clipped at 1e-15.

    Args:
        labels: int (N,), from 0 to C - 1.
        probabilities: float (N, C), rows sum to 1.
        weights: float (R, N), not negative.

    Returns:
        Each metric, float64 (R,); NaN where a replicate leaves it undefined.
    """
    labels, probabilities, weights = (
        np.asarray(labels),
        np.asarray(probabilities, float),
        np.asarray(weights, float),
    )
    n_classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    total = weights.sum(1)
    counts = _counts(confusion(labels, predicted, n_classes, weights))
    support, occurs = counts["support"], counts["support"] + counts["predicted"] > 0
    values = {
        "accuracy": _ratio(counts["tp"].sum(1), total),
        "balanced_accuracy": _average(_ratio(counts["tp"], support), support > 0),
    }
    for name, value in _rates(counts).items():
        values[f"{name}_macro"] = _average(np.nan_to_num(value), occurs)
        values[f"{name}_weighted"] = _average(np.nan_to_num(value), support)
    auroc, _ = _areas(labels, probabilities, weights)
    values["auroc_macro"] = _average(auroc, ~np.isnan(auroc))
    values["auroc_weighted"] = _average(auroc, np.where(np.isnan(auroc), 0, support))

    confidence = probabilities[np.arange(len(labels)), predicted]
    gaps = (
        _one_hot(confidence_bins(confidence), CALIBRATION_BINS + 1)
        * (confidence - (predicted == labels))[:, None]
    )
    values["ece"] = _ratio(np.abs(weights @ gaps).sum(1), total)
    values["brier"] = _ratio(
        weights @ ((probabilities - _one_hot(labels, n_classes)) ** 2).sum(1), total
    )
    true_probability = probabilities[np.arange(len(labels)), labels]
    values["log_loss"] = _ratio(
        weights @ -np.log(np.clip(true_probability, LOG_LOSS_CLIP, 1)), total
    )
    return {name: values[name] for name in METRICS}


def confidence_bins(confidence: ArrayLike) -> NDArray[np.int64]:
    """Return each top probability's bin, int (N,), as torchmetrics has it: [low, high), and 1 for itself."""
    edges = np.linspace(
        0, 1, CALIBRATION_BINS + 1, dtype=np.float32
    )  # float32 as the network gave it
    return np.searchsorted(edges, np.asarray(confidence, np.float32), side="right") - 1


def per_class(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike) -> dict[str, Floats]:
    """Compute the metrics of each class against the rest, for all replicates at once.

    AUROC is the Mann-Whitney statistic (Hanley and McNeil 1982); average precision sums precision over the steps of
    recall, without interpolation, as scikit-learn does.

    Args:
        labels: int (N,), from 0 to C - 1.
        probabilities: float (N, C); the class with the highest is the prediction.
        weights: float (R, N), not negative.

    Returns:
        ``support`` (weighted number of labels), ``recall`` (sensitivity), ``specificity``, ``precision`` (PPV), ``npv``,
        ``f1``, ``auroc`` and ``average_precision``, each float64 (R, C); NaN where undefined: 0/0, AUROC without
        positives or negatives, average precision without positives.
    """
    labels, probabilities, weights = (
        np.asarray(labels),
        np.asarray(probabilities, float),
        np.asarray(weights, float),
    )
    counts = _counts(confusion(labels, probabilities.argmax(1), probabilities.shape[1], weights))
    auroc, average_precision = _areas(labels, probabilities, weights)
    return _rates(counts) | {
        "support": counts["support"],
        "specificity": _ratio(counts["tn"], counts["negatives"]),
        "npv": _ratio(counts["tn"], counts["unflagged"]),
        "auroc": auroc,
        "average_precision": average_precision,
    }


def confusion(
    labels: ArrayLike, predicted: ArrayLike, n_classes: int, weights: ArrayLike
) -> Floats:
    """Count label against prediction.

    Args:
        labels: int (N,), from 0 to ``n_classes`` - 1.
        predicted: int (N,), likewise.
        n_classes: C.
        weights: float (R, N).

    Returns:
        float64 (R, C, C): sums of weights; rows are labels, columns predictions.
    """
    cell = np.asarray(labels) * n_classes + np.asarray(predicted)
    return (np.asarray(weights, float) @ _one_hot(cell, n_classes**2)).reshape(
        -1, n_classes, n_classes
    )


def binary(labels: ArrayLike, flagged: ArrayLike, weights: ArrayLike) -> dict[str, Floats]:
    """Compute the four rates of a yes-or-no test.

    Args:
        labels: bool (N,), who has the disease.
        flagged: bool (N,), whom the test calls positive.
        weights: float (R, N).

    Returns:
        ``sensitivity``, ``specificity``, ``ppv`` and ``npv``, each float64 (R,); NaN for 0/0.
    """
    matrix = confusion(np.asarray(labels, int), np.asarray(flagged, int), 2, weights)
    (tn, fp), (fn, tp) = np.moveaxis(matrix, 0, -1)
    rates = {"sensitivity": (tp, fn), "specificity": (tn, fp), "ppv": (tp, fp), "npv": (tn, fn)}
    return {name: _ratio(right, right + wrong) for name, (right, wrong) in rates.items()}


def youden_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the threshold with the largest sensitivity + specificity - 1 (Youden 1950), for ``score >= threshold``.

    Args:
        labels: bool (N,), of a validation set: the scores at this threshold on the same pictures are optimistic.
        scores: float (N,), finite.

    Returns:
        One of the scores; of several that are equally good the middle one (of an even number, the lower).

    Raises:
        ValueError: there are no positives or no negatives.
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores, float)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        raise ValueError(
            f"A threshold needs positives and negatives, not {positives} and {negatives}."
        )
    candidates = np.unique(scores)
    tp = positives - np.searchsorted(np.sort(scores[labels]), candidates)
    fp = negatives - np.searchsorted(np.sort(scores[~labels]), candidates)
    index = (
        tp * negatives - fp * positives
    )  # Youden's times positives * negatives: whole numbers, so ties are exact
    best = candidates[index == index.max()]
    return float(best[(len(best) - 1) // 2])


def patient_bootstrap(
    patients: ArrayLike, weights: ArrayLike, replicates: int = 2000, seed: int = 0
) -> Floats:
    """Draw patients with replacement, each with all pictures (Field and Welsh 2007; Bouwmeester et al. 2013).

    The pictures of a patient resemble each other, so drawing pictures would give intervals that are too narrow. The
    models stay as they are: the variance of training them is left out (Bates et al. 2023).

    Args:
        patients: (N,), the patient of each picture, of any type that sorts.
        weights: float (N,), how much each picture counts before the draw, usually 1.
        replicates: R.
        seed: of the draws; they hang on it and the number of patients alone.

    Returns:
        float64 (R, N): ``weights`` times how often the picture's patient was drawn.
    """
    names, rows = np.unique(np.asarray(patients), return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), replicates
    )
    return draws[:, rows] * np.asarray(weights, float)


def percentile_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval (Efron 1979) of bootstrap replicates, float (R,); NaN replicates are left out."""
    replicates = np.asarray(values, float)
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval (Wilson 1927) of a proportion of independent cases; NaN for ``n`` = 0."""
    if n == 0:
        return math.nan, math.nan
    interval = stats.binomtest(int(successes), int(n)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def temperature(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Find the temperature that minimises the log loss of ``softmax(log(p) / T)`` (Guo et al. 2017).

    Args:
        labels: int (N,), of a validation set.
        probabilities: float (N, C).

    Returns:
        T > 0; over 1 where the network is overconfident. It stays within 0.01 and 100: a network without mistakes would
        have 0, one worse than chance infinity.
    """
    labels, logits = np.asarray(labels), _logits(probabilities)

    def loss(log_t: float) -> float:
        return -float(
            special.log_softmax(logits / math.exp(log_t), axis=1)[
                np.arange(len(labels)), labels
            ].mean()
        )

    # The loss is convex in 1/T, so it has one minimum in log T as well.
    bounds = (math.log(0.01), math.log(100))
    return math.exp(
        optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8}).x
    )


def apply_temperature(probabilities: ArrayLike, temperature: float) -> Floats:
    """Return ``softmax(log(p) / T)`` of probabilities, float (N, C); 1 gives them back."""
    return special.softmax(_logits(probabilities) / temperature, axis=1)


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference of two models over k folds: its 95 % interval, t, two-sided p and degrees of freedom."""

    mean: float
    low: float
    high: float
    t: float
    p: float
    df: int


def corrected_resampled_t(differences: ArrayLike, test_train_ratio: float) -> PairedDifference:
    """Test whether two models differ over folds, by the corrected resampled t (Nadeau and Bengio 2003).

    The folds share training pictures, so the variance of the mean is ``s² (1/k + n_test/n_train)`` in place of ``s²/k``.

    Args:
        differences: float (k,), one score of model A minus that of model B in each fold.
        test_train_ratio: sum of n_test over sum of n_train, pictures without copies; 0 gives the plain paired t.

    Returns:
        The result. Equal differences have t = ±inf and p = 0, or, if they are all 0, t = NaN and p = 1.

    Raises:
        ValueError: there are fewer than two folds.
    """
    values = np.asarray(differences, float)
    k = len(values)
    if k < 2:
        raise ValueError(f"A test over folds needs at least 2 differences, not {k}.")
    mean = float(values.mean())
    # ptp, for the rounding of the mean would give equal differences a tiny variance
    error = math.sqrt(values.var(ddof=1) * (1 / k + test_train_ratio)) if np.ptp(values) else 0.0
    if error:
        t, margin = mean / error, float(stats.t.ppf(0.975, k - 1)) * error
    else:
        t, margin = math.copysign(math.inf, mean) if mean else math.nan, 0.0
    p = 1.0 if math.isnan(t) else 2 * float(stats.t.sf(abs(t), k - 1))
    return PairedDifference(mean, mean - margin, mean + margin, t, p, k - 1)


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """Return the exact two-sided p that two models are right equally often on the same pictures (McNemar 1947).

    Args:
        correct_a: bool (N,), where model A is right. The pictures count as independent: one a patient, at best.
        correct_b: bool (N,), likewise of model B.
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p-values for their number, by the step-down method of Holm (1979).

    Args:
        p_values: float (k,); a NaN stays NaN, and counts as a comparison that was made.

    Returns:
        float64 (k,), in the order given.
    """
    p = np.asarray(p_values, float)
    order = p.argsort()  # NaN last
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return adjusted


def variance_components(table: ArrayLike) -> dict[str, float]:
    """Split the spread of scores into that of folds, seeds and the rest.

    Two-way random effects by the method of moments; negative estimates become 0 (Searle, Casella and McCulloch 1992).

    Args:
        table: float (folds, seeds), complete, at least 2 of each.

    Returns:
        Standard deviations in the unit of the scores: ``fold``, ``seed`` and ``residual`` (what a seed does in one fold
        and not in another).

    Raises:
        ValueError: the table is too small or has gaps.
    """
    values = np.asarray(table, float)
    if values.ndim != 2 or min(values.shape) < 2 or np.isnan(values).any():
        raise ValueError(
            f"Needed are scores of at least 2 folds x 2 seeds without gaps, not {values.shape} or NaN."
        )
    folds, seeds = values.shape
    fold_means, seed_means = values.mean(1), values.mean(0)
    rest = values - fold_means[:, None] - seed_means + values.mean()
    residual = (rest**2).sum() / ((folds - 1) * (seeds - 1))
    # The means carry the residual's variance too, divided by how many scores they average.
    fold, seed = (
        fold_means.var(ddof=1) - residual / seeds,
        seed_means.var(ddof=1) - residual / folds,
    )
    return {
        "fold": max(fold, 0.0) ** 0.5,
        "seed": max(seed, 0.0) ** 0.5,
        "residual": float(residual) ** 0.5,
    }


def _one_hot(codes: NDArray, n: int) -> Floats:
    return (codes[:, None] == np.arange(n)).astype(float)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return numerator / denominator


def _counts(matrix: Floats) -> dict[str, Floats]:
    support, predicted, tp = matrix.sum(2), matrix.sum(1), np.diagonal(matrix, axis1=1, axis2=2)
    others = 1 - np.eye(
        matrix.shape[1]
    )  # sums over the other classes: a total minus one may miss 0 by rounding
    negatives, unflagged, tn = (
        support @ others,
        predicted @ others,
        ((matrix @ others) * others).sum(1),
    )
    return dict(
        support=support, predicted=predicted, negatives=negatives, unflagged=unflagged, tp=tp, tn=tn
    )


def _rates(counts: dict[str, Floats]) -> dict[str, Floats]:
    support, predicted, tp = counts["support"], counts["predicted"], counts["tp"]
    return dict(
        precision=_ratio(tp, predicted),
        recall=_ratio(tp, support),
        f1=_ratio(2 * tp, support + predicted),
    )


def _average(values: Floats, weights: NDArray) -> Floats:
    # A class of weight 0 may be NaN.
    return _ratio((np.where(weights > 0, values, 0) * weights).sum(1), weights.sum(1))


def _areas(labels: NDArray, probabilities: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return AUROC and average precision, (R, C): sorted sums, for positives x negatives would not fit for many rows."""
    found = np.empty((2, len(weights), probabilities.shape[1]))
    plans = [_ranked(labels == label, p) for label, p in enumerate(probabilities.T)]
    step = max(1, BLOCK // len(labels))
    for start in range(0, len(weights), step):
        block = slice(start, start + step)
        drawn = np.ascontiguousarray(
            weights[block].T
        )  # (N, step): rows are taken, and added up, as a whole
        for label, (positives, negatives, ends, below, upto) in enumerate(plans):
            hits = drawn[positives].cumsum(0)
            alarms = np.concatenate([np.zeros_like(drawn[:1]), drawn[negatives].cumsum(0)])
            hits = np.concatenate([np.zeros_like(drawn[:1]), hits[ends]])
            new_hits, hits, total = np.diff(hits, axis=0), hits[1:], hits[-1]
            won = (new_hits * (alarms[-1] - (alarms[below] + alarms[upto]) / 2)).sum(
                0
            )  # a tie wins half
            precision = np.nan_to_num(_ratio(hits, hits + alarms[upto]))
            found[0, block, label] = _ratio(won, total * alarms[-1])
            found[1, block, label] = _ratio((new_hits * precision).sum(0), total)
    return found[0], found[1]


def _ranked(positive: NDArray, p: Floats) -> tuple[NDArray, ...]:
    """Rank one class against the rest, the highest score first.

    Returns:
        The positives (their rows), the negatives, and for each score that a positive has: the last of its positives, and how
        many negatives have a higher score, and a higher or equal one.
    """
    order = np.argsort(-p, kind="stable")
    positives, negatives = order[positive[order]], order[~positive[order]]
    scores = -p[positives]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)[: len(scores)]
    below, upto = (np.searchsorted(-p[negatives], scores[ends], side) for side in ("left", "right"))
    return positives, negatives, ends, below, upto


def _logits(probabilities: ArrayLike) -> Floats:
    # Zeros as the smallest float32, in which networks compute: the logits of everything larger are kept.
    return np.log(np.maximum(np.asarray(probabilities, float), np.finfo(np.float32).tiny))
