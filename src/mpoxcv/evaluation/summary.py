"""What several runs say together: the numbers of the report, from the runs' predictions and records alone.

Legend: N rows (scored pictures), C classes, R bootstrap replicates.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mpoxcv.evaluation import statistics as st
from mpoxcv.evaluation.predictions import classes_of, probabilities_of
from mpoxcv.evaluation.runs import NEUTRAL, Run, find_runs, group_runs, plain_options

HEADLINE = ("balanced_accuracy", "f1_macro", "accuracy", "auroc_macro")
PRIMARY = HEADLINE[0]
FEW = 10  # pictures of a class, below which its numbers say little
BOOTSTRAP_SEED = 0


@dataclass
class Group:
    """The runs of one experiment.

    Attributes:
        name: short, unique.
        runs: all of them.
        rows: the finished runs' test predictions, with the columns ``run``, ``seed`` and ``weight``: a picture that k
            folds of a seed test counts 1/k in each.
        draws: float (R, N), weights of the rows in the bootstrap over patients.
        content: what summary.json holds of it.
    """

    name: str
    runs: list[Run]
    rows: pd.DataFrame
    draws: np.ndarray
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> list[Run]:
        """The runs that have predictions, by seed and fold."""
        return sorted((r for r in self.runs if r.predictions is not None), key=lambda r: (r.seed, str(r.fold)))


@dataclass
class Summary:
    """Everything that the report says.

    Attributes:
        content: what summary.json holds.
        groups: those with a finished run.
        baselines: table of the baselines' test rows, as in ``Group.rows``, by name.
    """

    content: dict[str, Any]
    groups: list[Group]


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
    problems = [_problem(run) for run in runs if run.status != "finished"] + _never_began(grouped, expected, folds)
    groups = [_group(name, members, replicates) for name, members in grouped.items() if any(_done(members))]
    content: dict[str, Any] = {
        "complete": not problems,
        "problems": problems,
        "expected": len(runs) + sum(problem["status"] == "never began" for problem in problems),
        "finished": sum(run.status == "finished" for run in runs),
        "bootstrap": {"replicates": replicates, "seed": BOOTSTRAP_SEED, "level": 0.95, "unit": "patient"},
        "groups": [group.content for group in groups],
        "comparisons": _comparisons(groups),
    }
    return Summary(content, groups)


def _done(members: Iterable[Run]) -> Iterable[bool]:
    return (run.predictions is not None for run in members)


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
            telling = {k: v for k, v in plain_options(options).items() if k not in NEUTRAL - {"fold", "seed"}}
            if not any(telling.items() <= run.overrides.items() for run in runs):
                missing.append({"options": dict(options), "fold": options.get("fold"), "seed": options.get("seed")})
    else:
        for members in grouped.values():
            for seed in sorted({run.seed for run in members if not run.pooled}):
                there = {run.fold for run in members if run.seed == seed}
                missing += [
                    {"options": members[0].overrides | {"fold": str(fold)}, "fold": fold, "seed": seed}
                    for fold in range(1, folds + 1)
                    if fold not in there
                ]
    return [problem | {"status": "never began", "cause": "no run of it was found"} for problem in missing]


def _group(name: str, runs: list[Run], replicates: int) -> Group:
    group = Group(name, runs, pd.DataFrame(), np.zeros((0, 0)))
    first = group.finished[0]
    group.rows = _test_rows((run, run.predictions) for run in group.finished)
    group.draws = st.patient_bootstrap(
        group.rows["patient"].to_numpy(), group.rows["weight"].to_numpy(), replicates, BOOTSTRAP_SEED
    )
    assert first.predictions is not None
    classes = classes_of(first.predictions)
    rows = group.rows
    data = first.provenance.get("data", {})
    group.content = {
        "name": name,
        "data": str(rows["data"].iloc[0]),
        "synthetic": bool(data.get("synthetic", False)),
        "protocol": "pooled" if first.pooled else data.get("protocol", "published"),
        "permuted_labels": bool(data.get("permuted_labels", False)),
        "classes": classes,
        "folds": sorted({run.fold for run in group.finished}, key=str),
        "seeds": sorted({run.seed for run in group.finished}),
        "pictures": int(rows["image"].nunique()),
        "patients": int(rows["patient"].nunique()),
        "runs": [_run_content(run) for run in group.finished],
        "mean_sd": _mean_sd(group),
        "pooled": _pooled(rows, group.draws),
        "wilson_accuracy": _wilson(rows),
        "per_class": _per_class(rows, group.draws, classes),
        "confusion": st.confusion(*_codes(rows, classes), len(classes), rows["weight"].to_numpy()[None])[0].tolist(),
        "mpox": _against_rest(group, str(first.config.get("positive_class")), classes),
        "calibration": _calibration(group),
        "coverage": _coverage(group),
        "variance": _variance(group),
        "baselines": _baselines(group),
        "permutation_control": None,
        "confused": _most_confused(rows),
    }
    if group.content["permuted_labels"]:
        low, high = group.content["pooled"][PRIMARY][1:]
        group.content["permutation_control"] = bool(low <= 1 / len(classes) <= high)
    return group


def _test_rows(tables: Iterable[tuple[Run, pd.DataFrame | None]]) -> pd.DataFrame:
    parts = [
        table[table["split"] == "test"].assign(run=run.folder.name, seed=run.seed)
        for run, table in tables
        if table is not None
    ]
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(weight=1 / rows.groupby(["seed", "image"])["image"].transform("size"))


def _codes(rows: pd.DataFrame, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    number = {name: label for label, name in enumerate(classes)}
    return rows["label"].map(number).to_numpy(), rows["prediction"].map(number).to_numpy()


def _scores(rows: pd.DataFrame, draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return each metric, float (R,): pooled over the folds, then averaged over the seeds."""
    by_seed = []
    for seed in sorted(set(rows["seed"])):
        chosen = (rows["seed"] == seed).to_numpy()
        part = rows[chosen]
        by_seed.append(st.scores(_codes(part, classes_of(rows))[0], probabilities_of(part), draws[:, chosen]))
    return {name: np.mean([values[name] for values in by_seed], axis=0) for name in by_seed[0]}


