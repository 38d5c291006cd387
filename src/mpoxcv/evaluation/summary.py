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
from mpoxcv.evaluation.calibration import calibration, thresholds
from mpoxcv.evaluation.comparisons import compare_groups
from mpoxcv.evaluation.conformal import held_out_coverage
from mpoxcv.evaluation.groups import (
    BOOTSTRAP_SEED,
    HEADLINE,
    PRIMARY,
    REPLICATES,
    Group,
    bootstrap,
    interval_of,
    pooled,
    tested_rows,
)
from mpoxcv.evaluation.intervals import FEW, chance
from mpoxcv.evaluation.predictions import classes_of, codes, probabilities_of
from mpoxcv.evaluation.runs import LEAKING, Run, find_runs, group_runs, plain_options, tells_apart
from mpoxcv.storage.files import StrPath

METRICS_OF_CLASS = (
    "precision", "recall", "f1", "specificity", "npv", "auroc", "average_precision",
)  # fmt: skip
# of a row of a baseline, what does not tell it from another
VARYING = ["run", "seed", "weight"]


@dataclass
class Summary:
    """What the report says: summary.json's content, the groups with a finished run, baselines."""

    content: dict[str, Any]
    groups: list[Group]
    baselines: list[Group]


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
    baselines = _share_baselines(groups)

    draws = {"replicates": replicates, "seed": BOOTSTRAP_SEED, "level": 0.95, "unit": "patient"}
    content: dict[str, Any] = {
        "complete": not problems,
        "problems": problems,
        "expected": len(runs) + len(never_began),
        "finished": sum(map(len, finished.values())),
        "bootstrap": draws,
        "groups": [group.content for group in groups],
        "comparisons": compare_groups(groups, baselines),
    }
    return Summary(content, groups, baselines)


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
        seeds = sorted({run.seed for run in members if run.fold != LEAKING})
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
    rows, classes, averaged = group.rows, classes_of(group.rows), group.averaged
    first = group.finished[0]
    data = first.provenance["data"]
    mode = str(first.config.get("callbacks.checkpoint.mode"))
    best = {"max": "largest", "min": "smallest"}.get(mode, "best")
    permuted = bool(data.get("permuted_labels", False))
    positive = str(first.config.get("positive_class"))

    metrics = pooled(rows, group.draws, group.scores)
    _, low, high = metrics[PRIMARY]
    labels, predicted = codes(averaged, "label"), codes(averaged, "prediction")
    once = np.ones((1, len(averaged)))
    return {
        "name": group.name, "data": str(rows["data"].iloc[0]),
        "synthetic": bool(data.get("synthetic", False)),
        "protocol": LEAKING if first.fold == LEAKING else data.get("protocol", "published"),
        "permuted_labels": permuted, "classes": classes, "citation": data.get("citation"),
        "splits": data.get("splits"),
        "weights": first.provenance.get("weights"), "trained": first.config.get("model.train"),
        "monitor": [first.config.get("callbacks.checkpoint.monitor"), best],
        "excluded": [
            *map(str, first.config.get("data.exclude") or []),
            *map(str, first.config.get("data.ignore_classes") or []),
        ],
        "folds": sorted({run.fold for run in group.finished}, key=str),
        "seeds": sorted({run.seed for run in group.finished}),
        "pictures": len(averaged), "files": int(rows["image"].nunique()),
        "patients": int(rows["patient"].nunique()),
        "runs": [_run_content(run) for run in group.finished],
        "mean_sd": _mean_sd(group), "pooled": metrics,
        "procedure": {metric: _procedure(group, metric, metrics[metric]) for metric in HEADLINE},
        "chance": chance(rows, len(group.draws) - 1),
        "per_class": _per_class(group),
        "confusion": st.confusion(labels, predicted, len(classes), once)[0].tolist(),
        "mpox": _against_rest(group, positive),
        "calibration": calibration(group, positive), "coverage": _coverage(group),
        "variance": _variance(group), "sets": held_out_coverage(rows, group.draws),
        "permutation_control": low <= 1 / len(classes) <= high if permuted else None,
        "confused": _most_confused(averaged), "ensemble": _ensemble(group),
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


def _procedure(group: Group, metric: str, over_patients: Sequence[float]) -> list[float]:
    """Return mean over folds, low and high: what training anew on other pictures would give.

    Networks trained anew differ by more than other patients do: where folds happen to agree, as
    they do near 1, the interval over patients is the narrowest that it can be.
    """
    mean, half = st.resampled_interval(group.fold_means(metric).dropna(), group.ratio)
    low, high = max(0.0, mean - half), min(1.0, mean + half)
    if math.isnan(half):
        return [mean, math.nan, math.nan]
    return [mean, min(low, *over_patients), max(high, *over_patients)]


def _per_class(group: Group) -> dict[str, dict[str, Any]]:
    rows, values = group.rows, group.scores[1]
    labels, predicted = codes(rows, "label"), probabilities_of(rows).argmax(1)
    found = {}
    for label, name in enumerate(classes_of(rows)):
        truth, called = labels == label, predicted == label
        # the pictures that each is a share of
        of = {
            "recall": truth, "specificity": ~truth, "precision": called, "npv": ~called,
            "f1": truth | called,
        }  # fmt: skip
        pictures, patients = rows.loc[truth, ["picture", "patient"]].nunique().tolist()
        found[name] = {"support": pictures, "patients": patients, "few": patients < FEW}
        for key in METRICS_OF_CLASS:
            own = of.get(key, truth)
            found[name][key] = interval_of(rows, values[key][:, label], own, key == "auroc")
    return found


def _against_rest(group: Group, name: str) -> dict[str, Any] | None:
    """Return the clinical question: a class against the rest, at the best threshold on Valid."""
    rows = group.rows
    if name not in classes_of(rows):
        return None
    runs = thresholds(group, name)
    cut = {(run["seed"], run["fold"]): run["threshold"] for run in runs}
    keys = zip(rows["seed"], rows["fold"], strict=True)
    flagged = (rows[f"p_{name}"] >= [cut[key] for key in keys]).to_numpy()
    truth = (rows["label"] == name).to_numpy()
    rates = st.binary(truth, flagged, group.draws)
    of = {"sensitivity": truth, "specificity": ~truth, "ppv": flagged, "npv": ~flagged}
    return {
        "class": name,
        "prevalence": float(np.average(truth, weights=rows["weight"])),
        "thresholds": runs,
    } | {rate: interval_of(rows, values, of[rate]) for rate, values in rates.items()}


def _coverage(group: Group) -> dict[str, Any]:
    """Return how the test sets cover the files that the runs were given."""
    first, rows = group.finished[0], group.rows
    total = sum(first.provenance["data"]["originals"].values()) or None
    times = rows.groupby(["seed", "image"]).size()
    tested = int(rows["image"].nunique())
    return {
        "total": total,
        "tested": tested,
        "tested_twice": int((times.groupby(level="image").max() > 1).sum()),
        "never_tested": None if total is None or first.fold == LEAKING else total - tested,
        "by_seed": {str(seed): len(files) for seed, files in times.groupby(level="seed")},
    }


def _variance(group: Group) -> dict[str, float] | None:
    """Return the SD of folds, seeds and rest of the primary metric; None without two of either."""
    table = group.by_run[PRIMARY].unstack()
    if min(table.shape) < 2 or table.isna().to_numpy().any():
        return None
    return st.variance_components(table.to_numpy(float).T)


def _baselines(group: Group) -> Iterator[Group]:
    """Yield each baseline of a group, on the same pictures; one seed where all say the same."""
    tables = [(run, run.baselines) for run in group.finished if run.baselines is not None]
    if len(tables) < len(group.finished):
        return
    keys = ["seed", "fold", "image"]
    for model in tables[0][1]["model"].unique():
        rows = tested_rows((run, table[table["model"] == model]) for run, table in tables)
        # a run may have tested a part of its Test
        rows = group.rows[[*keys, "picture"]].merge(rows.drop(columns="picture"), on=keys)
        if len(rows) < len(group.rows):
            return
        told = [name for name in rows.columns if name not in VARYING]
        distinct = rows.drop_duplicates(told)
        if not distinct.duplicated(["fold", "image"]).any():
            rows = distinct.assign(seed=distinct["seed"].min()).reset_index(drop=True)
        sizes = rows.groupby(["seed", "picture"])["image"].transform("size")
        rows = rows.assign(weight=1 / sizes)
        draws = bootstrap(rows, len(group.draws) - 1)
        yield Group(str(model), group.finished, rows, draws)


def _share_baselines(groups: Sequence[Group]) -> list[Group]:
    """Return the groups' baselines, each once; a group's content gets the numbers of its own.

    ``content`` of a baseline names in ``of`` the groups on whose pictures it is.
    """
    distinct: dict[tuple[str, str], Group] = {}
    for group in groups:
        group.content["baselines"] = {}
        for baseline in _baselines(group):
            said = baseline.rows.drop(columns=VARYING).sort_values(["fold", "image"])
            key = baseline.name, said.to_csv(index=False)
            known = distinct.setdefault(key, baseline)
            if known is baseline:
                content = group.content
                known.content = {"model": known.name, "of": [], "baseline": True} | {
                    name: content[name]
                    for name in ("data", "protocol", "permuted_labels", "classes", "synthetic")
                }
                known.content["pooled"] = pooled(known.rows, known.draws, known.scores)
                known.content["mean_sd"] = _mean_sd(known)
            known.content["of"].append(group.name)
            group.content["baselines"][known.content["model"]] = known.content["pooled"]

    told = ("model", "protocol", "permuted_labels")
    kinds = [[one.content[key] for key in told] for one in distinct.values()]
    for baseline, kind in zip(distinct.values(), kinds, strict=True):
        whose = f", pictures as {baseline.content['of'][0]} gets them"
        labels = ", labels permuted" if baseline.content["permuted_labels"] else ""
        baseline.name += f" (baseline{labels}){whose if kinds.count(kind) > 1 else ''}"
        baseline.content["name"] = baseline.name
    return list(distinct.values())


def _most_confused(rows: pd.DataFrame, most: int = 5) -> list[list[Any]]:
    wrong = rows[rows["label"] != rows["prediction"]]
    pairs = wrong.groupby(["label", "prediction"]).size().sort_values(ascending=False)
    return [[*map(str, pair), int(count)] for pair, count in pairs.head(most).items()]


def _ensemble(group: Group) -> dict[str, Any] | None:
    """Return the scores of ``Group.averaged``; None of one network each."""
    networks = group.rows["image"].value_counts()
    if networks.max() == 1:
        return None
    return {
        "networks": [int(networks.min()), int(networks.max())],
        "pooled": pooled(group.averaged, bootstrap(group.averaged, len(group.draws) - 1)),
    }
