"""A summary as people read it: in the terminal, as a page, and as tables for a paper."""

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from rich.table import Table

from mpoxcv.evaluation.groups import HEADLINE, Group
from mpoxcv.evaluation.intervals import FEW, TOO_FEW
from mpoxcv.evaluation.predictions import most_confident_mistakes
from mpoxcv.evaluation.summary import Summary
from mpoxcv.pictures.images import thumbnail
from mpoxcv.report import statements
from mpoxcv.report.figures import draw_all, folds_figure, svg_url
from mpoxcv.report.tables import NAMES, PROTOCOLS, protocols_of, tables_of
from mpoxcv.storage.files import StrPath, write_atomically, write_csv, write_json
from mpoxcv.storage.markup import for_spreadsheets, markdown, one_line
from mpoxcv.terminal import console

# Of the most confident mistakes, and the pixels of a picture's side.
MISTAKES, THUMBNAIL = 12, 112


def write_report(summary: Summary, folder: StrPath, root: StrPath | None = None) -> None:
    """Write summary.json, folds.csv, predictions.csv, tables/, report.html and report.md.

    ``root`` is the folder of the pictures, if mistakes are to be shown.
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
        {"group": group.name, "fold": run["fold"], "seed": run["seed"], "pictures": run["pictures"]}
        | run["metrics"]
        for group in summary.groups
        for run in group.content["runs"]
    ]
    write_csv(folder / "folds.csv", for_spreadsheets(pd.DataFrame(folds)))
    if summary.groups:
        ledger = pd.concat([group.rows.assign(group=group.name) for group in summary.groups])
        write_csv(folder / "predictions.csv", ledger, float_format="%.9g")

    environment = Environment(
        loader=PackageLoader("mpoxcv.report", ""), autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"markdown": markdown, "svg_url": svg_url}
    content = {
        "summary": summary.content, "groups": summary.groups, "tables": tables,
        "few": FEW, "too_few": TOO_FEW, "parts": _parts(summary),
        "verdict": statements.verdict(summary), "warnings": list(statements.warnings_of(summary)),
        "notes": list(statements.notes_of(summary)), "gaps": list(statements.gaps_of(summary)),
        "protocol": list(statements.protocol_of(summary)),
        "folds_figure": folds_figure, "draw_all": draw_all,
        "mistakes_of": lambda group: _mistakes_of(group, root),
    }  # fmt: skip
    for name in ("report.md", "report.html"):
        write_atomically(folder / name, environment.get_template(f"{name}.j2").render(content))


def _parts(summary: Summary) -> list[dict[str, Any]]:
    """Return what each protocol's part of the page shows: its tables, groups and forest plot."""
    parts = []
    for place, protocol in enumerate(protocols_of(summary)):
        groups, drawn = (
            [one for one in several if one.content["protocol"] == protocol]
            for several in (summary.groups, [*summary.groups, *summary.baselines])
        )
        said = f" ({PROTOCOLS[protocol]})" if PROTOCOLS.get(protocol) else ""
        suffix = f"_{protocol}" if place else ""
        parts.append({"suffix": suffix, "title": said, "groups": groups, "drawn": drawn})
    return parts


def print_summary(summary: Summary, folder: Path) -> None:
    """Print the warnings, the results and the verdict in the terminal."""
    out = console()
    tables = tables_of(summary)
    for part in _parts(summary):
        title = f"Cross-validation{part['title']}: over all pictures (95 % interval over patients)"
        table = Table("model", title=title, title_justify="left")
        metrics = [NAMES[metric] for metric in HEADLINE[:2]]
        for metric in metrics:
            table.add_column(metric, justify="right", no_wrap=True)
        for row in tables[f"results{part['suffix']}"][["model", *metrics]].to_numpy():
            table.add_row(*row)
        out.print(table)

    for sentence in (*statements.verdict(summary), *statements.missing_folds(summary)):
        out.print(sentence, soft_wrap=True)
    for warning in statements.warnings_of(summary):
        out.print(f"WARNING: {warning}", style="bold red", soft_wrap=True)
    out.print(f"The report: {folder / 'report.html'}", soft_wrap=True)


def _mistakes_of(group: Group, folder: StrPath | None) -> list[dict[str, str]]:
    """Return a group's most confident mistakes, with the pictures that a folder still holds."""
    root = Path(folder or "")
    files = root.rglob("FOLDS/*/*/*/**/*") if folder else ()
    parts_of = {file: file.relative_to(root).parts for file in files}
    # below FOLDS/<fold>/<split>
    file_of = {"/".join(p[p.index("FOLDS") + 3 :]): file for file, p in parts_of.items()}
    text = "{image}: called {prediction} ({confidence:.2f}), fold {fold}"
    return [
        {"picture": thumbnail(file_of.get(row["image"]), THUMBNAIL), "text": text.format_map(row)}
        for _, row in most_confident_mistakes(group.averaged, MISTAKES).iterrows()
    ]
