"""On a GPU: the tests, equal bytes, five folds, large networks, and memory; step by step.

    python benchmarks/gpu.py
        generated folds of MSLD v2.0's size
    python benchmarks/gpu.py --trainer cpu --quick
        tries every step where there is no GPU
    python benchmarks/gpu.py folds finetune
        these steps alone; results of others in gpu.json are kept

Each step has a time limit, and every number is in gpu.json as soon as it is measured: what cuts one
short costs the numbers that it lacks.

Folds are trained one after another and in lockstep, where a step of all networks is a CUDA graph;
their time, from the first training step to the end of the last, holds validation, metrics,
TensorBoard and checkpoints. ``usual`` is lightning_usual.py, of which one fold's epochs are
measured and extrapolated to all. Of large networks ``steps`` are an epoch's training steps by
scripts/train.py, ``card`` is the same network, optimizer and precision in a bare loop on one batch
of random numbers that never leaves the GPU: what this card allows.
"""

import argparse
import contextlib
import csv
import json
import os
import pstats
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import measuring
from measuring import HERE, epochs_of, spread
from mpoxcv.datasets.synthetic import write_synthetic
from mpoxcv.storage.files import read_json, write_json

FOLD = 3
FOLDS = (1, 2, 3, 4, 5)
TESTS = ("tests/lockstep", "tests/training", "tests/data", "tests/commands", "tests/models")
FROZEN = ("efficientnet_lite0", "resnet50")
# timm's name of it
TIMM = {"efficientnet_lite0": "tf_efficientnet_lite0"}


