"""What several runs say together: the numbers of the report, from the runs' predictions and records alone.

Legend: N rows (scored pictures), C classes, R bootstrap replicates.
"""

import math
import os
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
    codes,
    fold_means,
    pooled,
    scores,
    tested_rows,
)
from mpoxcv.evaluation.predictions import classes_of, probabilities_of
from mpoxcv.evaluation.runs import Run, find_runs, group_runs, plain_options, tells_apart

FEW = 10  # pictures of a class, below which its numbers say little


@dataclass
class Summary:
    """Everything that the report says."""

    content: dict[str, Any]  # what summary.json holds
    groups: list[Group]  # those with a finished run


def summarise(
    folders: Iterable[str | os.PathLike[str]],
    expected: Sequence[Mapping[str, str]] | None = None,
    folds: int = 5,
    replicates: int = 2000,
) -> Summary:
    """Sum runs up.

    Args:
        folders: that hold runs, also in folders below.
        expected: the options of each run that there should be; None expects folds 1 to ``folds`` of each seed.
        folds: number of folds, where ``expected`` is None.
        replicates: R.

    Raises:
        UserError: there are no runs, or two that would count twice.
    """
    runs = find_runs(folders)
    grouped = group_runs(runs)
    problems = [_problem(run) for run in runs if run.status != "finished"] + _never_began(
        grouped, expected, folds
    )
    groups = [
        _group(name, members, replicates)
        for name, members in grouped.items()
        if any(run.predictions is not None for run in members)
    ]
    content: dict[str, Any] = {
        "complete": not problems,
        "problems": problems,
        "expected": len(runs) + sum(problem["status"] == "never began" for problem in problems),
        "finished": sum(run.status == "finished" for run in runs),
        "bootstrap": {
            "replicates": replicates,
            "seed": BOOTSTRAP_SEED,
            "level": 0.95,
            "unit": "patient",
        },
        "groups": [group.content for group in groups],
        "comparisons": compare_groups(groups),
    }
    return Summary(content, groups)


def _problem(run: Run) -> dict[str, Any]:
    return {
        "options": run.overrides,
        "fold": run.fold,
        "seed": run.seed,
        "status": run.status,
        "cause": run.cause,
        "folder": str(run.folder),
    }


def _never_began(
    grouped: Mapping[str, Sequence[Run]], expected: Sequence[Mapping[str, str]] | None, folds: int
) -> list[dict[str, Any]]:
    missing: list[dict[str, Any]] = []
    if expected is not None:
        runs = [run for members in grouped.values() for run in members]
        for options in expected:
            telling = {
                k: v
                for k, v in plain_options(options).items()
                if k in ("fold", "seed") or tells_apart(k)
            }
            if not any(telling.items() <= run.overrides.items() for run in runs):
                missing.append(
                    {
                        "options": dict(options),
                        "fold": options.get("fold"),
                        "seed": options.get("seed"),
                    }
                )
    else:
        for members in grouped.values():
            for seed in sorted({run.seed for run in members if not run.pooled}):
                there = {run.fold for run in members if run.seed == seed}
                missing += [
                    {
                        "options": members[0].overrides | {"fold": str(fold)},
                        "fold": fold,
                        "seed": seed,
                    }
                    for fold in range(1, folds + 1)
                    if fold not in there
                ]
    return [
        problem | {"status": "never began", "cause": "no run of it was found"}
        for problem in missing
    ]


def _group(name: str, runs: list[Run], replicates: int) -> Group:
    group = Group(name, runs, pd.DataFrame(), np.zeros((0, 0)))
    first = group.finished[0]
    group.rows = tested_rows((run, run.predictions) for run in group.finished)
    group.draws = st.patient_bootstrap(
        group.rows["patient"].to_numpy(),
        group.rows["weight"].to_numpy(),
        replicates,
        BOOTSTRAP_SEED,
    )
    assert first.predictions is not None
    classes = classes_of(first.predictions)
    if other := [
        r
        for r in group.finished
        if r.predictions is not None and classes_of(r.predictions) != classes
    ]:
        raise UserError(
            f"{first.folder} and {other[0].folder} have different classes: {name} is not one experiment."
        )
    rows = group.rows
    data = first.provenance.get("data", {})
    group.content = {
        "name": name,
        "data": str(rows["data"].iloc[0]),
        "synthetic": bool(data.get("synthetic", False)),
        "protocol": "pooled" if first.pooled else data.get("protocol", "published"),
        "permuted_labels": bool(data.get("permuted_labels", False)),
        "classes": classes,
        "citation": data.get("citation"),
        "monitor": [
            first.config.get("callbacks.checkpoint.monitor"),
            {"max": "largest", "min": "smallest"}.get(
                str(first.config.get("callbacks.checkpoint.mode")), "best"
            ),
        ],
        "excluded": first.config.get("data.exclude") or [],
        "folds": sorted({run.fold for run in group.finished}, key=str),
        "seeds": sorted({run.seed for run in group.finished}),
        "pictures": int(rows["image"].nunique()),
        "patients": int(rows["patient"].nunique()),
        "runs": [_run_content(run) for run in group.finished],
        "mean_sd": _mean_sd(group),
        "pooled": pooled(rows, group.draws),
        "wilson_accuracy": _wilson(rows),
        "per_class": _per_class(rows, group.draws, classes),
        "confusion": st.confusion(
            *codes(rows, classes), len(classes), rows["weight"].to_numpy()[None]
        )[0].tolist(),
        "mpox": _against_rest(group, str(first.config.get("positive_class")), classes),
        "calibration": _calibration(group),
        "coverage": _coverage(group),
        "variance": _variance(group),
        "baselines": _baselines(group),
        "permutation_control": None,
        "confused": _most_confused(rows),
        "ensemble": _ensemble(rows, replicates),
        "disagreeing": _disagreeing(rows),
    }
    if group.content["permuted_labels"]:
        low, high = group.content["pooled"][PRIMARY][1:]
        group.content["permutation_control"] = bool(low <= 1 / len(classes) <= high)
    return group


