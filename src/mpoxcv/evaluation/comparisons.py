"""Two groups of runs on the same folds: how they differ, and what can be said of it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.groups import BOOTSTRAP_SEED, HEADLINE, PRIMARY, Group, fold_means, scores


def compare_groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Compare every two groups that were tested on the same folds under the same protocol."""
    found: list[dict[str, Any]] = []
    for i, one in enumerate(groups):
        for other in groups[i + 1 :]:
            keys = ("data", "protocol", "folds", "classes")
            tested = [
                {(r["fold"], r["test_fingerprint"]) for r in g.content["runs"]}
                for g in (one, other)
            ]
            if all(one.content[k] == other.content[k] for k in keys) and tested[0] == tested[1]:
                found.append(_compare(one, other))
    for metric in HEADLINE:
        adjusted = st.holm(np.array([c[metric]["p"] for c in found]))
        for comparison, p in zip(found, adjusted, strict=True):
            comparison[metric]["p_holm"] = float(p)
    for comparison in found:
        comparison["sentence"] = _sentence(comparison)
    return found


def _compare(one: Group, other: Group) -> dict[str, Any]:
    both = pd.concat(
        [one.rows, other.rows], keys=["one", "other"], names=["group", "row"]
    ).reset_index("group")
    draws = st.patient_bootstrap(
        both["patient"].to_numpy(), both["weight"].to_numpy(), len(one.draws), BOOTSTRAP_SEED
    )
    first = (both["group"] == "one").to_numpy()
    values = [scores(g.rows, g.rows["weight"].to_numpy()[None]) for g in (one, other)]
    drawn = [scores(both[first], draws[:, first]), scores(both[~first], draws[:, ~first])]
    sizes = [run.originals for run in one.finished]
    train, test = (sum(size.get(split, 0) for size in sizes) for split in ("train", "test"))
    ratio = (
        test / train if train else 1 / max(1, len(one.content["folds"]) - 1)
    )  # of a k-fold cross-validation
    found: dict[str, Any] = {"one": one.name, "other": other.name, "test_train_ratio": ratio}
    for metric in HEADLINE:
        folds = [fold_means(g, metric) for g in (one, other)]
        differences = np.array([folds[0][fold] - folds[1][fold] for fold in folds[0]])
        entry: dict[str, Any] = {"difference": float(values[0][metric][0] - values[1][metric][0])}
        entry["low"], entry["high"] = st.percentile_interval(drawn[0][metric] - drawn[1][metric])
        entry["by_fold"] = differences.tolist()
        entry["p"] = (
            st.corrected_resampled_t(differences, ratio).p if len(differences) > 1 else math.nan
        )
        found[metric] = entry
    seed = min(set(one.rows["seed"]) & set(other.rows["seed"]), default=None)
    found["mcnemar_p"] = math.nan
    if seed is not None:
        tables = [
            g.rows[g.rows["seed"] == seed].set_index(["fold", "image"]).sort_index()
            for g in (one, other)
        ]
        right = [(t["label"] == t["prediction"]).to_numpy() for t in tables]
        if tables[0].index.equals(tables[1].index):
            found["mcnemar_p"] = float(st.mcnemar(*right))
    return found


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
