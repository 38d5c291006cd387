"""What several runs say together: the report's numbers, from the runs' predictions and records.

Legend: N rows (scored pictures), C classes, R bootstrap replicates.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from mpoxcv.errors import UserError
from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.comparisons import compare_groups
from mpoxcv.evaluation.groups import (
    BOOTSTRAP_SEED,
    PRIMARY,
    REPLICATES,
    Group,
    bootstrap,
    estimate,
    pooled,
    scores,
    tested_rows,
)
from mpoxcv.evaluation.predictions import classes_of, codes, probabilities_of
from mpoxcv.evaluation.runs import POOLED, Run, find_runs, group_runs, plain_options, tells_apart
from mpoxcv.storage.files import StrPath

# pictures of a class, below which its numbers say little
FEW = 10


@dataclass
class Summary:
    """What the report says: what summary.json holds, and the groups that have a finished run."""

    content: dict[str, Any]
    groups: list[Group]


def summarise(
    folders: Iterable[StrPath],
    expected: Sequence[Mapping[str, str]] | None = None,
    folds: int = 5,
    replicates: int = REPLICATES,
) -> Summary:
    """Sum up the runs in and below folders, with R = ``replicates``.

    ``expected`` are the options of each run that there should be; None expects folds 1 to ``folds``
    of each seed. UserError where there are no runs, or two that would count twice.
    """
    runs = find_runs(folders)
    grouped = group_runs(runs)
    never_began = list(_never_began(grouped, expected, folds))
    problems = [_problem(run) for run in runs if run.status != "finished"] + never_began
    finished = {
        name: [run for run in members if run.status == "finished"]
        for name, members in grouped.items()
    }
    groups = [_group(name, members, replicates) for name, members in finished.items() if members]

    draws = {"replicates": replicates, "seed": BOOTSTRAP_SEED, "level": 0.95, "unit": "patient"}
    content: dict[str, Any] = {
        "complete": not problems,
        "problems": problems,
        "expected": len(runs) + len(never_began),
        "finished": sum(map(len, finished.values())),
        "bootstrap": draws,
        "groups": [group.content for group in groups],
        "comparisons": compare_groups(groups),
    }
    return Summary(content, groups)


def _problem(run: Run) -> dict[str, Any]:
    fate = {"status": run.status, "cause": run.cause, "folder": str(run.folder), "asked": True}
    return {"options": run.overrides, "fold": run.fold, "seed": run.seed} | fate


def _never_began(
    grouped: Mapping[str, Sequence[Run]], expected: Sequence[Mapping[str, str]] | None, folds: int
) -> Iterator[dict[str, Any]]:
    # asked for by a multirun's command; nobody says which runs there should be made one by one
    asked = expected is not None
    fate = {"status": "never began", "cause": "no run of it was found", "asked": asked}
    for members in () if asked else grouped.values():
        began = {(run.seed, run.fold) for run in members}
        seeds = sorted({run.seed for run in members if run.fold != POOLED})
        for seed, fold in product(seeds, range(1, folds + 1)):
            if (seed, fold) not in began:
                options = members[0].overrides | {"fold": str(fold)}
                yield {"options": options, "fold": fold, "seed": seed} | fate

    overrides = [run.overrides.items() for members in grouped.values() for run in members]
    for job in map(dict, expected or []):
        telling = {k: v for k, v in job.items() if k in ("fold", "seed") or tells_apart(k)}
        if not any(plain_options(telling).items() <= items for items in overrides):
            yield {"options": job, "fold": job.get("fold"), "seed": job.get("seed")} | fate


def _group(name: str, runs: Iterable[Run], replicates: int) -> Group:
    finished = sorted(runs, key=lambda run: (run.seed, str(run.fold)))
    first = finished[0]
    for run in finished:
        if classes_of(run.predictions) != classes_of(first.predictions):
            pair = f"{first.folder} and {run.folder}"
            raise UserError(f"{pair} have different classes: {name} is not one experiment.")

    rows = tested_rows((run, run.predictions) for run in finished)
    group = Group(name, finished, rows, bootstrap(rows, replicates))
    group.content = _content(group)
    return group


def _content(group: Group) -> dict[str, Any]:
    """Return what the runs were and what they were tested on, and how good they are."""
    rows, classes = group.rows, classes_of(group.rows)
    first = group.finished[0]
    data = first.provenance["data"]
    mode = str(first.config.get("callbacks.checkpoint.mode"))
    best = {"max": "largest", "min": "smallest"}.get(mode, "best")
    permuted = bool(data.get("permuted_labels", False))

    metrics = pooled(rows, group.draws)
    _, low, high = metrics[PRIMARY]
    labels, predicted = codes(rows, "label"), codes(rows, "prediction")
    confusion = st.confusion(labels, predicted, len(classes), group.draws[:1])
    return {
        "name": group.name, "data": str(rows["data"].iloc[0]),
        "synthetic": bool(data.get("synthetic", False)),
        "protocol": POOLED if first.fold == POOLED else data.get("protocol", "published"),
        "permuted_labels": permuted, "classes": classes, "citation": data.get("citation"),
        "weights": first.provenance.get("weights"), "trained": first.config.get("model.train"),
        "monitor": [first.config.get("callbacks.checkpoint.monitor"), best],
        "excluded": [
            *map(str, first.config.get("data.exclude") or []),
            *map(str, first.config.get("data.ignore_classes") or []),
        ],
        "folds": sorted({run.fold for run in group.finished}, key=str),
        "seeds": sorted({run.seed for run in group.finished}),
        "pictures": int(rows["image"].nunique()),
        "patients": int(rows["patient"].nunique()),
        "runs": [_run_content(run) for run in group.finished],
        "mean_sd": _mean_sd(group),
        "pooled": metrics,
        "per_class": _per_class(group), "confusion": confusion[0].tolist(),
        "mpox": _against_rest(group, str(first.config.get("positive_class"))),
        "calibration": _calibration(group), "coverage": _coverage(group),
        "variance": _variance(group), "baselines": _baselines(group),
        "permutation_control": low <= 1 / len(classes) <= high if permuted else None,
        "confused": _most_confused(rows), "ensemble": _ensemble(group),
    }  # fmt: skip


def _run_content(run: Run) -> dict[str, Any]:
    test = run.predicted("test")
    provenance = run.provenance
    data = provenance["data"]
    return {
        "folder": str(run.folder), "fold": run.fold, "seed": run.seed,
        "pictures": len(test), "patients": int(test["patient"].nunique()),
        "metrics": {k: v for k, v in run.metrics.items() if k.count("/") == 1},
        "counts": data["counts"], "fingerprint": data.get("fingerprint"),
        "test_fingerprint": data.get("test_fingerprint", data.get("fingerprint")),
        "audit": data.get("audit"),
        "seconds": provenance.get("durations", {}).get("total_s"),
        "command": provenance.get("command"), "git": provenance.get("git"),
        "checkpoint": provenance.get("checkpoint_sha256"),
        "packages": provenance.get("packages", {}),
        "accelerator": provenance.get("accelerator", {}),
    }  # fmt: skip


def _mean_sd(group: Group) -> dict[str, list[float]]:
    """Return mean, sample SD and number of folds of each metric; seeds of a fold are averaged."""
    folds = {metric: group.fold_means(metric).dropna() for metric in st.METRICS}
    return {
        metric: [float(values.mean()), float(values.std()), len(values)]
        for metric, values in folds.items()
        if len(values)
    }


def _per_class(group: Group) -> dict[str, dict[str, Any]]:
    rows = group.rows
    # all seeds together: a class's counts are sums, and its areas compare pictures of all seeds
    values = st.per_class(codes(rows, "label"), probabilities_of(rows), group.draws)
    support = values.pop("support")[0] / rows["seed"].nunique()
    return {
        name: {"support": float(support[label]), "few": bool(support[label] < FEW)}
        | {key: estimate(value[:, label]) for key, value in values.items()}
        for label, name in enumerate(classes_of(rows))
    }


def _against_rest(group: Group, name: str) -> dict[str, Any] | None:
    """Return the clinical question: a class against the rest, at the best threshold on Valid."""
    if name not in classes_of(group.rows):
        return None

    thresholds, flagged, unchosen = [], [], []
    for run in group.finished:
        val = run.predicted("val")
        threshold = st.youden_threshold(val["label"] == name, val[f"p_{name}"])
        if math.isnan(threshold):
            threshold = 0.5
            unchosen.append(run.folder.name)
        thresholds.append(threshold)
        flagged.append(run.predicted("test")[f"p_{name}"] >= threshold)

    truth = (group.rows["label"] == name).to_numpy()
    rates = st.binary(truth, np.concatenate(flagged), group.draws)
    return {
        "class": name,
        "prevalence": float(np.average(truth, weights=group.rows["weight"])),
        "thresholds": thresholds,
        "unchosen": unchosen,
    } | {rate: estimate(values) for rate, values in rates.items()}


def _calibration(group: Group) -> dict[str, list[float]]:
    """Return [before, after] temperatures that were fitted on each run's Valid, and these."""
    temperatures, calibrated = [], []
    for run in group.finished:
        val = run.predicted("val")
        fitted = st.temperature(codes(val, "label"), probabilities_of(val)) if len(val) else 1.0
        temperatures.append(fitted)
        test = probabilities_of(run.predicted("test"))
        calibrated.append(st.apply_temperature(test, fitted))

    rows = group.rows.copy()
    rows[[f"p_{name}" for name in classes_of(rows)]] = np.concatenate(calibrated)
    before, after = (scores(table, group.draws[:1]) for table in (group.rows, rows))
    metrics = ("ece", "brier", "log_loss")
    errors = {metric: [float(before[metric][0]), float(after[metric][0])] for metric in metrics}
    return errors | {"temperatures": temperatures}