def _run_content(run: Run) -> dict[str, Any]:
    assert run.predictions is not None
    test, data = run.predictions[run.predictions["split"] == "test"], run.provenance.get("data", {})
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
        "seconds": run.provenance.get("durations", {}).get("total_s"),
        "command": run.provenance.get("command"),
        "git": run.provenance.get("git"),
        "checkpoint": run.provenance.get("checkpoint_sha256"),
        "packages": run.provenance.get("packages", {}),
        "accelerator": run.provenance.get("accelerator", {}),
    }


def _mean_sd(group: Group) -> dict[str, list[float]]:
    """Return mean, sample SD and number of folds of each metric; a fold with several seeds counts as their mean."""
    found = {}
    for metric in st.METRICS:
        values = np.array(list(fold_means(group, metric).values()))
        values = values[np.isfinite(values)]
        if len(values):
            found[metric] = [
                float(values.mean()),
                float(values.std(ddof=1)) if len(values) > 1 else math.nan,
                len(values),
            ]
    return found


def _wilson(rows: pd.DataFrame) -> list[float] | None:
    """Return Wilson's interval of the accuracy; only where every row is another picture."""
    if rows["image"].duplicated().any():
        return None
    return list(st.wilson(int((rows["label"] == rows["prediction"]).sum()), len(rows)))


