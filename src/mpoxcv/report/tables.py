"""The tables of a summary, every cell as text: for the report, the terminal, and a paper."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mpoxcv.evaluation.groups import HEADLINE
from mpoxcv.evaluation.runs import LEAKING
from mpoxcv.evaluation.summary import Summary

Content = Mapping[str, Any]
NOT_REPORTED = "NOT REPORTED"
NAMES = {
    "balanced_accuracy": "balanced accuracy", "f1_macro": "macro F1", "accuracy": "accuracy", "auroc_macro": "macro AUROC",
    "ece": "ECE", "brier": "Brier score", "log_loss": "log loss", "precision": "PPV (precision)",
    "npv": "NPV", "ppv": "PPV",
    "recall": "sensitivity (recall)", "f1": "F1", "auroc": "AUROC", "average_precision": "average precision",
}  # fmt: skip


# in this order; each has tables of its own
PROTOCOLS = {
    "published": "",
    "grouped": "folds made anew",
    LEAKING: "LEAKING: tested on what was trained on",
}


def protocols_of(summary: Summary) -> list[str]:
    """Return the groups' protocols: numbers of different ones never stand in one table."""
    used = {group.content["protocol"] for group in summary.groups}
    return sorted(used, key=[*PROTOCOLS, *used].index)


def tables_of(summary: Summary) -> dict[str, pd.DataFrame]:
    """Return the report's tables by name, every cell as text.

    Those of a second and third protocol are ``<name>_<protocol>``.
    """
    content = summary.content
    tables: dict[str, list[dict[str, str]]] = {}
    for place, protocol in enumerate(protocols_of(summary)):
        groups = [group for group in content["groups"] if group["protocol"] == protocol]
        baselines = [b.content for b in summary.baselines if b.content["protocol"] == protocol]
        suffix = f"_{protocol}" if place else ""
        for name, rows in _tables_of_protocol(groups, baselines).items():
            tables[f"{name}{suffix}"] = rows
        pairs = [
            c for c in content["comparisons"] if c["one"] in {group["name"] for group in groups}
        ]
        tables[f"comparisons{suffix}"] = [_comparison_row(pair) for pair in pairs]

    runs = [(group, run) for group in content["groups"] for run in group["runs"]]
    if any(group["data"].startswith("msld_v2") for group in content["groups"]):
        table = pd.read_csv(Path(__file__).with_name("published_results.csv"))
        tables["published"] = table.astype(object).fillna("").astype(str).to_dict("records")
    tables["origin"] = [_origin_row(group["name"], run) for group, run in runs]
    frames = {name: pd.DataFrame(rows) for name, rows in tables.items() if rows}
    return {name: frame.drop_duplicates().fillna("") for name, frame in frames.items()}


def _tables_of_protocol(
    groups: Sequence[Content], baselines: Sequence[Content]
) -> dict[str, list[dict[str, str]]]:
    runs = [(group, run) for group in groups for run in group["runs"]]
    asked = [group for group in groups if group["mpox"]]
    return {
        "results": [row for content in (*groups, *baselines) for row in _result_rows(content)],
        "folds": [_run_row(group["name"], run) for group, run in runs],
        "per_class": [_class_row(group, name) for group in groups for name in group["per_class"]],
        "mpox": [_question_row(group) for group in asked],
        "thresholds": [_threshold_row(group, row) for group in asked for row in group["mpox"]["thresholds"]],
        "calibration": [_calibration_row(group) for group in groups],
        "data": _data_rows(groups, runs),
    }  # fmt: skip


def _result_rows(content: Content) -> list[dict[str, str]]:
    """Return the results of a group or baseline, and those of a group's ensemble."""
    results = [(content["name"], content)]
    if ensemble := content.get("ensemble"):
        few, many = ensemble["networks"]
        networks = f"{few} networks" if few == many else f"{few} to {many} networks"
        results.append((f"{content['name']}: a picture by the average of its {networks}", ensemble))

    rows = []
    for name, result in results:
        cells = _intervals({metric: result["pooled"][metric] for metric in HEADLINE})
        for metric in HEADLINE[:3]:
            mean, sd, n = result.get("mean_sd", {}).get(metric, (0, 0, 0))
            if n > 1:
                cells[f"{NAMES[metric]}, mean ± SD"] = f"{mean:.3f} ± {sd:.3f} (n = {n})"
        mean, low, high = result.get("procedure", {}).get(HEADLINE[0], [0, 0, 0])
        if low < high:
            cells["balanced accuracy, trained anew"] = interval([mean, low, high])
        rows.append({"model": name, "data": content["data"]} | cells)
    return rows


def _run_row(name: str, run: Content) -> dict[str, str]:
    cells = {key: str(run[key]) for key in ("fold", "seed", "pictures", "patients")}
    metrics = {NAMES[metric]: number(run["metrics"].get(f"test/{metric}")) for metric in HEADLINE}
    return {"model": name} | cells | metrics


def _class_row(content: Content, name: str) -> dict[str, str]:
    values = content["per_class"][name]
    patients = f"{values['patients']}{' (few)' if values['few'] else ''}"
    row = {"model": content["name"], "class": name, "pictures": str(values["support"])}
    return row | {"patients": patients} | _intervals(values)


