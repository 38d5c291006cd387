"""A summary as people read it: in the terminal, as report.html and report.md, and as tables for a paper."""

import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs
from rich.console import Console
from rich.table import Table

from mpoxcv.errors import visible
from mpoxcv.evaluation.groups import HEADLINE, Group
from mpoxcv.evaluation.predictions import most_confident_mistakes, probabilities_of
from mpoxcv.evaluation.summary import FEW, Summary
from mpoxcv.pictures.images import thumbnail
from mpoxcv.report.statements import gaps_of, notes_of, protocol_of, verdict, warnings_of
from mpoxcv.report.tables import NAMES, TITLES, tables_of
from mpoxcv.storage.files import write_atomically, write_csv, write_json
from mpoxcv.storage.markup import for_spreadsheets, markdown, one_line

MISTAKES, THUMBNAIL = 12, 112  # pictures shown, and their size in pixels


def write_report(summary: Summary, folder: str | os.PathLike[str]) -> None:
    """Write summary.json, folds.csv, predictions.csv, tables/, report.html and report.md.

    Args:
        summary: what they say.
        folder: gets the files, each in one piece.
    """
    folder = Path(folder)
    write_json(folder / "summary.json", summary.content)
    tables = tables_of(summary)
    for name, table in tables.items():
        write_csv(folder / "tables" / f"{name}.csv", for_spreadsheets(table))
        styled = table.map(one_line).rename(columns=one_line).style.hide(axis="index")
        latex = styled.format(escape="latex").format_index(escape="latex", axis="columns")
        write_atomically(folder / "tables" / f"{name}.tex", latex.to_latex(hrules=True))
    folds = [
        {
            "group": g.name,
            "fold": r["fold"],
            "seed": r["seed"],
            "pictures": r["pictures"],
            **r["metrics"],
        }
        for g in summary.groups
        for r in g.content["runs"]
    ]
    write_csv(folder / "folds.csv", for_spreadsheets(pd.DataFrame(folds)))
    if summary.groups:
        ledger = pd.concat([group.rows.assign(group=group.name) for group in summary.groups])
        write_csv(folder / "predictions.csv", ledger, float_format="%.9g")
    environment = Environment(
        loader=PackageLoader("mpoxcv.report", ""), autoescape=lambda name: bool(name and "html" in name),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["markdown"] = markdown
    common = {
        "summary": summary.content, "groups": summary.groups, "verdict": verdict(summary), "tables": tables,
        "warnings": warnings_of(summary), "protocol": protocol_of(summary), "gaps": gaps_of(summary), "few": FEW,
        "titles": TITLES, "notes": notes_of(summary),
    }  # fmt: skip
    write_atomically(folder / "report.md", environment.get_template("report.md.j2").render(common))
    page = environment.get_template("report.html.j2")
    write_atomically(
        folder / "report.html",
        page.render(
            common,
            figures=_figures(summary),
            mistakes=_mistakes(summary),
            plotly_script=get_plotlyjs(),
        ),
    )


def print_summary(summary: Summary, folder: Path) -> None:
    """Print the warnings, the results and the verdict in the terminal."""
    console = Console(markup=False, highlight=False)
    table = Table(
        title="Cross-validation: pooled value (95 % interval over patients)", title_justify="left"
    )
    results = tables_of(summary).get("results", pd.DataFrame())
    shown = ["model", *(NAMES[metric] for metric in HEADLINE[:2])]
    for column in shown:
        table.add_column(
            column, justify="left" if column == "model" else "right", no_wrap=column != "model"
        )
    for _, row in results.iterrows():
        table.add_row(*(visible(str(row[column])) for column in shown))
    if len(results):
        console.print(table)
    for sentence in verdict(summary):
        console.print(visible(sentence), soft_wrap=True)
    for warning in warnings_of(summary):
        console.print(visible(f"WARNING: {warning}"), style="bold red", soft_wrap=True)
    console.print(f"The report: {folder / 'report.html'}", soft_wrap=True)


def _figures(summary: Summary) -> dict[str, list[tuple[str, str]]]:
    """Return (title, HTML) of each group's figures, and under the empty name those of all groups."""
    if not summary.groups:
        return {}
    from mpoxcv.report.interactive import figures_of, folds_figure

    def html(figure: Any) -> str:
        page = figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            config={"responsive": True, "displaylogo": False},
        )
        return re.sub(
            r"\\u003c(?=/?a\b)", "&lt;", page, flags=re.IGNORECASE
        )  # plotly makes links of names

    found = {
        "": [
            (
                "Every fold, and the pooled value with its interval",
                html(folds_figure(summary.groups)),
            )
        ]
    }
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
                "picture": thumbnail(files.get(row["image"]), THUMBNAIL),
                "text": f"{row['image']}: called {row['prediction']} ({p:.2f}), fold {row['fold']}",
            }
            for (_, row), p in zip(
                wrong.iterrows(), probabilities_of(wrong).max(1, initial=0), strict=True
            )
        ]
    return found


def _files_of(group: Group) -> dict[str, Path]:
    root = Path(str(group.finished[0].config.get("data.root")))
    if not root.is_dir():
        return {}
    return {f"{file.parent.name}/{file.name}": file for file in root.rglob("FOLDS/*/*/*/*")}
