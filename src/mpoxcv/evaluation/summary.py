"""What several runs say together: the report's numbers, from the runs' predictions and records.

Legend: N rows (scored pictures), C classes, R bootstrap replicates.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mpoxcv.errors import UserError
from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.comparisons import compare_groups
from mpoxcv.evaluation.groups import (
    BOOTSTRAP_SEED,
    PRIMARY,
    Group,
    bootstrap,
    codes,
    estimate,
    plain_weights,
    pooled,
    scores,
    tested_rows,
)
from mpoxcv.evaluation.predictions import classes_of, probabilities_of
from mpoxcv.evaluation.runs import Run, find_runs, group_runs, plain_options, tells_apart
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
    replicates: int = 2000,
) -> Summary:
    """Sum runs up.

    Args:
        folders: that hold runs, also in folders below.
        expected: the options of each run that there should be; None expects folds 1 to ``folds`` of
            each seed.
        folds: number of folds, where ``expected`` is None.
        replicates: R.

    Raises:
        UserError: there are no runs, or two that would count twice.
    """
    runs = find_runs(folders)
    grouped = group_runs(runs)
    never_began = _never_began(grouped, expected, folds)
    problems = [_problem(run) for run in runs if run.status != "finished"] + never_began
    groups = [
        _group(name, members, replicates)
        for name, members in grouped.items()
        if any(run.predictions is not None for run in members)
    ]

    draws = {"replicates": replicates, "seed": BOOTSTRAP_SEED, "level": 0.95, "unit": "patient"}
    content: dict[str, Any] = {
        "complete": not problems,
        "problems": problems,
        "expected": len(runs) + len(never_began),
        "finished": sum(run.status == "finished" for run in runs),
        "bootstrap": draws,
        "groups": [group.content for group in groups],
        "comparisons": compare_groups(groups),
    }
    return Summary(content, groups)


def _problem(run: Run) -> dict[str, Any]:
    fate = {"status": run.status, "cause": run.cause, "folder": str(run.folder)}
    return {"options": run.overrides, "fold": run.fold, "seed": run.seed} | fate


def _never_began(
    grouped: Mapping[str, Sequence[Run]], expected: Sequence[Mapping[str, str]] | None, folds: int
) -> list[dict[str, Any]]:
    missing: list[dict[str, Any]] = []
    if expected is None:
        for members in grouped.values():
            began = {(run.seed, run.fold) for run in members}
            missing += [
                {"options": members[0].overrides | {"fold": str(fold)}, "fold": fold, "seed": seed}
                for seed in sorted({run.seed for run in members if not run.pooled})
                for fold in range(1, folds + 1)
                if (seed, fold) not in began
            ]
    else:
        overrides = [run.overrides.items() for members in grouped.values() for run in members]
        for options in map(dict, expected):
            names = [name for name in options if name in ("fold", "seed") or tells_apart(name)]
            telling = plain_options({name: options[name] for name in names}).items()
            if not any(telling <= items for items in overrides):
                cell = {"fold": options.get("fold"), "seed": options.get("seed")}
                missing.append({"options": options} | cell)

    fate = {"status": "never began", "cause": "no run of it was found"}
    return [problem | fate for problem in missing]


def _group(name: str, runs: list[Run], replicates: int) -> Group:
    finished = [run for run in runs if run.predictions is not None]
    finished.sort(key=lambda run: (run.seed, str(run.fold)))
    rows = tested_rows((run, run.predicted("test")) for run in finished)
    group = Group(name, runs, finished, rows, bootstrap(rows, replicates))

    first = finished[0]
    for run in finished:
        if run.classes != first.classes:
            raise UserError(
                f"{first.folder} and {run.folder} have different classes: {name} is not one experiment."
            )
    group.content = _described(group)
    group.content |= _results(group, replicates)
    return group


def _described(group: Group) -> dict[str, Any]:
    """Return what the runs were, and what they were tested on."""
    first = group.finished[0]
    data = first.provenance.get("data", {})
    mode = str(first.config.get("callbacks.checkpoint.mode"))
    best = {"max": "largest", "min": "smallest"}.get(mode, "best")
    return {
        "name": group.name,
        "data": str(group.rows["data"].iloc[0]),
        "synthetic": bool(data.get("synthetic", False)),
        "protocol": "pooled" if first.pooled else data.get("protocol", "published"),
        "permuted_labels": bool(data.get("permuted_labels", False)),
        "classes": first.classes,
        "citation": data.get("citation"),
        "monitor": [first.config.get("callbacks.checkpoint.monitor"), best],
        "excluded": first.config.get("data.exclude") or [],
        "folds": sorted({run.fold for run in group.finished}, key=str),
        "seeds": sorted({run.seed for run in group.finished}),
        "pictures": int(group.rows["image"].nunique()),
        "patients": int(group.rows["patient"].nunique()),
        "runs": [_run_content(run) for run in group.finished],
    }


def _run_content(run: Run) -> dict[str, Any]:
    test = run.predicted("test")
    provenance = run.provenance
    data = provenance.get("data", {})
    return {
        "folder": str(run.folder),
        "fold": run.fold,
        "seed": run.seed,
        "pictures": len(test),
        "patients": int(test["patient"].nunique()),
        "metrics": {k: v for k, v in run.metrics.items() if k.count("/") == 1},
        "counts": data.get("counts", {}),
        "fingerprint": data.get("fingerprint"),
        "test_fingerprint": data.get("test_fingerprint", data.get("fingerprint")),
        "audit": data.get("audit"),
        "seconds": provenance.get("durations", {}).get("total_s"),
        "command": provenance.get("command"),
        "git": provenance.get("git"),
        "checkpoint": provenance.get("checkpoint_sha256"),
        "packages": provenance.get("packages", {}),
        "accelerator": provenance.get("accelerator", {}),
    }


def _results(group: Group, replicates: int) -> dict[str, Any]:
    """Return how good the runs are."""
    rows = group.rows
    first = group.finished[0]
    metrics = pooled(rows, group.draws)
    _, low, high = metrics[PRIMARY]
    permuted = group.content["permuted_labels"]
    confusion = st.confusion(*codes(rows, first.classes), len(first.classes), plain_weights(rows))
    return {
        "mean_sd": _mean_sd(group),
        "pooled": metrics,
        "wilson_accuracy": _wilson(rows),
        "per_class": _per_class(rows, group.draws),
        "confusion": confusion[0].tolist(),
        "mpox": _against_rest(group, str(first.config.get("positive_class"))),
        "calibration": _calibration(group),
        "coverage": _coverage(group),
        "variance": _variance(group),
        "baselines": _baselines(group),
        "permutation_control": low <= 1 / len(first.classes) <= high if permuted else None,
        "confused": _most_confused(rows),
        "ensemble": _ensemble(rows, replicates),
        "disagreeing": _disagreeing(rows),
    }


def _mean_sd(group: Group) -> dict[str, list[float]]:
    """Return mean, sample SD and number of folds of each metric; seeds of a fold are averaged."""
    mean_sd = {}
    for metric in st.METRICS:
        values = np.array(list(group.fold_means(metric).values()))
        values = values[np.isfinite(values)]
        if len(values):
            sd = float(values.std(ddof=1)) if len(values) > 1 else math.nan
            mean_sd[metric] = [float(values.mean()), sd, len(values)]
    return mean_sd


def _wilson(rows: pd.DataFrame) -> list[float] | None:
    """Return Wilson's interval of the accuracy; only where every row is another picture."""
    if rows["image"].duplicated().any():
        return None
    return list(st.wilson(int((rows["label"] == rows["prediction"]).sum()), len(rows)))


