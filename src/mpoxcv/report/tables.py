"""The tables of a summary, every cell as text: for the report, the terminal, and a paper."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mpoxcv.evaluation.groups import HEADLINE, Group
from mpoxcv.evaluation.summary import Summary

NOT_REPORTED = "NOT REPORTED"
NAMES = {
    "balanced_accuracy": "balanced accuracy", "f1_macro": "macro F1", "accuracy": "accuracy", "auroc_macro": "macro AUROC",
    "ece": "ECE", "brier": "Brier score", "log_loss": "log loss", "precision": "PPV (precision)", "npv": "NPV", "ppv": "PPV",
    "recall": "sensitivity (recall)", "f1": "F1", "auroc": "AUROC", "average_precision": "average precision",
}  # fmt: skip

TITLES = {
    "results": "Results: pooled value with 95 % interval over patients, and mean ± SD over folds",
    "folds": "Every run",
    "per_class": "Every class against the rest: pooled value with 95 % interval over patients",
    "mpox": "The clinical question: one class against the rest, at a threshold chosen on Valid",
    "calibration": "Calibration, before and after a temperature fitted on Valid",
    "comparisons": "Comparisons on the same pictures",
    "data": "Pictures (augmented copies; patients) by fold, split and class",
    "published": "Published results on MSLD v2.0",
    "origin": "Where every number comes from",
}


def tables_of(summary: Summary) -> dict[str, pd.DataFrame]:
    """Return the report's tables by name, every cell as text."""
    tables: dict[str, list[dict[str, str]]] = {name: [] for name in TITLES}
    for group in summary.groups:
        content = group.content
        tables["results"].append(
            {"model": group.name, "protocol": content["data"]} | _result_cells(content)
        )
        if ensemble := content["ensemble"]:
            few, many = ensemble["networks"]
            networks = f"{few} networks" if few == many else f"{few} to {many} networks"
            name = f"{group.name}: a picture by the average of its {networks}"
            tables["results"].append(
                {"model": name, "protocol": content["data"]} | _result_cells(ensemble)
            )
        for name, values in content["baselines"].items():
            cells = {NAMES[metric]: interval(values[metric]) for metric in HEADLINE}
            row = {"model": f"{name} (baseline)", "protocol": content["data"]} | cells
            if row not in tables["results"]:  # of another model on the same pictures
                tables["results"].append(row)
        for run in content["runs"]:
            cells = {
                NAMES[metric]: number(run["metrics"].get(f"test/{metric}")) for metric in HEADLINE
            }
            sizes = {"pictures": str(run["pictures"]), "patients": str(run["patients"])}
            tables["folds"].append(
                {"model": group.name, "fold": str(run["fold"]), "seed": str(run["seed"])}
                | sizes
                | cells
            )
        for name, values in content["per_class"].items():
            support = f"{values['support']:g}" + (" (few)" if values["few"] else "")
            cells = {
                NAMES.get(k, k): interval(v)
                for k, v in values.items()
                if k not in ("support", "few")
            }
            tables["per_class"].append(
                {"model": group.name, "class": name, "pictures": support} | cells
            )
        if content["mpox"]:
            cells = {
                NAMES.get(k, k): interval(v)
                for k, v in content["mpox"].items()
                if isinstance(v, list) and k not in ("thresholds", "unchosen")
            }
            area = content["per_class"][content["mpox"]["class"]]["auroc"]
            row = {"model": group.name, "class": content["mpox"]["class"]}
            row |= cells | {
                "AUROC": interval(area),
                "prevalence": number(content["mpox"]["prevalence"]),
            }
            tables["mpox"].append(
                row | {"thresholds": ", ".join(map(number, content["mpox"]["thresholds"]))}
            )
        calibration = content["calibration"]
        cells = {
            NAMES[k]: " → ".join(map(number, calibration[k])) for k in ("ece", "brier", "log_loss")
        }
        temperatures = ", ".join(f"{t:.2f}" for t in calibration["temperatures"])
        tables["calibration"].append({"model": group.name} | cells | {"temperatures": temperatures})
        tables["data"] += _data_rows(group, tables["data"])
        tables["origin"] += [_origin_row(group.name, run) for run in content["runs"]]
    for c in summary.content["comparisons"]:
        cells = {
            f"difference in {NAMES[metric]} (p, Holm)": interval(
                [c[metric][k] for k in ("difference", "low", "high")]
            )
            + f" (p = {number(c[metric]['p_holm'])})"
            for metric in HEADLINE
        }
        tables["comparisons"].append(
            {"models": f"{c['one']} - {c['other']}"} | cells | {"McNemar p": number(c["mcnemar_p"])}
        )
    if any(g.content["data"].startswith("msld_v2") for g in summary.groups):
        published = pd.read_csv(Path(__file__).with_name("published_results.csv"))
        tables["published"] = published.astype(object).fillna("").astype(str).to_dict("records")
    return {name: pd.DataFrame(rows).fillna("") for name, rows in tables.items() if rows}


def _result_cells(content: Mapping[str, Any]) -> dict[str, str]:
    cells = {NAMES[metric]: interval(content["pooled"][metric]) for metric in HEADLINE}
    for metric in HEADLINE[:3]:
        if metric in content.get("mean_sd", {}):
            mean, sd, n = content["mean_sd"][metric]
            if n > 1:
                cells[f"{NAMES[metric]}, mean ± SD"] = f"{mean:.3f} ± {sd:.3f} (n = {n})"
    return cells


def _data_rows(group: Group, before: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    known = {(row["data"], row["fold"], row["split"]) for row in before}
    rows = []
    for run in group.content["runs"]:
        for split, classes in run["counts"].items():
            key = {"data": group.content["data"], "fold": str(run["fold"]), "split": split}
            if tuple(key.values()) not in known:
                known.add(tuple(key.values()))
                cells = {
                    n: f"{c['pictures']} ({c['copies']}; {c['patients']})"
                    for n, c in classes.items()
                }
                rows.append(key | cells)
    return rows


def _origin_row(name: str, run: Mapping[str, Any]) -> dict[str, str]:
    git, packages = run["git"] or {}, run["packages"]
    versions = ", ".join(
        f"{p} {packages[p]}" for p in ("mpoxcv", "torch", "lightning") if packages.get(p)
    )
    return {
        "model": name, "fold": str(run["fold"]), "seed": str(run["seed"]), "data": (run["fingerprint"] or NOT_REPORTED)[:12],
        "commit": (str(git.get("commit", NOT_REPORTED))[:12] + (" (changed)" if git.get("changed") else "")),
        "versions": versions or NOT_REPORTED, "device": str(run["accelerator"].get("type", NOT_REPORTED)),
        "seconds": number(run["seconds"]), "command": run["command"] or NOT_REPORTED,
        "checkpoint (SHA-256)": (run["checkpoint"] or NOT_REPORTED)[:12],
    }  # fmt: skip


def interval(values: Sequence[float]) -> str:
    """Return value, low and high as text."""
    value, low, high = values
    return number(value) if pd.isna(low) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def number(value: float | None) -> str:
    """Return a value as text; None and NaN are not defined."""
    return "not defined" if value is None or pd.isna(value) else f"{value:.3f}"
