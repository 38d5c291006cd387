"""Two groups of runs on the same folds: how they differ, and what can be said of it."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.groups import HEADLINE, PRIMARY, Group, bootstrap, estimate, scores


def compare_groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Compare every two groups that were tested on the same folds under the same protocol."""
    pairs = [(a, b) for a, b in combinations(groups, 2) if _conditions(a) == _conditions(b)]
    comparisons = [_compare(pair) for pair in pairs]
    for metric in HEADLINE:
        adjusted = st.holm(np.array([comparison[metric]["p"] for comparison in comparisons]))
        for comparison, p in zip(comparisons, adjusted, strict=True):
            comparison[metric]["p_holm"] = float(p)
    return [comparison | {"sentence": _sentence(comparison)} for comparison in comparisons]


def _conditions(group: Group) -> list[Any]:
    """Return what two groups must share to be compared."""
    tested = {(run["fold"], run["test_fingerprint"]) for run in group.content["runs"]}
    return [tested, *(group.content[key] for key in ("data", "protocol", "folds", "classes"))]


def _compare(pair: tuple[Group, Group]) -> dict[str, Any]:
    tables = [group.rows for group in pair]
    # the same draws for both, so that the differences are paired
    draws = bootstrap(pd.concat(tables), len(pair[0].draws) - 1)
    parts = np.split(draws, [len(tables[0])], axis=1)
    one, other = (scores(rows, part) for rows, part in zip(tables, parts, strict=True))

    sizes = [run.provenance["data"]["originals"] for run in pair[0].finished]
    train, test = (sum(size.get(split, 0) for size in sizes) for split in ("train", "test"))
    # of a k-fold cross-validation, where the sizes are not known
    ratio = test / train if train else 1 / max(1, len(pair[0].content["folds"]) - 1)

    names = {"one": pair[0].name, "other": pair[1].name}
    comparison: dict[str, Any] = names | {"test_train_ratio": ratio}
    for metric in HEADLINE:
        by_fold = pair[0].fold_means(metric) - pair[1].fold_means(metric)
        interval = estimate(one[metric] - other[metric])
        comparison[metric] = dict(zip(("difference", "low", "high"), interval, strict=True)) | {
            "by_fold": by_fold.tolist(),
            "p": st.corrected_resampled_t(by_fold, ratio)[1],
        }
    comparison["mcnemar_p"] = _mcnemar(*tables)
    return comparison


def _mcnemar(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """Return p of two groups' rows, for their first common seed; NaN if its pictures differ."""
    seed = min(set(one["seed"]) & set(other["seed"]), default=None)
    of_seed = [rows[rows["seed"] == seed] for rows in (one, other)]
    tables = [rows.set_index(["fold", "image"]).sort_index() for rows in of_seed]
    if seed is None or not tables[0].index.equals(tables[1].index):
        return math.nan
    return st.mcnemar(*(table["label"] == table["prediction"] for table in tables))


def _sentence(comparison: Mapping[str, Any]) -> str:
    entry = comparison[PRIMARY]
    names = f"{comparison['one']} and {comparison['other']}"
    test = f"p = {entry['p_holm']:.3f} by the corrected resampled t-test, Holm-adjusted"
    numbers = (
        f"balanced accuracy differs by {entry['difference']:+.3f} (95 % interval {entry['low']:+.3f} to {entry['high']:+.3f}; "
        f"{'of one fold there is no test' if math.isnan(entry['p_holm']) else test})"
    )
    if entry["p_holm"] < 0.05 and not entry["low"] <= 0 <= entry["high"]:
        better = comparison["one"] if entry["difference"] > 0 else comparison["other"]
        return f"{better} is better of {names}: {numbers}."
    return f"No difference between {names} can be shown: {numbers}. This does not show that they are equal."
