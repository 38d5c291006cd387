"""The summary of several runs: of those that a multirun expects, or of a folder's."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mpoxcv.errors import UserError
from mpoxcv.storage.files import fault_of, lock, read_json, require_no_links
from mpoxcv.terminal import warn

# in a multirun's folder summary: its command and jobs
PLAN = "expected.json"
PARTS = {"arguments": [str], "launcher": [str], "jobs": [{...: str}], "options": {...: str}}


def summarize(cfg: DictConfig) -> None:
    """Write and print the summary of ``cfg.runs``: ``conf/summarize.yaml`` as composed.

    Raises:
        UserError: there are no runs, or two that would count twice; or a link leads out of the
            summary's folder.
    """
    from mpoxcv.evaluation.summary import summarise
    from mpoxcv.report.report import print_summary, write_report

    folders = [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs)
    output = Path(cfg.output or Path(folders[0]) / "summary")
    require_no_links(output, top=None if cfg.output else folders[0])
    plan = read_plan(Path(folders[0])) if len(folders) == 1 else {}
    summary = summarise(folders, plan.get("jobs"), cfg.folds, cfg.replicates)
    # the runs' configs name a data set, too, and may be a stranger's
    write_report(summary, output, cfg.data.root)
    write_figures(summary, output)
    print_summary(summary, output)


def read_plan(folder: Path) -> dict[str, Any]:
    """Return what a multirun's folder says of the runs that it should hold; for any other, {}."""
    file = folder / "summary" / PLAN
    plan = read_json(file)
    lacking = any(plan.get(name) is None for name in PARTS)
    if file.is_file() and (lacking or fault_of(plan, PARTS)):
        wanted = f"it should hold the multirun's {', '.join(PARTS)}"
        warn(f"{file} is damaged, and passed over: {wanted}.")
        return {}
    return plan


def write_summary_of(folder: Path, root: str | None = None) -> Any:
    """Write a multirun's summary, with pictures from ``root``; None as long as no run began."""
    # here, since pandas and scipy take a second
    from mpoxcv.evaluation.summary import summarise
    from mpoxcv.report.report import write_report

    jobs = read_plan(folder).get("jobs")
    with lock(folder / "summary" / ".lock"):
        try:
            summary = summarise([folder], jobs)
        except UserError as error:
            warn(error)
            return None
        write_report(summary, folder / "summary", root)
    return summary


def write_figures(summary: Any, folder: Path) -> None:
    """Write the groups' figures as PNG files."""
    from mpoxcv.report.figures import draw_all, save_figure
    from mpoxcv.storage.markup import folder_name

    for group in summary.groups:
        for name, figure in draw_all(group.rows, group.averaged).items():
            save_figure(figure, folder / "figures" / folder_name(group.name) / f"{name}.png")