def _per_class(
    rows: pd.DataFrame, draws: np.ndarray, classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    labels, _ = codes(rows, classes)
    probabilities, weight = (
        probabilities_of(rows),
        rows["weight"].to_numpy()[None] / rows["seed"].nunique(),
    )
    value = st.per_class(labels, probabilities, weight)
    # all seeds together: a class's counts are sums, and its areas compare pictures of all seeds
    drawn = st.per_class(labels, probabilities, draws)
    found: dict[str, dict[str, Any]] = {}
    for label, name in enumerate(classes):
        found[name] = {
            "support": float(value["support"][0, label]),
            "few": bool(value["support"][0, label] < FEW),
        }
        for metric in value:
            if metric != "support":
                found[name][metric] = [
                    float(value[metric][0, label]),
                    *st.percentile_interval(drawn[metric][:, label]),
                ]
    return found


def _against_rest(group: Group, name: str, classes: Sequence[str]) -> dict[str, Any] | None:
    """Return the clinical question: one class against the rest, at the threshold that is best on each run's Valid."""
    if name not in classes:
        return None
    column, flagged, thresholds, unchosen = f"p_{name}", [], [], []
    for run in group.finished:
        assert run.predictions is not None
        val = run.predictions[run.predictions["split"] == "val"]
        threshold = 0.5
        if 0 < (val["label"] == name).sum() < len(val):
            threshold = st.youden_threshold(
                (val["label"] == name).to_numpy(), val[column].to_numpy()
            )
        else:
            unchosen.append(run.folder.name)
        thresholds.append(threshold)
        flagged.append(
            (
                run.predictions.loc[run.predictions["split"] == "test", column] >= threshold
            ).to_numpy()
        )
    truth, weight = (group.rows["label"] == name).to_numpy(), group.rows["weight"].to_numpy()[None]
    value, drawn = (st.binary(truth, np.concatenate(flagged), w) for w in (weight, group.draws))
    found = {key: [float(value[key][0]), *st.percentile_interval(drawn[key])] for key in value}
    prevalence = float(np.average(truth, weights=weight[0]))
    return {
        "class": name,
        "prevalence": prevalence,
        "thresholds": thresholds,
        "unchosen": unchosen,
    } | found


def _calibration(group: Group) -> dict[str, list[float]]:
    """Return [before, after] a temperature that was fitted on each run's Valid, and the temperatures."""
    warmed, temperatures = [], []
    for run in group.finished:
        assert run.predictions is not None
        table, classes = run.predictions, classes_of(run.predictions)
        val, test = table[table["split"] == "val"], table[table["split"] == "test"]
        temperature = (
            st.temperature(codes(val, classes)[0], probabilities_of(val)) if len(val) else 1.0
        )
        temperatures.append(temperature)
        warmed.append(st.apply_temperature(probabilities_of(test), temperature))
    columns = [f"p_{name}" for name in classes_of(group.rows)]
    after_rows = group.rows.copy()
    after_rows[columns] = np.concatenate(warmed)
    weight = group.rows["weight"].to_numpy()[None]
    before, after = scores(group.rows, weight), scores(after_rows, weight)
    found = {
        name: [float(before[name][0]), float(after[name][0])]
        for name in ("ece", "brier", "log_loss")
    }
    return found | {"temperatures": temperatures}


def _coverage(group: Group) -> dict[str, Any]:
    """Return how the test sets cover the pictures that the runs were given."""
    total = sum(group.finished[0].originals.values()) or None
    tests = group.rows[group.rows["seed"] == group.rows["seed"].iloc[0]]["image"].value_counts()
    return {
        "total": total,
        "tested": len(tests),
        "tested_twice": int((tests > 1).sum()),
        "never_tested": None if total is None or group.finished[0].pooled else total - len(tests),
    }


def _variance(group: Group) -> dict[str, float] | None:
    """Return the SD of folds, of seeds and what is left of the primary metric; None with fewer than two of either."""
    cells = [(run.fold, run.seed, run.metrics.get(f"test/{PRIMARY}")) for run in group.finished]
    table = pd.DataFrame(cells, columns=["fold", "seed", "value"]).pivot(
        index="fold", columns="seed", values="value"
    )
    if min(table.shape) < 2 or table.isna().to_numpy().any():
        return None
    return {
        name: float(value) for name, value in st.variance_components(table.to_numpy(float)).items()
    }


def _baselines(group: Group) -> dict[str, dict[str, list[float]]]:
    """Return value, low and high of each baseline's metrics, on the same pictures with the same draws."""
    tables = [(run, run.baselines) for run in group.finished]
    if any(table is None for _, table in tables):
        return {}
    found = {}
    for model in dict.fromkeys(tables[0][1]["model"]):  # type: ignore[index]
        rows = tested_rows(
            (run, table[table["model"] == model]) for run, table in tables if table is not None
        )
        keys = ["seed", "fold", "image"]
        rows = group.rows[keys].merge(rows, on=keys)  # a run may have tested a part of its Test
        if len(rows) < len(group.rows):
            return {}
        found[str(model)] = pooled(rows.assign(weight=group.rows["weight"]), group.draws)
    return found


def _most_confused(rows: pd.DataFrame, most: int = 5) -> list[list[Any]]:
    wrong = rows[rows["label"] != rows["prediction"]]
    pairs = wrong.groupby(["label", "prediction"])["weight"].sum().sort_values(ascending=False)
    return [[*map(str, pair), float(count)] for pair, count in pairs.head(most).items()]


def _ensemble(rows: pd.DataFrame, replicates: int) -> dict[str, Any] | None:
    """Return value, low and high of each metric for the average of all networks that had a picture in Test.

    None of them saw the picture's patient, so this is as honest as one network's score. None where each picture has one.
    """
    if not rows["image"].duplicated().any():
        return None
    columns = [f"p_{name}" for name in classes_of(rows)]
    first = {name: "first" for name in ("patient", "label")}
    averaged = rows.groupby("image", as_index=False).agg(first | dict.fromkeys(columns, "mean"))
    classes = np.array(classes_of(rows))
    averaged = averaged.assign(
        prediction=classes[averaged[columns].to_numpy().argmax(1)], seed=0, weight=1.0
    )
    draws = st.patient_bootstrap(
        averaged["patient"], averaged["weight"], replicates, BOOTSTRAP_SEED
    )
    networks = rows["image"].value_counts()
    return {
        "networks": [int(networks.min()), int(networks.max())],
        "pooled": pooled(averaged, draws),
    }


def _disagreeing(rows: pd.DataFrame, most: int = 10) -> dict[str, Any]:
    """Return how many patients have several test pictures, and those of whom some are right and some wrong."""
    right = (rows["label"] == rows["prediction"]).groupby([rows["seed"], rows["patient"]]).nunique()
    pictures = rows.groupby("patient")["image"].nunique()
    several = pictures.index[pictures > 1]
    mixed = sorted(set(right.index[right > 1].get_level_values("patient")) & set(several))
    return {"several": len(several), "disagree": len(mixed), "patients": mixed[:most]}
