"""A summary as people read it: in the terminal, as report.html and report.md, and as tables for a paper."""

import base64
import importlib.resources
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from plotly.offline import get_plotlyjs
from rich.console import Console
from rich.table import Table

from mpoxcv.evaluation.figures import SYNTHETIC_NOTE, most_confident_mistakes
from mpoxcv.evaluation.predictions import probabilities_of
from mpoxcv.evaluation.summary import FEW, HEADLINE, PRIMARY, Group, Summary
from mpoxcv.files import write_atomically

NOT_REPORTED = "NOT REPORTED"
NAMES = {
    "balanced_accuracy": "balanced accuracy", "f1_macro": "macro F1", "accuracy": "accuracy", "auroc_macro": "macro AUROC",
    "ece": "ECE", "brier": "Brier score", "log_loss": "log loss", "precision": "PPV (precision)", "npv": "NPV",
    "recall": "sensitivity (recall)", "f1": "F1", "auroc": "AUROC", "average_precision": "average precision",
}  # fmt: skip
MISTAKES, THUMBNAIL = 12, 112  # pictures shown, and their size in pixels


def write_report(summary: Summary, folder: str | os.PathLike[str]) -> None:
    """Write summary.json, folds.csv, predictions.csv, tables/, report.html and report.md.

    Args:
        summary: what they say.
        folder: gets the files, each in one piece.
    """
    folder = Path(folder)
    write_atomically(folder / "summary.json", json.dumps(_plain(summary.content), indent=1, ensure_ascii=False) + "\n")
    tables = tables_of(summary)
    for name, table in tables.items():
        write_atomically(folder / "tables" / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
        latex = table.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
        write_atomically(folder / "tables" / f"{name}.tex", latex.to_latex(hrules=True))
    folds = [
        {"group": g.name, "fold": r["fold"], "seed": r["seed"], "pictures": r["pictures"], **r["metrics"]}
        for g in summary.groups
        for r in g.content["runs"]
    ]
    write_atomically(folder / "folds.csv", pd.DataFrame(folds).to_csv(index=False, lineterminator="\n"))
    if summary.groups:
        ledger = pd.concat([group.rows.assign(group=group.name) for group in summary.groups])
        write_atomically(
            folder / "predictions.csv", ledger.to_csv(index=False, float_format="%.9g", lineterminator="\n")
        )
    environment = Environment(
        loader=PackageLoader("mpoxcv.evaluation", ""), autoescape=lambda name: bool(name and "html" in name),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    common = {
        "summary": summary.content, "groups": summary.groups, "verdict": verdict(summary), "tables": tables,
        "warnings": warnings_of(summary), "gaps": gaps_of(summary), "few": FEW, "titles": TITLES,
    }  # fmt: skip
    write_atomically(folder / "report.md", environment.get_template("report.md.j2").render(common))
    page = environment.get_template("report.html.j2")
    write_atomically(
        folder / "report.html",
        page.render(common, figures=_figures(summary), mistakes=_mistakes(summary), plotly_script=get_plotlyjs()),
    )


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
        tables["results"].append({"model": group.name, "protocol": content["data"]} | _result_cells(content))
        for name, values in content["baselines"].items():
            cells = {NAMES[metric]: _interval(values[metric]) for metric in HEADLINE}
            row = {"model": f"{name} (baseline)", "protocol": content["data"]} | cells
            if row not in tables["results"]:  # of another model on the same pictures
                tables["results"].append(row)
        for run in content["runs"]:
            cells = {NAMES[metric]: _number(run["metrics"].get(f"test/{metric}")) for metric in HEADLINE}
            sizes = {"pictures": str(run["pictures"]), "patients": str(run["patients"])}
            tables["folds"].append(
                {"model": group.name, "fold": str(run["fold"]), "seed": str(run["seed"])} | sizes | cells
            )
        for name, values in content["per_class"].items():
            support = f"{values['support']:g}" + (" (few)" if values["few"] else "")
            cells = {NAMES.get(k, k): _interval(v) for k, v in values.items() if k not in ("support", "few")}
            tables["per_class"].append({"model": group.name, "class": name, "pictures": support} | cells)
        if content["mpox"]:
            cells = {
                NAMES.get(k, k): _interval(v)
                for k, v in content["mpox"].items()
                if isinstance(v, list) and k != "thresholds"
            }
            area = content["per_class"][content["mpox"]["class"]]["auroc"]
            row = {"model": group.name, "class": content["mpox"]["class"]}
            tables["mpox"].append(
                row | cells | {"AUROC": _interval(area), "prevalence": _number(content["mpox"]["prevalence"])}
            )
        calibration = content["calibration"]
        cells = {NAMES[k]: " → ".join(map(_number, calibration[k])) for k in ("ece", "brier", "log_loss")}
        temperatures = ", ".join(f"{t:.2f}" for t in calibration["temperatures"])
        tables["calibration"].append({"model": group.name} | cells | {"temperatures": temperatures})
        tables["data"] += _data_rows(group, tables["data"])
        tables["origin"] += [_origin_row(group.name, run) for run in content["runs"]]
    for c in summary.content["comparisons"]:
        cells = {
            f"difference in {NAMES[metric]} (p, Holm)": _interval([c[metric][k] for k in ("difference", "low", "high")])
            + f" (p = {_number(c[metric]['p_holm'])})"
            for metric in HEADLINE
        }
        tables["comparisons"].append(
            {"models": f"{c['one']} - {c['other']}"} | cells | {"McNemar p": _number(c["mcnemar_p"])}
        )
    if any(g.content["data"].startswith("msld_v2") for g in summary.groups):
        with importlib.resources.files("mpoxcv.evaluation").joinpath("published_results.csv").open() as stream:
            tables["published"] = pd.read_csv(stream).astype(object).fillna("").astype(str).to_dict("records")
    return {name: pd.DataFrame(rows).fillna("") for name, rows in tables.items() if rows}


def _result_cells(content: Mapping[str, Any]) -> dict[str, str]:
    cells = {NAMES[metric]: _interval(content["pooled"][metric]) for metric in HEADLINE}
    for metric in HEADLINE[:3]:
        if metric in content["mean_sd"]:
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
                cells = {n: f"{c['pictures']} ({c['copies']}; {c['patients']})" for n, c in classes.items()}
                rows.append(key | cells)
    return rows


def _origin_row(name: str, run: Mapping[str, Any]) -> dict[str, str]:
    git, packages = run["git"] or {}, run["packages"]
    versions = ", ".join(f"{p} {packages[p]}" for p in ("mpoxcv", "torch", "lightning") if packages.get(p))
    return {
        "model": name, "fold": str(run["fold"]), "seed": str(run["seed"]), "data": run["fingerprint"] or NOT_REPORTED,
        "commit": (str(git.get("commit", NOT_REPORTED))[:12] + (" (changed)" if git.get("changed") else "")),
        "versions": versions or NOT_REPORTED, "device": str(run["accelerator"].get("type", NOT_REPORTED)),
        "seconds": _number(run["seconds"]), "command": run["command"] or NOT_REPORTED,
    }  # fmt: skip


def verdict(summary: Summary) -> list[str]:
    """Return the result in plain sentences: each group's, then what the comparisons allow to say."""
    sentences = []
    for group in summary.groups:
        content = group.content
        value, low, high = content["pooled"][PRIMARY]
        chance = 1 / len(content["classes"])
        learnt = "".join(
            f", {name} has {_number(values[PRIMARY][0])}"
            for name, values in content["baselines"].items()
            if values[PRIMARY][1] < values[PRIMARY][2]  # the majority vote has no interval
        )
        said = (
            f"{group.name}: balanced accuracy {value:.3f} (95 % interval over patients {low:.3f} to {high:.3f}) on "
            f"{content['pictures']} test pictures of {content['patients']} patients, {len(content['folds'])} fold(s), "
            f"{len(content['seeds'])} seed(s); chance and the majority vote have {chance:.3f}{learnt}."
        )
        if content["protocol"] == "pooled":
            said += " This number says nothing: the network was trained on its test pictures."
        elif content["permuted_labels"]:
            at = (
                "as it must be"
                if content["permutation_control"]
                else "WHICH MEANS A LEAK, OR LUCK: repeat it with seed=1,2,3"
            )
            inside = "holds" if content["permutation_control"] else "does not hold"
            said += f" Its labels were permuted: the interval {inside} chance, {at}."
        elif low <= chance:
            said += " It cannot be told from chance."
        sentences.append(said)
    return sentences + [comparison["sentence"] for comparison in summary.content["comparisons"]]


def warnings_of(summary: Summary) -> list[str]:
    """Return what must be read before the numbers."""
    found = []
    if any(g.content["synthetic"] for g in summary.groups):
        found.append(f"{SYNTHETIC_NOTE}. No number here says anything of patients.")
    for problem in summary.content["problems"]:
        options = " ".join(f"{k}={v}" for k, v in problem["options"].items())
        found.append(f"Fold {problem['fold']} {problem['status']} ({options}): {problem['cause']}")
    for group in summary.groups:
        if group.content["protocol"] == "pooled":
            found.append(f"{group.name} LEAKS: all folds were pooled, so that its test pictures were trained on.")
    protocols = {g.content["protocol"] for g in summary.groups}
    if len(protocols) > 1:
        found.append("The groups come from different protocols: their numbers stand side by side and are not compared.")
    return found


def gaps_of(summary: Summary) -> list[str]:
    """Return what a reviewer looks for and this report does not hold."""
    gaps = [
        "Independence of the splits: near-duplicates between Train, Valid and Test were not looked for.",
        "Negative control: see a run with data.permute_labels=true.",
        "Subgroups: skin tone, age and sex are not in the metadata.",
        "External validation: none. Not for clinical use.",
        "The intervals leave out the variance of training (Bates, Hastie and Tibshirani 2023): they are too narrow.",
    ]
    if any(g.content["permuted_labels"] for g in summary.groups):
        gaps.pop(1)
    if any(len(g.content["seeds"]) < 3 for g in summary.groups):
        gaps.append("Seeds: fewer than three, so that luck in training cannot be told from the folds' spread.")
    for group in summary.groups:
        coverage = group.content["coverage"]
        if coverage["never_tested"]:
            gaps.append(f"{group.name}: {coverage['never_tested']} of {coverage['total']} pictures are in no test set.")
        if coverage["tested_twice"]:
            gaps.append(
                f"{group.name}: {coverage['tested_twice']} pictures are in several test sets and count once, as a mean."
            )
    return gaps


def print_summary(summary: Summary, folder: Path) -> None:
    """Print the warnings, the results and the verdict in the terminal."""
    console = Console()
    table = Table(title="Cross-validation: pooled value (95 % interval over patients)", title_justify="left")
    results = tables_of(summary).get("results", pd.DataFrame())
    shown = ["model", *(NAMES[metric] for metric in HEADLINE[:2])]
    for column in shown:
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=column != "model")
    for _, row in results.iterrows():
        table.add_row(*(str(row[column]) for column in shown))
    if len(results):
        console.print(table)
    for sentence in verdict(summary):
        console.print(sentence, soft_wrap=True, markup=False, highlight=False)
    for warning in warnings_of(summary):
        console.print(f"WARNING: {warning}", style="bold red", soft_wrap=True, markup=False, highlight=False)
    console.print(f"The report: {folder / 'report.html'}", soft_wrap=True, markup=False, highlight=False)


def _figures(summary: Summary) -> dict[str, list[tuple[str, str]]]:
    """Return (title, HTML) of each group's figures, and under the empty name those of all groups."""
    if not summary.groups:
        return {}
    from mpoxcv.evaluation.interactive import figures_of, folds_figure

    def html(figure: Any) -> str:
        return str(
            figure.to_html(full_html=False, include_plotlyjs=False, config={"responsive": True, "displaylogo": False})
        )

    found = {"": [("Every fold, and the pooled value with its interval", html(folds_figure(summary.groups)))]}
    for group in summary.groups:
        found[group.name] = [(title, html(figure)) for title, figure in figures_of(group).items()]
    return found


def _mistakes(summary: Summary) -> dict[str, list[dict[str, str]]]:
    """Return each group's most confident mistakes, with their pictures where the data set is still there."""
    found: dict[str, list[dict[str, str]]] = {}
    for group in summary.groups:
        wrong = most_confident_mistakes(group.rows, MISTAKES)
        files = _files_of(group)
        found[group.name] = [
            {
                "picture": _thumbnail(files.get(row["image"])),
                "text": f"{row['image']}: called {row['prediction']} ({p:.2f}), fold {row['fold']}",
            }
            for (_, row), p in zip(wrong.iterrows(), probabilities_of(wrong).max(1, initial=0), strict=True)
        ]
    return found


def _files_of(group: Group) -> dict[str, Path]:
    root = Path(str(group.finished[0].config.get("data.root")))
    if not root.is_dir():
        return {}
    return {f"{file.parent.name}/{file.name}": file for file in root.rglob("FOLDS/*/*/*/*")}


def _thumbnail(file: Path | None) -> str:
    if file is None:
        return ""
    stream = io.BytesIO()
    try:
        with Image.open(file) as picture:
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            picture.convert("RGB").save(stream, "JPEG", quality=80)
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    return base64.b64encode(stream.getvalue()).decode()


def _interval(values: Sequence[float]) -> str:
    value, low, high = values
    return _number(value) if pd.isna(low) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _number(value: float | None) -> str:
    return "not defined" if value is None or pd.isna(value) else f"{value:.3f}"


def _plain(value: Any) -> Any:
    """Return the value for JSON: not-a-number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not float("-inf") < value < float("inf") else value
