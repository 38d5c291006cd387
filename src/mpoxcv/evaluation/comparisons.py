"""Two groups of runs on the same folds: how they differ, and what can be said of it."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.groups import HEADLINE, PRIMARY, Group, estimate
from mpoxcv.evaluation.runs import LEAKING


def compare_groups(groups: Sequence[Group], baselines: Sequence[Group]) -> list[dict[str, Any]]:
    """Compare every two groups that were tested on the same folds under the same protocol.

    Then each group with its baselines. Holm's correction is over each of these two questions. What
    was trained on its test pictures, or on permuted labels, is not compared.
    """
    honest = [group for group in groups if group.content["protocol"] != LEAKING]
    models = [(a, b) for a, b in combinations(honest, 2) if _conditions(a) == _conditions(b)]
    against = [
        (group, baseline)
        for group in honest
        for baseline in baselines
        if group.name in baseline.content["of"] and not group.content["permuted_labels"]
    ]
    comparisons = []
    for family, pairs in (("models", models), ("baselines", against)):
        entries = [{"family": family, "of": len(pairs), **_compare(pair)} for pair in pairs]
        for metric in HEADLINE:
            adjusted = st.holm(np.array([entry[metric]["p"] for entry in entries]))
            for entry, p in zip(entries, adjusted, strict=True):
                entry[metric]["p_holm"] = float(p)
        comparisons += entries
    return [comparison | {"sentence": _sentence(comparison)} for comparison in comparisons]


def _conditions(group: Group) -> list[Any]:
    """Return what two groups must share to be compared."""
    tested = {(run["fold"], run["test_fingerprint"]) for run in group.content["runs"]}
    # on other patients the draws would not be paired
    patients = set(group.rows["patient"])
    return [
        tested,
        patients,
        *(group.content[key] for key in ("data", "protocol", "folds", "classes")),
    ]


def _compare(pair: tuple[Group, Group]) -> dict[str, Any]:
    names = {"one": pair[0].name, "other": pair[1].name}
    comparison: dict[str, Any] = names | {"test_train_ratio": (ratio := pair[0].ratio)}
    for metric in HEADLINE:
        by_fold = pair[0].fold_means(metric) - pair[1].fold_means(metric)
        mean, half = st.resampled_interval(by_fold, ratio)
        # both on the same draws of patients, so that the difference is paired
        interval = estimate(pair[0].scores[0][metric] - pair[1].scores[0][metric])
        comparison[metric] = dict(zip(("difference", "low", "high"), interval, strict=True)) | {
            "by_fold": by_fold.tolist(), "mean": mean, "half": half,
            "p": st.corrected_resampled_t(by_fold, ratio)[1],
        }  # fmt: skip
    return comparison


def _sentence(comparison: Mapping[str, Any]) -> str:
    entry = comparison[PRIMARY]
    names, folds = f"{comparison['one']} and {comparison['other']}", len(entry["by_fold"])
    numbers = (
        f"balanced accuracy differs by {entry['difference']:+.3f} (95 % interval {entry['low']:+.3f} to "
        f"{entry['high']:+.3f} for these networks on other patients)"
    )
    apart = not entry["low"] <= 0 <= entry["high"]
    shown = apart and entry["p_holm"] < 0.05
    if math.isnan(entry["p_holm"]):
        numbers += "; of one fold there is no test"
    else:
        mean, half = entry["mean"], entry["half"]
        numbers += (
            f", and by {mean:+.3f} on average over {folds} folds ({mean - half:+.3f} to {mean + half:+.3f} for networks "
            f"trained anew; corrected resampled t-test, p = {entry['p']:.3f}, {entry['p_holm']:.3f} by Holm)"
        )
    if shown:
        better = comparison["one"] if entry["difference"] > 0 else comparison["other"]
        return f"{better} is better of {names}: {numbers}."
    why = ""
    if entry["p"] < 0.05:
        why = f" Alone p would be under 0.05; corrected for {comparison['of']} such comparisons it is not."
    elif not math.isnan(entry["p"]):
        if apart:
            why = (
                " The first interval holds these very networks; the second lets networks trained on other pictures differ, "
                "too."
            )
        why += f" With {folds} folds that differ so, no mean difference under {entry['half']:.2f} can be shown."
    return f"No difference between {names} can be shown: {numbers}.{why} This does not show that they are equal."
