"""What the benchmarks share: fresh processes, alternated; medians; machine, versions; tables."""

import argparse
import itertools
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from mpoxcv.datasets.synthetic import is_synthetic, write_synthetic
from mpoxcv.report.figures import PAPER, title_lines
from mpoxcv.storage.files import write_json

HERE = Path(__file__).resolve().parent
TRAIN = HERE.parent / "scripts" / "train.py"
PACKAGES = (
    "torch", "torchvision", "lightning", "torchmetrics", "timm", "numpy", "pillow", "hydra-core",
)  # fmt: skip
# A terminal for those who ask, so that progress bars are drawn, into a file.
TERMINAL = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "120"}
T = TypeVar("T")


class Run(NamedTuple):
    """A finished process: when it began, its wall time, and its largest process's peak memory."""

    # time.monotonic, the same clock in all processes
    begin: float
    seconds: float
    mib: float


def new_figure(title: str, synthetic: bool, width: float, height: float) -> Figure:
    """Return an empty figure, in inches, with a title that says when its data are synthetic."""
    figure = Figure((width, height), dpi=150, facecolor=PAPER[synthetic], layout="constrained")
    figure.suptitle("\n".join(title_lines(title, synthetic, width)), fontsize=11)
    return figure


def run(*command: str | Path, log: Path | None = None) -> Run:
    """Run Python with these arguments and wait for its end.

    A child's peak memory is at least its parent's at the start: whoever calls this must not have
    imported torch.

    Raises:
        SystemExit: it failed; with the end of what it printed, all of which stays in the file
            ``log``, or that which the environment variable BENCHMARK_LOG names.
    """
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | TERMINAL | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    full = [sys.executable, *map(str, command)]

    log = log or os.environ.get("BENCHMARK_LOG")
    with Path(log).open("w+b") if log else tempfile.TemporaryFile() as output:
        begin = time.monotonic()
        process = subprocess.Popen(
            full, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            text = output.read().decode(errors="replace")[-3000:]
            raise SystemExit(f"{shlex.join(full)} ended with {process.returncode}:\n{text}")
    return Run(begin, seconds, usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024))


def alternate(jobs: Mapping[str, Callable[[int], T]], rounds: int) -> dict[str, list[T]]:
    """Call every job once a round, with the round's number, and return what each gave.

    Ctrl-C ends with the last whole round.
    """
    results: dict[str, list[T]] = {name: [] for name in jobs}
    for number in range(rounds):
        try:
            for name, job in jobs.items():
                print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
                results[name].append(job(number))
        except KeyboardInterrupt:
            if number == 0:
                raise
            return {name: values[:number] for name, values in results.items()}
    return results


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return median, smallest, largest and number of values."""
    values = [float(f"{value:.4g}") for value in values]
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


def shown(values: Mapping[str, float], digits: int = 2) -> str:
    """Return a spread as text."""
    median, smallest, largest = (f"{values[key]:,.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({smallest}-{largest})"


def conditions() -> dict[str, Any]:
    """Return the machine, its load, and the versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    has_affinity = hasattr(os, "sched_getaffinity")
    machine = {
        "cores": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "processor": names[0] if names else platform.machine(),
        "system": platform.system(),
        "load_average_at_start": [round(load, 2) for load in os.getloadavg()],
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }

    installed = {p.metadata["Name"].lower(): p.version for p in metadata.distributions()}
    versions = {name: installed[name] for name in PACKAGES if name in installed}
    return {"machine": machine, "versions": {"python": platform.python_version(), **versions}}


def parser(doc: str | None, out: str, rounds: int, data: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the options that the benchmarks share."""
    shared = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    path = HERE / "results" / out
    shared.add_argument("--rounds", type=int, default=rounds)
    shared.add_argument("--out", type=Path, default=path, help="JSON file; a chart goes beside it")
    if data:
        tree = "folder with FOLDS and FOLDS_AUG; none generates one"
        shared.add_argument("--data", type=Path, help=tree)
        shared.add_argument("--fold", type=int, default=3)
    options = "options of scripts/train.py, such as data=msld_v1"
    shared.add_argument("options", nargs="*", help=options)
    return shared


def fold_tree(
    arguments: argparse.Namespace, folder: Path, folds: Sequence[int] = ()
) -> tuple[Path, dict[str, Any]]:
    """Return the tree asked for, or one generated in ``folder``, and what the result says of it."""
    root = arguments.data or folder / "generated"
    if not arguments.data:
        write_synthetic(root, size=224, copies=14, folds=tuple(folds) or (arguments.fold,))
    synthetic = is_synthetic(root)
    name = "generated JPEGs of 224 x 224" if synthetic else "JPEGs given with --data"
    return root.resolve(), {"synthetic": synthetic, "data": name, "options": arguments.options}


def train(
    root: Path, out: Path, cache: Path, *options: str, timed: bool = True
) -> tuple[Run, dict[str, Any]]:
    """Run scripts/train.py; return also what EpochTimer wrote."""
    where = [f"data.root={root}", f"data.cache_dir={cache}", "trainer=cpu"]
    if timed:
        where += [f"hydra.run.dir={out}", "+callbacks.timer._target_=epoch_timer.EpochTimer"]
        where += [f"+callbacks.timer.file={out}/times.json"]
    else:
        where = ["-m", *where, f"hydra.sweep.dir={out}"]
    process = run(TRAIN, *where, *options)
    return process, times_of(out) if timed else {}


def times_of(folder: Path) -> dict[str, Any]:
    """Return what EpochTimer wrote into a folder."""
    return json.loads((folder / "times.json").read_text())


def epochs_of(times: Mapping[str, Any]) -> list[float]:
    """Return the seconds of epochs, but of the first and the last."""
    return [after - before for before, after in itertools.pairwise(times["epochs"])][1:]


def report(
    out: Path,
    result: dict[str, Any],
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    chart: Figure | None,
) -> None:
    """Write the JSON file and the chart beside it, print the table; its first column is text."""
    write_json(out, result)
    if chart:
        chart.savefig(out.with_suffix(".png"))

    machine = result["machine"]
    load = machine["load_average_at_start"][0]
    caption = f"{machine['cores']} cores, load average {load} at the start; {out.name}"
    table = Table(title=title, caption=caption, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 140).print(table)