def _per_class(rows: pd.DataFrame, draws: np.ndarray) -> dict[str, dict[str, Any]]:
    classes = classes_of(rows)
    labels, _ = codes(rows, classes)
    probabilities = probabilities_of(rows)
    value = st.per_class(labels, probabilities, plain_weights(rows) / rows["seed"].nunique())
    # all seeds together: a class's counts are sums, and its areas compare pictures of all seeds
    drawn = st.per_class(labels, probabilities, draws)

    support = value.pop("support")[0]
    return {
        name: {"support": float(support[label]), "few": bool(support[label] < FEW)}
        | {key: estimate(value[key][:, label], drawn[key][:, label]) for key in value}
        for label, name in enumerate(classes)
    }


def _against_rest(group: Group, name: str) -> dict[str, Any] | None:
    """Return the clinical question: a class against the rest, at the best threshold on Valid."""
    if name not in group.finished[0].classes:
        return None

    thresholds, flagged, unchosen = [], [], []
    for run in group.finished:
        val = run.predicted("val")
        diseased = (val["label"] == name).to_numpy()
        threshold = 0.5
        if diseased.any() and not diseased.all():
            threshold = st.youden_threshold(diseased, val[f"p_{name}"].to_numpy())
        else:
            unchosen.append(run.folder.name)
        thresholds.append(threshold)
        flagged.append((run.predicted("test")[f"p_{name}"] >= threshold).to_numpy())

    truth = (group.rows["label"] == name).to_numpy()
    weights = plain_weights(group.rows)
    value, drawn = (st.binary(truth, np.concatenate(flagged), w) for w in (weights, group.draws))
    return {
        "class": name,
        "prevalence": float(np.average(truth, weights=weights[0])),
        "thresholds": thresholds,
        "unchosen": unchosen,
    } | {rate: estimate(value[rate], drawn[rate]) for rate in value}