def _question_row(content: Content) -> dict[str, str]:
    question = content["mpox"]
    return {
        "model": content["name"],
        "class": question["class"],
        **_intervals(question),
        "AUROC": interval(content["per_class"][question["class"]]["auroc"]),
        "prevalence": number(question["prevalence"]),
    }


def _threshold_row(content: Content, row: Content) -> dict[str, str]:
    return {
        "model": content["name"], "fold": str(row["fold"]), "seed": str(row["seed"]),
        f"pictures of Valid ({content['mpox']['class']})": f"{row['val']} ({row['positives']})",
        "threshold": number(row["threshold"]) + ("" if row["chosen"] else " (not chosen)"),
        "Youden's J on Valid, which chose it": number(row["youden_val"]),
        "Youden's J on Test": number(row["youden_test"]),
    }  # fmt: skip


def _calibration_row(content: Content) -> dict[str, str]:
    calibration = content["calibration"]
    row = {"model": content["name"]}
    for metric in ("log_loss", "brier", "ece"):
        values, shares = calibration["before"][metric], calibration["shares"][metric]
        # a resample's ECE is larger than the sample's
        said = number(values[0]) if metric == "ece" else interval(values)
        row[NAMES[metric]] = f"{said} → {number(calibration['after'][metric][0])}"
        if metric != "ece":
            row[f"{NAMES[metric]} of the classes' shares"] = number(shares)
            row[f"skill by {NAMES[metric]}"] = number(1 - values[0] / shares if shares else None)
    for name in ("intercept", "slope"):
        if name in calibration:
            row[f"{name} ({calibration['class']})"] = interval(calibration[name])
    temperatures = (
        f"{t:.2f} ({n})"
        for t, n in zip(calibration["temperatures"], calibration["val"], strict=True)
    )
    return row | {"temperatures (pictures of Valid)": ", ".join(temperatures)}


def _comparison_row(pair: Content) -> dict[str, str]:
    row = {"models": f"{pair['one']} - {pair['other']}"}
    for metric in HEADLINE:
        entry, name = pair[metric], NAMES[metric]
        difference = interval([entry[key] for key in ("difference", "low", "high")])
        row[f"difference in {name} (p, Holm)"] = f"{difference} ({p_value(entry['p_holm'])})"
        if metric == HEADLINE[0]:
            mean, half = entry["mean"], entry["half"]
            row[f"{name}, mean over folds"] = interval([mean, mean - half, mean + half])
            row["smallest that could be shown"] = number(half)
    return row


def _data_rows(
    groups: Sequence[Content], runs: Iterable[tuple[Content, Content]]
) -> list[dict[str, str]]:
    cell = "{pictures} ({copies}; {patients})"
    unknown = dict.fromkeys(("pictures", "copies", "patients"), "?")
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for group, run in runs:
        for split, classes in run["counts"].items():
            key = {"data": group["data"], "fold": str(run["fold"]), "split": split}
            cells = {name: cell.format(**unknown | numbers) for name, numbers in classes.items()}
            rows.setdefault(tuple(key.values()), key | cells)
    for group in groups:
        key = {"data": group["data"], "fold": "all", "split": "tested"}
        totals = {
            name: f"{values['support']} (0; {values['patients']})"
            for name, values in group["per_class"].items()
        }
        rows.setdefault((*key.values(), str(totals)), key | totals)
    return list(rows.values())


def _origin_row(name: str, run: Content) -> dict[str, str]:
    git, packages = run["git"] or {}, run["packages"]
    names = [package for package in ("mpoxcv", "torch", "lightning") if packages.get(package)]
    versions = ", ".join(f"{package} {packages[package]}" for package in names)
    return {
        "model": name, "fold": str(run["fold"]), "seed": str(run["seed"]), "data": (run["fingerprint"] or NOT_REPORTED)[:12],
        "commit": (str(git.get("commit", NOT_REPORTED))[:12] + (" (changed)" if git.get("changed") else "")),
        "versions": versions or NOT_REPORTED, "device": _device(run["accelerator"]),
        "seconds": number(run["seconds"]), "command": run["command"] or NOT_REPORTED,
        "checkpoint (SHA-256)": (run["checkpoint"] or NOT_REPORTED)[:12],
    }  # fmt: skip


def _device(accelerator: Content) -> str:
    kind, name = accelerator.get("type"), accelerator.get("name")
    return f"{kind}, {name}" if kind and name else str(kind or NOT_REPORTED)


def _intervals(values: Content) -> dict[str, str]:
    """Return the intervals among the values as text, by the metric's printed name."""
    return {
        NAMES.get(name, name): interval(value)
        for name, value in values.items()
        if isinstance(value, list) and name != "thresholds"
    }


def interval(values: Sequence[float]) -> str:
    """Return value, low and high as text."""
    value, low, high = values
    return number(value) if pd.isna(low) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def p_value(p: float) -> str:
    """Return a p-value as text."""
    return "no test" if pd.isna(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def number(value: float | None) -> str:
    """Return a value as text; None and NaN are not defined."""
    return "not defined" if value is None or pd.isna(value) else f"{value:.3f}"
