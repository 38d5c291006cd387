"""The Hydra callback that keeps a multirun's summary, whatever happens to its jobs."""

import contextlib
import functools
import io
import itertools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, Timeout
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from mpoxcv.cli import AT_END, as_given
from mpoxcv.command_line import command_again, setting
from mpoxcv.commands import record
from mpoxcv.commands.run_folder import claim, goes_on, leads, write_config
from mpoxcv.commands.summarize import PLAN, read_plan, write_figures, write_summary_of
from mpoxcv.errors import UserError
from mpoxcv.evaluation.process import whoami
from mpoxcv.explain import cause_of, known_cause
from mpoxcv.storage.files import lock, require_no_links, write_atomically, write_json
from mpoxcv.terminal import warn

# in a run's folder, also where they don't vary
ALWAYS_NAMED = ("fold", "seed")
# of a multirun's time that summaries between jobs may take, unless they take less than 0.5 s
SHARE = 0.1
QUICK = 0.5
# of Hydra's own options, what a multirun goes on with
KEPT = ("hydra/launcher", "hydra.launcher", "hydra.searchpath")
# held until the process ends
GPU_LOCKS: list[BaseFileLock] = []


def heard(method: Callable[..., None]) -> Callable[..., None]:
    """Let what a callback raises end the command: Hydra makes a warning of it, and goes on."""

    @functools.wraps(method)
    def call(self: Any, config: DictConfig, **kwargs: Any) -> None:
        try:
            method(self, config, **kwargs)
        except Exception as error:
            if not known_cause(error):
                traceback.print_exc()
            raise SystemExit(cause_of(error)) from error

    return call


