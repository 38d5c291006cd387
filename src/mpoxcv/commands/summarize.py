"""The summary of several runs: of those that a multirun expects, or of a folder's."""

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mpoxcv.errors import UserError
from mpoxcv.storage.files import lock, naming, read_json

# in a multirun's folder summary: its command and jobs
PLAN = "expected.json"
PARTS = {"arguments": list, "launcher": list, "jobs": list, "options": dict}


def summarize(cfg: DictConfig) -> None:
    """Write and print the summary of ``cfg.runs``: ``conf/summarize.yaml`` as composed.

    Raises:
        UserError: there are no runs, or two that would count twice.
    """
    from mpoxcv.evaluation.summary import summarise
    from mpoxcv.report.report import print_summary, write_report

    folders = [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs)
    plan = read_plan(Path(folders[0])) if len(folders) == 1 else {}
    summary = summarise(folders, plan.get("jobs"), cfg.folds, cfg.replicates)
    output = Path(cfg.output or Path(folders[0]) / "summary")
    with naming(option="output"):
        write_report(summary, output)
        write_figures(summary, output)
    print_summary(summary, output)


def read_plan(folder: Path) -> dict[str, Any]:
    """Return what a multirun's folder says of the runs that it should hold; for any other, {}."""
    file = folder / "summary" / PLAN
    plan = read_json(file)
    whole = all(isinstance(plan.get(name), kind) for name, kind in PARTS.items())
    if file.is_file() and not (whole and all(isinstance(job, dict) for job in plan["jobs"])):
        wanted = f"it should hold the multirun's {', '.join(PARTS)}"
        print(f"{file} is damaged, and passed over: {wanted}.", file=sys.stderr)
        return {}
    return plan


def write_summary_of(folder: Path) -> Any:
    """Write a multirun's summary; None as long as no run began."""
    # here, since pandas and scipy take a second
    from mpoxcv.evaluation.summary import summarise
    from mpoxcv.report.report import write_report

    jobs = read_plan(folder).get("jobs")
    with lock(folder / "summary" / ".lock"):
        try:
            summary = summarise([folder], jobs)
        except UserError as error:
            print(error, file=sys.stderr)
            return None
        write_report(summary, folder / "summary")
    return summary


def write_figures(summary: Any, folder: Path) -> None:
    """Write the groups' figures as PNG files."""
    from mpoxcv.report.figures import draw_all, save_figure
    from mpoxcv.storage.markup import folder_name

    for group in summary.groups:
        for name, figure in draw_all(group.rows, group.averaged).items():
            save_figure(figure, folder / "figures" / folder_name(group.name) / f"{name}.png")
