"""The Hydra callback that keeps a multirun's summary: after its jobs, and whatever happens to the others."""

import itertools
import json
import os
import shlex
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from mpoxcv import cli
from mpoxcv.commands.run_folder import claim, refuse_used
from mpoxcv.errors import UserError
from mpoxcv.evaluation.process import whoami
from mpoxcv.storage.files import read_json, write_atomically, write_json

ALWAYS_NAMED = ("fold", "seed")  # in a run's folder, also where they don't vary
PLAN = "expected.json"
SHARE, QUICK = (
    0.1,
    0.5,
)  # of a multirun's time that summaries between jobs may take, unless they take less than 0.5 s
GPU_LOCKS: list[BaseFileLock] = []  # held until the process ends


class SummariseSweep(Callback):
    """Record how each job ended, and sum the multirun up after each of them, or after some where that would take long.

    A run's folder gets ``job.json`` (status and cause) and, where it failed, ``error.log`` (the traceback). The multirun's
    folder gets ``summary/``. The folders of the runs are named by the options that vary.

    Args:
        gpu_each: give each process of a multirun one of the machine's GPUs.
    """

    def __init__(self, gpu_each: bool = False) -> None:
        self.gpu_each = gpu_each
        self.argv: list[str] = []  # of the multirun
        self.locks: dict[Path, BaseFileLock] = {}
        self.next_summary = 0.0  # monotonic seconds; the one at the end does not wait

    def on_run_start(
        self, config: DictConfig, config_name: str | None = None, **kwargs: Any
    ) -> None:
        """Keep what a folder of training holds."""
        if config_name == "train" and leads():
            refuse_used(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write down which runs are expected, and settle where they lie.

        Raises:
            SystemExit: the folder holds another multirun (Hydra swallows other errors of callbacks).
        """
        self.script = sys.argv[0]
        folder = Path(config.hydra.sweep.dir).absolute()
        arguments = cli.as_given(config.hydra.overrides.task)
        overrides = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(
            arguments
        )
        own = [a for a in arguments if not a.startswith("resume=")]
        hydra_options = cli.as_given(config.hydra.overrides.hydra)
        launcher = [o for o in hydra_options if o.startswith(("hydra/launcher", "hydra.launcher"))]
        if before := read_plan(folder):
            resume = going_on(folder, before)
            if not config.get("resume"):
                raise SystemExit(f"{folder} holds a multirun already. Go on with it:\n  {resume}")
            if own != before["arguments"]:
                raise SystemExit(
                    f"{folder} holds a multirun with other options. Go on with it:\n  {resume}"
                )
        values = [
            list(o.sweep_string_iterator())
            if o.is_sweep_override()
            else [o.get_value_element_as_str()]
            for o in overrides
        ]
        names = [str(o.key_or_group) for o in overrides]
        jobs = [dict(zip(names, job, strict=True)) for job in itertools.product(*values)]
        jobs = [{name: value for name, value in job.items() if name != "resume"} for job in jobs]
        write_json(
            folder / "summary" / PLAN, {"arguments": own, "launcher": launcher, "jobs": jobs}
        )
        fixed = [
            str(o.key_or_group)
            for o in overrides
            if not o.is_sweep_override() and o.key_or_group not in ALWAYS_NAMED
        ]
        with read_write(config), open_dict(config):
            keep = [o for o in hydra_options if not o.startswith("hydra.sweep.dir=")]
            quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
            keep.append(f"hydra.sweep.dir='{quoted}'")  # of all jobs, also where ${name} varies
            keep.append(f"hydra.job.config.override_dirname.exclude_keys={json.dumps(fixed)}")
            config.hydra.overrides.hydra = keep
            config.hydra.sweep.dir = str(folder)
        cli.AT_END.append(lambda: conclude(folder))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write that the job is at work; show it its own command and folder, by which ddp starts more processes."""
        if leads():
            folder = Path(config.hydra.runtime.output_dir)
            self.locks[folder] = claim(folder)
            write_json(folder / "job.json", {"status": "started", **whoami()})
        if config.hydra.mode == RunMode.MULTIRUN:
            if self.gpu_each:
                claim_gpu(Path(config.hydra.sweep.dir))
            own: Any = HydraConfig.get()
            with read_write(own):
                own.run.dir = config.hydra.runtime.output_dir
            self.argv = self.argv or sys.argv
            sys.argv = [self.script, *cli.as_given(config.hydra.overrides.task)]

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write how the job ended, and the summary of what is there."""
        if not leads():
            return
        folder = Path(config.hydra.runtime.output_dir)
        job: dict[str, Any] = {"status": job_return.status.name.lower()}
        error = job_return._return_value
        if isinstance(error, BaseException):
            job["cause"] = cli.cause_of(error)
            write_atomically(folder / "error.log", "".join(traceback.format_exception(error)))
        write_json(folder / "job.json", job)
        self.locks.pop(folder).release()
        if config.hydra.mode == RunMode.MULTIRUN:
            sys.argv = self.argv
            leave_process_group()
            if (begin := time.monotonic()) >= self.next_summary:
                write_summary_of(Path(config.hydra.sweep.dir))
                spent = time.monotonic() - begin
                self.next_summary = begin + (spent / SHARE if spent > QUICK else 0)


def leads() -> bool:
    """Return whether this is not one of the processes that only help with ddp."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def claim_gpu(folder: Path) -> None:
    """Let this process see one GPU that no other process of the multirun has taken, for as long as it lives.

    With more processes than GPUs the last ones see all of them.
    """
    if GPU_LOCKS:
        return
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(
        map(str, range(torch.cuda.device_count()))
    )
    for device in filter(None, visible.split(",")):
        lock = FileLock(folder / "summary" / f".gpu-{device}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        GPU_LOCKS.append(lock)
        os.environ["CUDA_VISIBLE_DEVICES"] = device
        return


def leave_process_group() -> None:
    """End a job's distributed processes, so that the next job starts its own."""
    if "torch" in sys.modules:
        import torch.distributed

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    for name in ("WORLD_SIZE", "NODE_RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def read_plan(folder: Path) -> dict[str, Any] | None:
    """Return what a multirun's folder says of the runs that it should hold; None if it is no multirun's."""
    file = folder / "summary" / PLAN
    plan = read_json(file)
    sound = isinstance(plan.get("arguments"), list) and isinstance(plan.get("jobs"), list)
    if file.is_file() and not (sound and all(isinstance(job, dict) for job in plan["jobs"])):
        print(
            f"{file} is damaged, and passed over: it should hold the multirun's arguments and jobs.",
            file=sys.stderr,
        )
        return None
    return plan or None


def going_on(folder: Path, plan: Mapping[str, Any]) -> str:
    """Return the command that goes on with a multirun."""
    own = [
        *plan.get("arguments", []),
        *plan.get("launcher", []),
        f"hydra.sweep.dir={folder}",
        "resume=true",
    ]
    return f"python {shlex.join([sys.argv[0], '-m', *own])}"


def write_summary_of(folder: Path) -> Any:
    """Write a multirun's summary; None as long as no run began."""
    from mpoxcv.evaluation.summary import summarise
    from mpoxcv.report.report import write_report  # here, since pandas and scipy take a second

    plan = read_plan(folder)
    with FileLock(folder / "summary" / ".lock"):
        try:
            summary = summarise([folder], plan["jobs"] if plan else None)
        except UserError as error:
            print(error, file=sys.stderr)
            return None
        write_report(summary, folder / "summary")
    return summary


def summarize(cfg: DictConfig) -> None:
    """Write and print the summary of ``cfg.runs``: ``conf/summarize.yaml`` as composed.

    Raises:
        UserError: there are no runs, or two that would count twice.
    """
    from mpoxcv.evaluation.summary import summarise
    from mpoxcv.report.report import print_summary, write_report

    folders = [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs)
    plan = read_plan(Path(folders[0])) if len(folders) == 1 else None
    summary = summarise(folders, plan["jobs"] if plan else None, cfg.folds, cfg.replicates)
    output = Path(cfg.output or Path(folders[0]) / "summary")
    write_report(summary, output)
    write_tensorboard(summary, output)
    print_summary(summary, output)


def conclude(folder: Path) -> int:
    """Write and print a multirun's summary at its end, and how to go on if it is not complete; return the exit code."""
    from mpoxcv.report.report import print_summary

    plan = read_plan(folder)
    summary = write_summary_of(folder)
    if summary is not None:
        write_tensorboard(summary, folder / "summary")
        print_summary(summary, folder / "summary")
    if summary is not None and summary.content["complete"]:
        return 0
    sys.stdout.flush()
    if summary is not None and any(
        "it is at work" in str(problem["cause"]) for problem in summary.content["problems"]
    ):
        print(
            "\nJobs that are at work may end by themselves, and then write the summary anew.",
            file=sys.stderr,
        )
    print(
        f"\nNot all runs are finished. Go on with:\n  {going_on(folder, plan or {})}",
        file=sys.stderr,
    )
    return 1


def write_tensorboard(summary: Any, folder: Path) -> None:
    """Write each group's figures and mean metrics as a TensorBoard run of its own, and the figures as PNG files too."""
    import pandas as pd

    from mpoxcv.report import figures
    from mpoxcv.report.tables import tables_of
    from mpoxcv.storage.markup import folder_name, markdown
    from mpoxcv.training.tensorboard import write_summary_run

    results = tables_of(summary).get("results")
    for group in summary.groups:
        name = folder_name(group.name)
        drawn = {}
        for tag, figure in figures.draw_all(group.rows).items():
            drawn[f"summary/{tag}"] = folder / "figures" / name / f"{tag}.png"
            figures.save_figure(figure, drawn[f"summary/{tag}"])
        rows = [] if results is None else results.map(markdown).to_numpy().tolist()
        heads = [] if results is None else list(results.columns)
        text = "\n".join(
            "|" + "|".join(cells) + "|" for cells in (heads, ["---"] * len(heads), *rows)
        )
        runs = pd.DataFrame([run["metrics"] for run in group.content["runs"]]).astype(float)
        means = {
            str(k).replace("val/", "val_best/"): float(v) for k, v in runs.mean().dropna().items()
        }
        options = {"name": group.name, "data.name": group.content["data"]}
        write_summary_run(folder / name, drawn, text, options, means)