class SummariseSweep(Callback):
    """Record how each job ended, and sum the multirun up after each, or some where that takes long.

    A run's folder gets ``job.json`` (status and cause) and, where it failed, ``error.log`` (the
    traceback); the multirun's gets ``summary/``. Runs' folders are named by the options that vary.

    Args:
        gpu_each: give each process of a multirun one of the machine's GPUs.
    """

    def __init__(self, gpu_each: bool = False) -> None:
        self.gpu_each = gpu_each
        self.locks: dict[Path, BaseFileLock] = {}
        # monotonic seconds; the one at the end does not wait
        self.next_summary = 0.0

    @heard
    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Keep what a folder of training holds, before Hydra writes there."""
        if kwargs["config_name"] in ("train", "search") and leads():
            folder = Path(config.hydra.run.dir).absolute()
            # a search goes on by its own command
            again = kwargs["config_name"] == "search" or goes_on(config)
            record.check(record.options_of(config), folder, again)

    @heard
    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write down which runs are expected, and settle where they lie.

        Raises:
            UserError: the folder holds another multirun, or a link that leads out of it.
        """
        folder = Path(config.hydra.sweep.dir).absolute()
        require_no_links(folder)
        given = as_given(config.hydra.overrides.task)
        arguments = [option for option in given if not option.startswith("resume=")]
        hydra_options = as_given(config.hydra.overrides.hydra)
        launcher = [o for o in hydra_options if o.startswith(KEPT)]
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        fixed: dict[str, str] = {}
        swept: dict[str, list[str]] = {}
        for override in parser.parse_overrides(arguments):
            if override.is_sweep_override():
                swept[str(override.key_or_group)] = list(override.sweep_string_iterator())
            else:
                fixed[str(override.key_or_group)] = override.get_value_element_as_str()
        # in no order
        now = record.options_of(config) | {k: ", ".join(sorted(v)) for k, v in swept.items()}
        if plan := read_plan(folder):
            differing = record.differences(plan["options"], now)
            if differing or not config.get("resume"):
                other = f"with other options:\n{record.told(differing)}\n"
                which = other if config.get("resume") else "already. "
                again = going_on(folder, plan)
                raise UserError(f"{folder} holds a multirun {which}Go on with it:\n  {again}")
        else:
            # in Hydra's order
            values = itertools.product(*swept.values())
            jobs = [fixed | dict(zip(swept, job, strict=True)) for job in values]
            plan = {"arguments": arguments, "launcher": launcher, "jobs": jobs, "options": now}
            write_json(folder / "summary" / PLAN, plan)

        unnamed = ["resume", *(name for name in fixed if name not in ALWAYS_NAMED)]
        with read_write(config), open_dict(config):
            config.hydra.overrides.hydra = [
                *(o for o in hydra_options if not o.startswith("hydra.sweep.dir=")),
                # of all jobs, also where ${name} varies
                setting("hydra.sweep.dir", folder),
                f"hydra.job.config.override_dirname.exclude_keys={json.dumps(unnamed)}",
            ]
            config.hydra.sweep.dir = str(folder)
        # pictures are shown of the one data set that the command names
        root = None if "data.root" in swept else config.data.root
        AT_END.append(lambda: conclude(folder, root))

    @heard
    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write that the job is at work; show ddp's further processes its folder."""
        folder = Path(config.hydra.runtime.output_dir)
        # a finished run stays as it is
        if leads() and record.finished_metrics(folder) is None:
            self.locks[folder] = claim(folder)
            if not record.read_beginning(folder):
                write_config(config, folder)
            write_json(folder / "job.json", {"status": "started", **whoami()})
        if config.hydra.mode == RunMode.MULTIRUN:
            if self.gpu_each:
                claim_gpu(Path(config.hydra.sweep.dir))
            hydra_config: Any = HydraConfig.get()
            with read_write(hydra_config):
                hydra_config.run.dir = config.hydra.runtime.output_dir

    @heard
    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write how the job ended, and the summary of what is there."""
        if not leads():
            return
        folder = Path(config.hydra.runtime.output_dir)
        if lock := self.locks.pop(folder, None):
            job: dict[str, Any] = {"status": job_return.status.name.lower()}
            if error := error_of(job_return):
                job["cause"] = cause_of(error)
                write_atomically(folder / "error.log", "".join(traceback.format_exception(error)))
            write_json(folder / "job.json", job)
            lock.release()
        if config.hydra.mode == RunMode.MULTIRUN:
            leave_process_group()
            if (begin := time.monotonic()) >= self.next_summary:
                write_summary_of(Path(config.hydra.sweep.dir))
                spent = time.monotonic() - begin
                self.next_summary = begin + (spent / SHARE if spent > QUICK else 0)


def error_of(job_return: JobReturn) -> BaseException | None:
    """Return what ended a job."""
    # Hydra prints a line of its own when it is asked
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            job_return.return_value  # noqa: B018
        except BaseException as error:
            return error
    return None


def claim_gpu(folder: Path) -> None:
    """Let this process see one GPU that no other of the multirun has; all, if none is left."""
    if GPU_LOCKS:
        return
    import torch

    all_devices = ",".join(map(str, range(torch.cuda.device_count())))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or all_devices
    for device in filter(None, visible.split(",")):
        with contextlib.suppress(Timeout):
            GPU_LOCKS.append(lock(folder / "summary" / f".gpu-{device}.lock", timeout=0).lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = device
            return


def leave_process_group() -> None:
    """End a job's distributed processes, so that the next job starts its own."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    for name in ("WORLD_SIZE", "NODE_RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def going_on(folder: Path, plan: Mapping[str, Any]) -> str:
    """Return the command that goes on with a multirun."""
    options = ["-m", *plan.get("arguments", []), *plan.get("launcher", [])]
    where = setting("hydra.sweep.dir", folder)
    return command_again("train", options, where, "resume=true")


def conclude(folder: Path, root: str | None) -> int:
    """Write and print a multirun's summary at its end; return the exit code."""
    # here, since pandas and scipy take a second
    from mpoxcv.report.report import print_summary

    again = going_on(folder, read_plan(folder))
    summary = write_summary_of(folder, root)
    if summary is not None:
        write_figures(summary, folder / "summary")
        print_summary(summary, folder / "summary")
        if summary.content["complete"]:
            return 0

    sys.stdout.flush()
    warn(f"\nNot all runs are finished. Go on with:\n  {again}")
    return 1