def _pooled(rows: pd.DataFrame, draws: np.ndarray) -> dict[str, list[float]]:
    """Return value, low and high of each metric."""
    value, drawn = _scores(rows, rows["weight"].to_numpy()[None]), _scores(rows, draws)
    return {name: [float(value[name][0]), *st.percentile_interval(drawn[name])] for name in st.METRICS}


def _run_content(run: Run) -> dict[str, Any]:
    assert run.predictions is not None
    test = run.predictions[run.predictions["split"] == "test"]
    return {
        "folder": str(run.folder),
        "fold": run.fold,
        "seed": run.seed,
        "pictures": len(test),
        "patients": int(test["patient"].nunique()),
        "metrics": {k: v for k, v in run.metrics.items() if k.count("/") == 1},
        "counts": run.provenance.get("data", {}).get("counts", {}),
        "fingerprint": run.provenance.get("data", {}).get("fingerprint"),
        "seconds": run.provenance.get("durations", {}).get("total_s"),
        "command": run.provenance.get("command"),
        "git": run.provenance.get("git"),
        "packages": run.provenance.get("packages", {}),
        "accelerator": run.provenance.get("accelerator", {}),
    }


def _fold_means(group: Group, metric: str) -> dict[int | str, float]:
    """Return the metric of each fold, averaged over seeds."""
    table = pd.DataFrame(
        [(run.fold, run.metrics.get(f"test/{metric}")) for run in group.finished], columns=["fold", "value"]
    )
    return {
        fold: float(value) for fold, value in table.astype({"value": float}).groupby("fold")["value"].mean().items()
    }


def _mean_sd(group: Group) -> dict[str, list[float]]:
    """Return mean, sample SD and number of folds of each metric; a fold with several seeds counts as their mean."""
    found = {}
    for metric in st.METRICS:
        values = np.array(list(_fold_means(group, metric).values()))
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


