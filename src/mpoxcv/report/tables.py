"""The tables of a summary, every cell as text: for the report, the terminal, and a paper."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mpoxcv.evaluation.groups import HEADLINE
from mpoxcv.evaluation.summary import Summary

NOT_REPORTED = "NOT REPORTED"
NAMES = {
    "balanced_accuracy": "balanced accuracy", "f1_macro": "macro F1", "accuracy": "accuracy", "auroc_macro": "macro AUROC",
    "ece": "ECE", "brier": "Brier score", "log_loss": "log loss", "precision": "PPV (precision)", "npv": "NPV", "ppv": "PPV",
    "recall": "sensitivity (recall)", "f1": "F1", "auroc": "AUROC", "average_precision": "average precision",
}  # fmt: skip


def tables_of(summary: Summary) -> dict[str, pd.DataFrame]:
    """Return the report's tables by name, every cell as text."""
    groups = summary.content["groups"]
    runs = [(group, run) for group in groups for run in group["runs"]]
    published = []
    if any(group["data"].startswith("msld_v2") for group in groups):
        table = pd.read_csv(Path(__file__).with_name("published_results.csv"))
        published = table.astype(object).fillna("").astype(str).to_dict("records")

    rows_of = {
        "results": _named_apart(groups),
        # apart, since the same runs anew take another time
        "cost": [_cost_row(group) for group in groups],
        "folds": [_run_row(group["name"], run) for group, run in runs],
        "per_class": [_class_row(group, name) for group in groups for name in group["per_class"]],
        "mpox": [_question_row(group) for group in groups if group["mpox"]],
        "calibration": [_calibration_row(group) for group in groups],
        "comparisons": [_comparison_row(pair) for pair in summary.content["comparisons"]],
        "data": _data_rows(runs),
        "published": published,
        "origin": [_origin_row(group["name"], run) for group, run in runs],
    }
    # models on the same pictures share their baselines
    tables = {name: pd.DataFrame(rows).drop_duplicates() for name, rows in rows_of.items() if rows}
    return {name: table.fillna("") for name, table in tables.items()}


