"""A summary as people read it: in the terminal, as a page, and as tables for a paper."""

from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console
from rich.table import Table

from mpoxcv.errors import visible
from mpoxcv.evaluation.groups import HEADLINE, Group
from mpoxcv.evaluation.predictions import most_confident_mistakes, probabilities_of
from mpoxcv.evaluation.summary import FEW, Summary
from mpoxcv.pictures.images import thumbnail
from mpoxcv.report.figures import figures_of, folds_figure, svg_url
from mpoxcv.report.statements import gaps_of, notes_of, protocol_of, verdict, warnings_of
from mpoxcv.report.tables import NAMES, TITLES, tables_of
from mpoxcv.storage.files import StrPath, write_atomically, write_csv, write_json
from mpoxcv.storage.markup import for_spreadsheets, markdown, one_line

# Of the most confident mistakes, and the pixels of a picture's side.
MISTAKES, THUMBNAIL = 12, 112


def write_report(summary: Summary, folder: StrPath) -> None:
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
        {"group": group.name, **{key: run[key] for key in ("fold", "seed", "pictures")}}
        | run["metrics"]
        for group in summary.groups
        for run in group.content["runs"]
    ]
    write_csv(folder / "folds.csv", for_spreadsheets(pd.DataFrame(folds)))
    if summary.groups:
        ledger = pd.concat([group.rows.assign(group=group.name) for group in summary.groups])
        write_csv(folder / "predictions.csv", ledger, float_format="%.9g")

    environment = Environment(
        loader=PackageLoader("mpoxcv.report", ""), autoescape=lambda name: bool(name and "html" in name),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"markdown": markdown, "svg_url": svg_url}
    common = {
        "summary": summary.content, "groups": summary.groups, "verdict": verdict(summary), "tables": tables,
        "warnings": warnings_of(summary), "protocol": protocol_of(summary), "gaps": gaps_of(summary), "few": FEW,
        "titles": TITLES, "notes": notes_of(summary),
    }  # fmt: skip
    write_atomically(folder / "report.md", environment.get_template("report.md.j2").render(common))
    drawing = {"folds_figure": folds_figure, "figures_of": figures_of, "mistakes_of": _mistakes_of}
    page = environment.get_template("report.html.j2").render(common, **drawing)
    write_atomically(folder / "report.html", page)


def print_summary(summary: Summary, folder: Path) -> None:
    """Print the warnings, the results and the verdict in the terminal."""
    console = Console(markup=False, highlight=False)
    title = "Cross-validation: pooled value (95 % interval over patients)"
    table = Table("model", title=title, title_justify="left")
    metrics = [NAMES[metric] for metric in HEADLINE[:2]]
    for metric in metrics:
        table.add_column(metric, justify="right", no_wrap=True)
    results = tables_of(summary).get("results", pd.DataFrame())
    for _, row in results.iterrows():
        table.add_row(*(visible(str(row[column])) for column in ("model", *metrics)))
    if len(results):
        console.print(table)

    for sentence in verdict(summary):
        console.print(visible(sentence), soft_wrap=True)
    for warning in warnings_of(summary):
        console.print(visible(f"WARNING: {warning}"), style="bold red", soft_wrap=True)
    console.print(f"The report: {folder / 'report.html'}", soft_wrap=True)


def _mistakes_of(group: Group) -> list[dict[str, str]]:
    """Return a group's most confident mistakes, with the pictures that are still on the disk."""
    wrong = most_confident_mistakes(group.rows, MISTAKES)
    confidence = probabilities_of(wrong).max(1, initial=0)
    root = Path(str(group.finished[0].config.get("data.root")))
    files = root.rglob("FOLDS/*/*/*/*") if root.is_dir() else []
    file_of = {f"{file.parent.name}/{file.name}": file for file in files}
    return [
        {
            "picture": thumbnail(file_of.get(row["image"]), THUMBNAIL),
            "text": f"{row['image']}: called {row['prediction']} ({p:.2f}), fold {row['fold']}",
        }
        for (_, row), p in zip(wrong.iterrows(), confidence, strict=True)
    ]