def _coverage(group: Group) -> dict[str, Any]:
    """Return how the test sets cover the pictures that the runs were given."""
    first = group.finished[0]
    total = sum(first.provenance["data"]["originals"].values()) or None
    tests = group.rows[group.rows["seed"] == first.seed]["image"].value_counts()
    return {
        "total": total,
        "tested": len(tests),
        "tested_twice": int((tests > 1).sum()),
        "never_tested": None if total is None or first.fold == POOLED else total - len(tests),
    }


def _variance(group: Group) -> dict[str, float] | None:
    """Return the SD of folds, seeds and rest of the primary metric; None without two of either."""
    cells = {(run.fold, run.seed): run.metrics.get(f"test/{PRIMARY}") for run in group.finished}
    table = pd.Series(cells).unstack()
    if min(table.shape) < 2 or table.isna().to_numpy().any():
        return None
    return st.variance_components(table.to_numpy(float))


def _baselines(group: Group) -> dict[str, dict[str, list[float]]]:
    """Return value, low and high of each baseline's metrics, on the same pictures and draws."""
    tables = [(run, run.baselines) for run in group.finished if run.baselines is not None]
    if len(tables) < len(group.finished):
        return {}

    baselines = {}
    for model in tables[0][1]["model"].unique():
        rows = tested_rows((run, table[table["model"] == model]) for run, table in tables)
        # a run may have tested a part of its Test
        keys = ["seed", "fold", "image"]
        rows = group.rows[keys].merge(rows, on=keys)
        if len(rows) < len(group.rows):
            return {}
        baselines[str(model)] = pooled(rows.assign(weight=group.rows["weight"]), group.draws)
    return baselines


def _most_confused(rows: pd.DataFrame, most: int = 5) -> list[list[Any]]:
    wrong = rows[rows["label"] != rows["prediction"]]
    pairs = wrong.groupby(["label", "prediction"])["weight"].sum().sort_values(ascending=False)
    return [[*map(str, pair), float(count)] for pair, count in pairs.head(most).items()]


def _ensemble(group: Group) -> dict[str, Any] | None:
    """Return the scores of the average of all networks with a picture in Test; None of one each.

    None of them saw the picture's patient, so this is as honest as a network's score.
    """
    networks = group.rows["image"].value_counts()
    if networks.max() == 1:
        return None

    classes = classes_of(group.rows)
    how = {"patient": "first", "label": "first"} | {f"p_{name}": "mean" for name in classes}
    averaged = group.rows.groupby("image", as_index=False).agg(how)
    prediction = np.array(classes)[probabilities_of(averaged).argmax(1)]
    averaged = averaged.assign(prediction=prediction, seed=0, weight=1.0)
    return {
        "networks": [int(networks.min()), int(networks.max())],
        "pooled": pooled(averaged, bootstrap(averaged, len(group.draws) - 1)),
    }
