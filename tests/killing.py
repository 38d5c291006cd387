"""A training run in a process of its own that kills itself at a chosen moment."""

import multiprocessing
import os
import random
import runpy
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from conftest import PROJECT

PROCESSES = multiprocessing.get_context("forkserver")  # imports once, forks for each run
PROCESSES.set_forkserver_preload(
    [
        "mpoxcv.commands.train",
        "mpoxcv.training.callbacks",
        "mpoxcv.commands.sweep",
        "torchvision.transforms.v2",
    ]
)
MOMENTS = (
    "training_step",
    "validation_step",
    "test_step",
    "before_write",
    "half_write",
    "after_write",
)


def start(
    arguments: list[str],
    folder: Path,
    moment: str | None = None,
    count: int = 0,
    number: int = signal.SIGKILL,
    **variables: str,
) -> multiprocessing.Process:
    """Start ``scripts/train.py``, which sends itself a signal at the ``count``-th ``moment``."""
    given = (arguments, folder, moment, count, number, variables)
    process = PROCESSES.Process(target=_train, args=given)
    process.start()
    return process


def kill_somewhere(
    arguments: list[str],
    folder: Path,
    moment: str,
    rng: random.Random,
    seconds: tuple[float, float],
    most: Mapping[str, int],
    otherwise: int,
    timeout: float,
) -> int | None:
    """Start a run and kill it ``at a random time`` within the seconds, or at one of a moment.

    ``most`` has how often moments come, but the first; ``otherwise`` that of the others. Returns
    the exit code: the run may have ended before.
    """
    if moment == "at a random time":
        process = start(arguments, folder)
        time.sleep(rng.uniform(*seconds))
        process.kill()
    else:
        process = start(arguments, folder, moment, rng.randint(0, most.get(moment, otherwise)))
    process.join(timeout)
    return process.exitcode


def _train(
    arguments: list[str],
    folder: Path,
    moment: str | None,
    count: int,
    number: int,
    variables: dict[str, str],
) -> None:
    import torch

    os.environ.update(variables)

    torch.set_num_threads(1)
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if moment:
        _plan(moment, count, number)
    script = str(PROJECT / "scripts/train.py")
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def _plan(moment: str, count: int, number: int) -> None:
    from lightning.pytorch.callbacks import EarlyStopping

    from mpoxcv.storage import files
    from mpoxcv.training.classifier import LesionClassifier

    left = [count]

    def now() -> bool:
        left[0] -= 1
        return left[0] == -1

    def end() -> None:
        os.kill(os.getpid(), number)

    if moment.endswith("_step"):
        step = getattr(LesionClassifier, moment)

        def stepped(self, batch, batch_idx):
            if now():
                end()
            return step(self, batch, batch_idx)

        setattr(LesionClassifier, moment, stepped)
        return
    fsync, replace, stopped = os.fsync, Path.replace, [False]
    if moment == "last_write":
        stop = EarlyStopping._run_early_stopping_check

        def checked(self, trainer) -> None:
            stop(self, trainer)
            stopped[0] = trainer.should_stop

        EarlyStopping._run_early_stopping_check = checked

    def synced(descriptor: int) -> None:
        if moment == "half_write" and now():
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            end()
        fsync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        if moment == "before_write" and now():
            end()
        done = replace(self, target)
        if moment == "last_write" and stopped[0] and target.name == "last.ckpt":
            end()
        if moment == "after_write" and now():
            end()
        return done

    files.os.fsync, Path.replace = synced, replaced