def _named_apart(groups: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return all results; baselines that models share stand once, others say whose they are."""
    whose: dict[tuple[tuple[str, str], ...], str] = {}
    for group in groups:
        for row in _result_rows(group):
            whose.setdefault(tuple(row.items()), group["name"])
    names = Counter(dict(row)["model"] for row in whose)
    rows = []
    for cells, name in whose.items():
        row = dict(cells)
        row["model"] += f", pictures as {name} gets them" if names[row["model"]] > 1 else ""
        rows.append(row)
    return rows


def _result_rows(content: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a group's results, and those of its ensemble and of its baselines."""
    results = [(content["name"], content)]
    if ensemble := content["ensemble"]:
        few, many = ensemble["networks"]
        networks = f"{few} networks" if few == many else f"{few} to {many} networks"
        name = f"{content['name']}: a picture by the average of its {networks}"
        results.append((name, ensemble))
    baselines = content["baselines"].items()
    results += [(f"{name} (baseline)", {"pooled": pooled}) for name, pooled in baselines]

    rows = []
    for name, result in results:
        cells = _intervals({metric: result["pooled"][metric] for metric in HEADLINE})
        for metric in HEADLINE[:3]:
            mean, sd, n = result.get("mean_sd", {}).get(metric, (0, 0, 0))
            if n > 1:
                cells[f"{NAMES[metric]}, mean ± SD"] = f"{mean:.3f} ± {sd:.3f} (n = {n})"
        rows.append({"model": name, "protocol": content["data"]} | cells)
    return rows


def _cost_row(content: Mapping[str, Any]) -> dict[str, str]:
    seconds = pd.Series([run["seconds"] for run in content["runs"]], dtype=float)
    mean = NOT_REPORTED if seconds.isna().all() else f"{seconds.mean():.0f}"
    return {"model": content["name"], "runs": str(len(seconds)), "seconds a run": mean}


def _run_row(name: str, run: Mapping[str, Any]) -> dict[str, str]:
    cells = {key: str(run[key]) for key in ("fold", "seed", "pictures", "patients")}
    metrics = {NAMES[metric]: number(run["metrics"].get(f"test/{metric}")) for metric in HEADLINE}
    return {"model": name} | cells | metrics


def _class_row(content: Mapping[str, Any], name: str) -> dict[str, str]:
    values = content["per_class"][name]
    support = f"{values['support']:g}" + (" (few)" if values["few"] else "")
    row = {"model": content["name"], "class": name, "pictures": support}
    return row | _intervals(values)


def _question_row(content: Mapping[str, Any]) -> dict[str, str]:
    question = content["mpox"]
    return {
        "model": content["name"],
        "class": question["class"],
        **_intervals(question),
        "AUROC": interval(content["per_class"][question["class"]]["auroc"]),
        "prevalence": number(question["prevalence"]),
        "thresholds": ", ".join(map(number, question["thresholds"])),
    }


def _calibration_row(content: Mapping[str, Any]) -> dict[str, str]:
    calibration = content["calibration"]
    metrics = ("ece", "brier", "log_loss")
    cells = {NAMES[metric]: " → ".join(map(number, calibration[metric])) for metric in metrics}
    temperatures = ", ".join(f"{t:.2f}" for t in calibration["temperatures"])
    return {"model": content["name"], **cells, "temperatures": temperatures}


def _comparison_row(pair: Mapping[str, Any]) -> dict[str, str]:
    row = {"models": f"{pair['one']} - {pair['other']}"}
    for metric in HEADLINE:
        difference = interval([pair[metric][key] for key in ("difference", "low", "high")])
        p = number(pair[metric]["p_holm"])
        row[f"difference in {NAMES[metric]} (p, Holm)"] = f"{difference} (p = {p})"
    return row | {"McNemar p": number(pair["mcnemar_p"])}


def _data_rows(runs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[dict[str, str]]:
    cell = "{pictures} ({copies}; {patients})"
    unknown = dict.fromkeys(("pictures", "copies", "patients"), "?")
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for group, run in runs:
        for split, classes in run["counts"].items():
            key = {"data": group["data"], "fold": str(run["fold"]), "split": split}
            cells = {name: cell.format(**unknown | numbers) for name, numbers in classes.items()}
            rows.setdefault(tuple(key.values()), key | cells)
    return list(rows.values())


def _origin_row(name: str, run: Mapping[str, Any]) -> dict[str, str]:
    git, packages = run["git"] or {}, run["packages"]
    names = [package for package in ("mpoxcv", "torch", "lightning") if packages.get(package)]
    versions = ", ".join(f"{package} {packages[package]}" for package in names)
    return {
        "model": name, "fold": str(run["fold"]), "seed": str(run["seed"]), "data": (run["fingerprint"] or NOT_REPORTED)[:12],
        "commit": (str(git.get("commit", NOT_REPORTED))[:12] + (" (changed)" if git.get("changed") else "")),
        "versions": versions or NOT_REPORTED, "device": str(run["accelerator"].get("type", NOT_REPORTED)),
        "seconds": number(run["seconds"]), "command": run["command"] or NOT_REPORTED,
        "checkpoint (SHA-256)": (run["checkpoint"] or NOT_REPORTED)[:12],
    }  # fmt: skip


def _intervals(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the intervals among the values as text, by the metric's printed name."""
    return {
        NAMES.get(name, name): interval(value)
        for name, value in values.items()
        if isinstance(value, list) and name not in ("thresholds", "unchosen")
    }


def interval(values: Sequence[float]) -> str:
    """Return value, low and high as text."""
    value, low, high = values
    return number(value) if pd.isna(low) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def number(value: float | None) -> str:
    """Return a value as text; None and NaN are not defined."""
    return "not defined" if value is None or pd.isna(value) else f"{value:.3f}"