class Bench:
    """Where the pictures are, what was asked for, and the numbers so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.trainer, self.quick, self.out = arguments.trainer, arguments.quick, arguments.out
        self.folder, self.rounds = arguments.folder, arguments.rounds
        self.root = self.folder / "generated"
        self.step = ""
        self.large = "resnet50" if not self.quick else "shufflenet_v2_x0_5"
        self.size = 224 if not self.quick else 32

    def record(self, what: str, numbers: Mapping[str, Any]) -> None:
        """Append numbers of what was measured to the results, and say them."""
        result = read_json(self.out)
        result["steps"].setdefault(self.step, {}).setdefault(what, []).append(dict(numbers))
        write_json(self.out, result)
        shown = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in numbers.items()}
        print(f"{self.step}: {what}: {json.dumps(shown)}", flush=True)

    def train(self, out: Path, *options: str, folds: bool = False) -> measuring.Run:
        """Run scripts/train.py, timed by EpochTimer, on the generated pictures."""
        timer = ["+callbacks.timer._target_=epoch_timer.EpochTimer"]
        timer += ["+callbacks.timer.file=${output_dir}/times.json"]
        where = [*(["-m"] if folds else []), f"hydra.{'sweep' if folds else 'run'}.dir={out}"]
        where += [f"data.root={self.root}", f"data.cache_dir={self.folder}/cache"]
        command = [*where, f"trainer={self.trainer}", *timer, *options]
        run = measuring.run(measuring.TRAIN, *command)
        for file in sorted(out.rglob("provenance.json")):
            durations = read_json(file)["durations"]
            print(f"{self.step}: {out.name}: {run.seconds:.0f} s, {durations}", flush=True)
        return run


def tests(bench: Bench) -> None:
    """Run those tests that train, on this accelerator."""
    log = bench.out.with_name("gpu_tests.log")
    command = [sys.executable, "-m", "pytest", "-q", "--maxprocesses", "12", *TESTS]
    if bench.quick:
        command = [sys.executable, "-m", "pytest", "-q", "tests/lockstep/test_alone.py"]
    environment = os.environ | {"MPOXCV_TRAINER": bench.trainer}
    begin = time.monotonic()
    with log.open("w") as output:
        subprocess.run(command, cwd=HERE.parent, env=environment, stdout=output, stderr=output)
    lines = log.read_text().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    numbers = {"s": time.monotonic() - begin, "failed": failed[:50], "end": lines[-1:]}
    bench.record("those that train", numbers)


def repeat(bench: Bench) -> None:
    """The same command twice, killed and resumed, in lockstep, and on the CPU."""
    epochs = "trainer.max_epochs=5"
    kill = ["+callbacks.kill._target_=epoch_timer.KillOnce", "+callbacks.kill.epoch=3"]
    kill += ["+callbacks.kill.step=40", "+callbacks.kill.marker=${output_dir}/killed"]
    first = bench.folder / "first"
    bench.train(first, f"fold={FOLD}", epochs)
    for name, options in {
        "the same again": [],
        "killed and resumed": [*kill, "resume=true"],
        "the pictures in the computer's memory": ["data.gpu_cache_mb=0"],
        "on the CPU, other flips": ["trainer=cpu"],
    }.items():
        out = bench.folder / name.replace(" ", "-").replace("'", "")
        try:
            bench.train(out, f"fold={FOLD}", epochs, *options)
        except SystemExit:
            if not (out / "killed").exists():
                raise
            bench.train(out, f"fold={FOLD}", epochs, *options)
        bench.record(name, difference(first, out))
    one, two = bench.folder / "unflipped-here", bench.folder / "unflipped-cpu"
    for out, trainer in ((one, bench.trainer), (two, "cpu")):
        options = [epochs, f"trainer={trainer}", "data.augment=null"]
        bench.train(out, f"fold={FOLD}", *options)
    bench.record("on the CPU, no flips", difference(one, two))
    lockstep = bench.folder / "in-lockstep"
    bench.train(lockstep, f"fold={FOLD},4", epochs, "hydra/launcher=lockstep", folds=True)
    bench.record("in lockstep", difference(first, lockstep / f"fold={FOLD}"))


def difference(one: Path, two: Path) -> dict[str, Any]:
    """Return how two runs of the same differ."""
    equal = {
        name: (one / name).read_bytes() == (two / name).read_bytes()
        for name in ("predictions.csv", "learning_curves.csv", "metrics.json")
    }
    probabilities = [read_probabilities(folder / "predictions.csv") for folder in (one, two)]
    most = max(abs(a - b) for a, b in zip(*probabilities, strict=True))
    scores = [read_json(folder / "metrics.json") for folder in (one, two)]
    f1 = [score["test/f1_macro"] for score in scores]
    return {"equal bytes": equal, "largest difference of a probability": most, "test F1": f1}


def read_probabilities(file: Path) -> list[float]:
    """Return all probabilities of a predictions.csv, row by row."""
    with file.open() as lines:
        rows = csv.DictReader(lines)
        return [float(v) for row in rows for k, v in row.items() if k.startswith("p_")]


def profile(bench: Bench) -> None:
    """Where two folds in lockstep spend their time: Python's functions, and the card's kernels."""
    file = bench.out.with_name("gpu_profile.txt")
    out = bench.folder / "profiled"
    command = ["-m", "cProfile", "-o", str(bench.folder / "profile"), str(measuring.TRAIN), "-m"]
    command += [f"hydra.sweep.dir={out}", f"data.root={bench.root}", f"fold={FOLD},4"]
    command += [f"data.cache_dir={bench.folder}/cache", f"trainer={bench.trainer}"]
    measuring.run(*command, "trainer.max_epochs=3", "hydra/launcher=lockstep")
    with file.open("w") as stream:
        stats = pstats.Stats(str(bench.folder / "profile"), stream=stream)
        stats.sort_stats("tottime").print_stats(40)
        stats.sort_stats("cumtime").print_stats("mpoxcv")
    epochs = [v for k, v in stats.stats.items() if k[2] == "run_epoch"]
    numbers = {"s an epoch of two folds, profiled": epochs[0][3] / epochs[0][0]}
    bench.record("two folds in lockstep", numbers)


def folds(bench: Bench) -> None:
    """Five folds of 50 epochs of LeNet, each way."""
    epochs = 50 if not bench.quick else 2
    every = f"fold={','.join(map(str, FOLDS if not bench.quick else FOLDS[2:4]))}"
    for number in range(bench.rounds):
        for launcher in ("lockstep", "basic") if number == 0 else ("lockstep",):
            out = bench.folder / f"folds-{launcher}-{number}"
            options = [every, f"trainer.max_epochs={epochs}", f"hydra/launcher={launcher}"]
            run = bench.train(out, *options, folds=True)
            times = [measuring.times_of(folder) for folder in out.glob("fold=*")]
            training = max(t["end"] for t in times) - min(t["first_step"] for t in times)
            begin = min(t["first_step"] for t in times) - run.begin
            ends = run.begin + run.seconds - max(t["end"] for t in times)
            numbers = {"training s": training, "before s": begin, "after s": ends}
            bench.record(launcher, {**numbers, "from Enter s": run.seconds})
        out = bench.folder / f"usual-{number}"
        out.mkdir()
        few = 4 if not bench.quick else 3
        usual = ["lenet", "32", bench.trainer, "32-true", "12"]
        script = HERE / "lightning_usual.py"
        run = measuring.run(script, bench.root, str(FOLD), "64", str(few), out, *usual)
        a_fold = statistics.median(epochs_of(measuring.times_of(out)))
        n = 5 * epochs
        more = {"s an epoch": a_fold, "from Enter s": run.seconds}
        bench.record("usual", {**more, f"{n} epochs, extrapolated s": n * a_fold})


def frozen(bench: Bench) -> None:
    """A frozen network's pass over a fold's pictures."""
    for name in FROZEN if not bench.quick else FROZEN[:1]:
        for precision in ("bf16-mixed", "32-true"):
            loop(bench, "forward", TIMM.get(name, name), 256, precision, f"{name}, {precision}")


def loop(bench: Bench, way: str, name: str, batch_size: int, precision: str, title: str) -> None:
    """Record what a loop of plain_loops.py says."""
    out = bench.folder / re.sub(r"\W+", "-", f"{way} {title}")
    out.mkdir()
    batch_size = batch_size if not bench.quick else 8
    which = (name, str(bench.size), bench.trainer, precision)
    options = [f"data.cache_dir={bench.folder}/cache"] if way == "forward" else []
    numbers = (str(FOLD), str(batch_size), "4" if not bench.quick else "2")
    measuring.run(HERE / "plain_loops.py", way, bench.root, *numbers, out, *which, *options)
    bench.record(title, measuring.times_of(out))


def finetune(bench: Bench) -> None:
    """A large network trained whole, 64 pictures at once."""
    finetuned(bench, 64)


def finetune_256(bench: Bench) -> None:
    """The same, 256 at once."""
    finetuned(bench, 256)


def finetuned(bench: Bench, batch_size: int) -> None:
    """Record how fast a large network is trained, each way."""
    precision = "bf16-mixed"
    title = f"{bench.large}, batch {batch_size}"
    loop(bench, "card", bench.large, batch_size, precision, f"{title}, card")
    for where, megabytes in (("card", 8192), ("memory", 0)):
        out = bench.folder / f"finetune-{batch_size}-{where}"
        options = [f"fold={FOLD}", "model=torchvision", f"model.name={bench.large}"]
        options += [f"data.image_size={bench.size}", f"data.batch_size={batch_size}"]
        options += ["trainer.max_epochs=4", f"trainer.precision={precision}"]
        options += ["trainer.deterministic=false", "+trainer.benchmark=true"]
        options += [f"data.gpu_cache_mb={megabytes}", "callbacks.figures=null"]
        bench.train(out, *options)
        times = measuring.times_of(out)
        steps = [end - begin for begin, end in zip(times["epochs"], times["steps"], strict=True)]
        numbers = {"steps, pictures/s": times["pictures"] / statistics.median(steps[1:])}
        numbers["epoch, pictures/s"] = times["pictures"] / statistics.median(epochs_of(times))
        numbers["peak GiB"] = times["peak_gib"]
        bench.record(f"{title}, from the {where}", numbers)
    out = bench.folder / f"finetune-{batch_size}-usual"
    out.mkdir()
    script = HERE / "lightning_usual.py"
    usual = [bench.large, str(bench.size), bench.trainer, precision, "12"]
    measuring.run(script, bench.root, str(FOLD), str(batch_size), "3", out, *usual)
    times = measuring.times_of(out)
    speed = times["pictures"] / statistics.median(epochs_of(times))
    bench.record(f"{title}, usual", {"epoch, pictures/s": speed, "peak GiB": times["peak_gib"]})


def memory(bench: Bench) -> None:
    """More than the card holds: what is said."""
    batch_size = "8000" if not bench.quick else "8"
    options = [f"fold={FOLD}", "model=torchvision", f"model.name={bench.large}"]
    options += [f"data.image_size={bench.size}", f"data.batch_size={batch_size}"]
    out = bench.folder / "memory"
    try:
        bench.train(out, *options, "trainer.max_epochs=1", "callbacks.figures=null")
        said = "it fits"
    except SystemExit as error:
        said = str(error).rpartition("error: ")[2] or str(error)[-2000:]
        said += " (with a traceback)" if "Traceback" in str(error) else ""
    bench.record(f"batch {batch_size}", {"said": said})


# with their limits in seconds; in the order in which they are worth most
STEPS: dict[Callable[[Bench], None], int] = {
    profile: 90, folds: 300, finetune_256: 200, finetune: 200, frozen: 150, memory: 90, repeat: 250,
    tests: 200,
}  # fmt: skip
NAMES = [step.__name__ for step in STEPS]


def run_step(step: Callable[[Bench], None], limit: float, arguments: argparse.Namespace) -> str:
    """Run a step in a process of its own; return how it ended."""
    command = [sys.executable, __file__, "--only", step.__name__, "--folder", arguments.folder]
    command += ["--trainer", arguments.trainer, "--out", arguments.out]
    command += ["--rounds", arguments.rounds]
    command += ["--quick"] if arguments.quick else []
    # what it was at when it was cut short
    log = arguments.out.with_name("gpu_cut.log")
    environment = os.environ | {"PYTHONFAULTHANDLER": "1", "BENCHMARK_LOG": str(log)}
    process = subprocess.Popen([*map(str, command)], start_new_session=True, env=environment)
    begin = time.monotonic()
    try:
        code = process.wait(limit)
        return f"ended with {code} after {time.monotonic() - begin:.0f} s"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)
        time.sleep(1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(log.read_text()[-4000:] if log.is_file() else "", flush=True)
        return f"cut short after {limit:.0f} s"


def main() -> None:
    parser = measuring.parser(__doc__, "gpu.json", rounds=1, data=False)
    parser.add_argument("--trainer", default="gpu", choices=("gpu", "cpu"))
    parser.add_argument("--quick", action="store_true", help="a small network, few epochs")
    parser.add_argument("--minutes", type=float, default=60, help="for all of it")
    parser.add_argument("--only", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="of what is made on the way")
    arguments = parser.parse_intermixed_args()
    arguments.out = arguments.out.resolve()
    steps = {step.__name__: step for step in STEPS}
    if arguments.only:
        bench = Bench(arguments)
        bench.step = arguments.only
        steps[arguments.only](bench)
        return

    end = time.monotonic() + 60 * arguments.minutes
    if unknown := set(arguments.options) - set(NAMES):
        parser.error(f"{', '.join(unknown)} is none of the steps {', '.join(NAMES)}")
    chosen = arguments.options or NAMES
    result = measuring.conditions()
    if arguments.trainer == "gpu":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, check=True)
        result["machine"]["gpu"] = answer.stdout.strip()
    result["conditions"] = {
        "synthetic": True,
        "trainer": arguments.trainer,
        "quick": arguments.quick,
    }
    before = read_json(arguments.out) if arguments.out.is_file() else {}
    kept = {name: before["steps"][name] for name in before.get("steps", {}) if name not in chosen}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, {**result, "steps": kept, "ended": {}})

    with tempfile.TemporaryDirectory() as temporary:
        arguments.folder = arguments.folder or Path(temporary)
        begin = time.monotonic()
        size, copies = (224, 14) if not arguments.quick else (32, 1)
        folds_made = FOLDS if not arguments.quick else FOLDS[2:4]
        write_synthetic(arguments.folder / "generated", size=size, copies=copies, folds=folds_made)
        print(f"drew the pictures in {time.monotonic() - begin:.0f} s", flush=True)
        for name in chosen:
            left = end - time.monotonic()
            ended = "left out: no time was left"
            if left > 10:
                ended = run_step(steps[name], min(STEPS[steps[name]], left), arguments)
            print(f"{name}: {ended}", flush=True)
            result = read_json(arguments.out)
            result["ended"][name] = ended
            write_json(arguments.out, result)

    result["steps"] = {
        step: {what: summarised(rounds) for what, rounds in found.items()}
        for step, found in read_json(arguments.out)["steps"].items()
    }
    write_json(arguments.out, result)


def summarised(rounds: Any) -> Any:
    """Return spreads over the rounds of numbers; of anything else the last."""
    if not isinstance(rounds, list):
        return rounds
    return {
        key: spread(r[key] for r in rounds)
        if isinstance(rounds[0][key], float)
        else rounds[-1][key]
        for key in rounds[0]
    }


if __name__ == "__main__":
    main()