def _per_class(rows: pd.DataFrame, draws: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    labels, _ = _codes(rows, classes)
    probabilities, weight = probabilities_of(rows), rows["weight"].to_numpy()[None] / rows["seed"].nunique()
    value = st.per_class(labels, probabilities, weight)
    # all seeds together: a class's counts are sums, and its areas compare pictures of all seeds
    drawn = st.per_class(labels, probabilities, draws)
    found: dict[str, dict[str, Any]] = {}
    for label, name in enumerate(classes):
        found[name] = {"support": float(value["support"][0, label]), "few": bool(value["support"][0, label] < FEW)}
        for metric in value:
            if metric != "support":
                interval = st.percentile_interval(drawn[metric][:, label]) if metric in drawn else (math.nan, math.nan)
                found[name][metric] = [float(value[metric][0, label]), *interval]
    return found


def _against_rest(group: Group, name: str, classes: Sequence[str]) -> dict[str, Any] | None:
    """Return the clinical question: one class against the rest, at the threshold that is best on each run's Valid."""
    if name not in classes:
        return None
    column, flagged, thresholds = f"p_{name}", [], []
    for run in group.finished:
        assert run.predictions is not None
        val = run.predictions[run.predictions["split"] == "val"]
        threshold = 0.5
        if 0 < (val["label"] == name).sum() < len(val):
            threshold = st.youden_threshold((val["label"] == name).to_numpy(), val[column].to_numpy())
        thresholds.append(threshold)
        flagged.append((run.predictions.loc[run.predictions["split"] == "test", column] >= threshold).to_numpy())
    truth, weight = (group.rows["label"] == name).to_numpy(), group.rows["weight"].to_numpy()[None]
    value, drawn = (st.binary(truth, np.concatenate(flagged), w) for w in (weight, group.draws))
    found = {key: [float(value[key][0]), *st.percentile_interval(drawn[key])] for key in value}
    return {"class": name, "prevalence": float(np.average(truth, weights=weight[0])), "thresholds": thresholds} | found


def _calibration(group: Group) -> dict[str, list[float]]:
    """Return [before, after] a temperature that was fitted on each run's Valid, and the temperatures."""
    warmed, temperatures = [], []
    for run in group.finished:
        assert run.predictions is not None
        table, classes = run.predictions, classes_of(run.predictions)
        val, test = table[table["split"] == "val"], table[table["split"] == "test"]
        temperature = st.temperature(_codes(val, classes)[0], probabilities_of(val)) if len(val) else 1.0
        temperatures.append(temperature)
        warmed.append(st.apply_temperature(probabilities_of(test), temperature))
    columns = [f"p_{name}" for name in classes_of(group.rows)]
    after_rows = group.rows.copy()
    after_rows[columns] = np.concatenate(warmed)
    weight = group.rows["weight"].to_numpy()[None]
    before, after = _scores(group.rows, weight), _scores(after_rows, weight)
    found = {name: [float(before[name][0]), float(after[name][0])] for name in ("ece", "brier", "log_loss")}
    return found | {"temperatures": temperatures}


def _coverage(group: Group) -> dict[str, Any]:
    """Return how the test sets cover the pictures that the runs were given."""
    counts = group.finished[0].provenance.get("data", {}).get("counts", {})
    total = sum(c["pictures"] for split in counts.values() for c in split.values()) if counts else None
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
    table = pd.DataFrame(cells, columns=["fold", "seed", "value"]).pivot(index="fold", columns="seed", values="value")
    if min(table.shape) < 2 or table.isna().to_numpy().any():
        return None
    return {name: float(value) for name, value in st.variance_components(table.to_numpy(float)).items()}


def _baselines(group: Group) -> dict[str, dict[str, list[float]]]:
    """Return value, low and high of each baseline's metrics, on the same pictures with the same draws."""
    tables = [(run, run.baselines) for run in group.finished]
    if any(table is None for _, table in tables):
        return {}
    found = {}
    for model in dict.fromkeys(tables[0][1]["model"]):  # type: ignore[index]
        rows = _test_rows((run, table[table["model"] == model]) for run, table in tables if table is not None)
        found[str(model)] = _pooled(rows, group.draws)
    return found


def _most_confused(rows: pd.DataFrame, most: int = 5) -> list[list[Any]]:
    wrong = rows[rows["label"] != rows["prediction"]]
    pairs = wrong.groupby(["label", "prediction"])["weight"].sum().sort_values(ascending=False)
    return [[*map(str, pair), float(count)] for pair, count in pairs.head(most).items()]


def _comparisons(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Compare every two groups that were tested on the same folds under the same protocol."""
    found: list[dict[str, Any]] = []
    for i, one in enumerate(groups):
        for other in groups[i + 1 :]:
            keys = ("data", "protocol", "folds", "classes")
            fingerprints = [{(r["fold"], r["fingerprint"]) for r in g.content["runs"]} for g in (one, other)]
            if all(one.content[k] == other.content[k] for k in keys) and fingerprints[0] == fingerprints[1]:
                found.append(_compare(one, other))
    for metric in HEADLINE:
        adjusted = st.holm(np.array([c[metric]["p"] for c in found]))
        for comparison, p in zip(found, adjusted, strict=True):
            comparison[metric]["p_holm"] = float(p)
    for comparison in found:
        comparison["sentence"] = _sentence(comparison)
    return found


def _compare(one: Group, other: Group) -> dict[str, Any]:
    both = pd.concat([one.rows, other.rows], keys=["one", "other"], names=["group", "row"]).reset_index("group")
    draws = st.patient_bootstrap(both["patient"].to_numpy(), both["weight"].to_numpy(), len(one.draws), BOOTSTRAP_SEED)
    first = (both["group"] == "one").to_numpy()
    values = [_scores(g.rows, g.rows["weight"].to_numpy()[None]) for g in (one, other)]
    drawn = [_scores(both[first], draws[:, first]), _scores(both[~first], draws[:, ~first])]
    ratios = []
    for run in one.finished:
        counts = run.provenance.get("data", {}).get("counts", {})
        sizes = {split: sum(c["pictures"] for c in by_class.values()) for split, by_class in counts.items()}
        if sizes.get("train"):
            ratios.append(sizes["test"] / sizes["train"])
    ratio = float(np.mean(ratios)) if ratios else 1 / 4
    found: dict[str, Any] = {"one": one.name, "other": other.name, "test_train_ratio": ratio}
    for metric in HEADLINE:
        folds = [_fold_means(g, metric) for g in (one, other)]
        differences = np.array([folds[0][fold] - folds[1][fold] for fold in folds[0]])
        entry: dict[str, Any] = {"difference": float(values[0][metric][0] - values[1][metric][0])}
        entry["low"], entry["high"] = st.percentile_interval(drawn[0][metric] - drawn[1][metric])
        entry["by_fold"] = differences.tolist()
        entry["p"] = st.corrected_resampled_t(differences, ratio).p if len(differences) > 1 else math.nan
        found[metric] = entry
    seed = min(set(one.rows["seed"]) & set(other.rows["seed"]), default=None)
    found["mcnemar_p"] = math.nan
    if seed is not None:
        tables = [g.rows[g.rows["seed"] == seed].set_index(["fold", "image"]).sort_index() for g in (one, other)]
        right = [(t["label"] == t["prediction"]).to_numpy() for t in tables]
        if tables[0].index.equals(tables[1].index):
            found["mcnemar_p"] = float(st.mcnemar(*right))
    return found


def _sentence(comparison: Mapping[str, Any]) -> str:
    entry = comparison[PRIMARY]
    names = f"{comparison['one']} and {comparison['other']}"
    numbers = (
        f"balanced accuracy differs by {entry['difference']:+.3f} (95 % interval {entry['low']:+.3f} to {entry['high']:+.3f}; "
        f"p = {entry['p_holm']:.3f} by the corrected resampled t-test, Holm-adjusted)"
    )
    if entry["p_holm"] < 0.05 and not entry["low"] <= 0 <= entry["high"]:
        better = comparison["one"] if entry["difference"] > 0 else comparison["other"]
        return f"{better} is better of {names}: {numbers}."
    return f"No difference between {names} can be shown: {numbers}. This does not show that they are equal."