def _calibration(group: Group) -> dict[str, list[float]]:
    """Return [before, after] temperatures that were fitted on each run's Valid, and these."""
    temperatures, calibrated = [], []
    for run in group.finished:
        val = run.predicted("val")
        labels, _ = codes(val, run.classes)
        temperature = st.temperature(labels, probabilities_of(val)) if len(val) else 1.0
        temperatures.append(temperature)
        test = probabilities_of(run.predicted("test"))
        calibrated.append(st.apply_temperature(test, temperature))

    rows = group.rows.copy()
    rows[[f"p_{name}" for name in classes_of(rows)]] = np.concatenate(calibrated)
    before, after = (scores(table, plain_weights(rows)) for table in (group.rows, rows))
    metrics = ("ece", "brier", "log_loss")
    errors = {metric: [float(before[metric][0]), float(after[metric][0])] for metric in metrics}
    return errors | {"temperatures": temperatures}


def _coverage(group: Group) -> dict[str, Any]:
    """Return how the test sets cover the pictures that the runs were given."""
    first = group.finished[0]
    total = sum(first.originals.values()) or None
    tests = group.rows[group.rows["seed"] == first.seed]["image"].value_counts()
    return {
        "total": total,
        "tested": len(tests),
        "tested_twice": int((tests > 1).sum()),
        "never_tested": None if total is None or first.pooled else total - len(tests),
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
    for model in dict.fromkeys(tables[0][1]["model"]):
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


def _ensemble(rows: pd.DataFrame, replicates: int) -> dict[str, Any] | None:
    """Return value, low and high of the average of all networks that had a picture in Test.

    None of them saw the picture's patient, so this is as honest as a network's score. None where
    each picture has one network.
    """
    networks = rows["image"].value_counts()
    if networks.max() == 1:
        return None

    classes = classes_of(rows)
    how = {"patient": "first", "label": "first"} | {f"p_{name}": "mean" for name in classes}
    averaged = rows.groupby("image", as_index=False).agg(how)
    prediction = np.array(classes)[probabilities_of(averaged).argmax(1)]
    averaged = averaged.assign(prediction=prediction, seed=0, weight=1.0)
    return {
        "networks": [int(networks.min()), int(networks.max())],
        "pooled": pooled(averaged, bootstrap(averaged, replicates)),
    }


def _disagreeing(rows: pd.DataFrame, most: int = 10) -> dict[str, Any]:
    """Return how many patients have several test pictures, and those with right and wrong ones."""
    right = (rows["label"] == rows["prediction"]).groupby([rows["seed"], rows["patient"]]).nunique()
    pictures = rows.groupby("patient")["image"].nunique()
    several = pictures.index[pictures > 1]
    mixed = sorted(set(right.index[right > 1].get_level_values("patient")) & set(several))
    return {"several": len(several), "disagree": len(mixed), "patients": mixed[:most]}
