"""The audit's findings in the terminal, and as one page with the pictures side by side."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich import box
from rich.table import Table
from rich.text import Text

from mpoxcv.audit.audit import COLUMNS, Finding
from mpoxcv.pictures.images import thumbnail
from mpoxcv.storage.files import write_atomically, write_csv
from mpoxcv.storage.markup import for_spreadsheets
from mpoxcv.terminal import console, say

STYLES = {"leak": "bold red", "warning": "yellow", "note": ""}


def print_findings(findings: Sequence[Finding]) -> None:
    """Print one line a finding, with its first example, and what to do about leaks."""
    out = console()
    if not findings:
        out.print("The audit found nothing.")
        return

    table = Table(title="Audit", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.pad_edge = False
    table.add_column("", no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("finding", overflow="fold")
    for finding in findings:
        folds = ", ".join(f"fold {fold}: {count}" for fold, count in finding.by_fold.items())
        lines = [finding.kind + (f" ({folds})" if folds else ""), finding.effect]
        if finding.examples:
            lines.append("for example " + " and ".join(finding.examples[0]))
        severity = Text(finding.severity, style=STYLES[finding.severity])
        table.add_row(severity, str(finding.count), Text("\n".join(lines)))
    out.print(table)

    if any(finding.severity == "leak" for finding in findings):
        out.print(
            "train.py stops at leaks: data.leaks=drop leaves the training pictures out, data.leaks=allow says so."
        )


def write_page(findings: Sequence[Finding], root: Path, file: Path, synthetic: bool) -> None:
    """Write the findings and their examples as one HTML file, and all cases as a CSV beside it."""
    cases = pd.concat([
        finding.cases.reindex(columns=COLUMNS).assign(severity=finding.severity, finding=finding.kind)
        for finding in findings
    ] or [pd.DataFrame(columns=COLUMNS)])  # fmt: skip
    table = file.with_name(f"{file.stem}_findings.csv")
    columns = ["severity", "finding", *COLUMNS]
    cases = cases.reindex(columns=columns).astype({"fold": "Int64"}).round({"likeness": 4})
    write_csv(table, for_spreadsheets(cases))
    environment = Environment(
        loader=PackageLoader("mpoxcv.audit", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    content = {"findings": findings, "root": root.absolute(), "synthetic": synthetic}
    template = environment.get_template("page.html.j2")
    write_atomically(file, template.render(content, table=table.name, thumbnail=thumbnail))
    say(f"The page: {file}\nAll {len(cases)} cases: {table}")
