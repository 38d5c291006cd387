"""What the scripts share: a Hydra entry point whose errors are written for people."""

import contextlib
import functools
import gc
import inspect
import io
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mpoxcv.command_line import PATHS, TEXTS, as_typed
from mpoxcv.errors import UserError, visible
from mpoxcv.explain import explain, options_of
from mpoxcv.undocumented import CHATTY_LOGGERS, NVML_CHECK, UNWANTED_WARNINGS

# numbers by default, but words mean something, too
WORDS_ALLOWED = frozenset({"fold", "trainer.devices"})
# what a multirun does at its end, however it ends; returns an exit code
AT_END: list[Callable[[], int]] = []
# what schedulers send before a job's time is over, and terminals when they close
ENDING = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")


def entry_point(
    config_name: str, trains: bool = False
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a composed config the main function of a script in ``scripts/``.

    Mistakes in the command line, in the config, in the data (``UserError``) or of the disk end with
    a message on stderr and exit code 1; anything else is a bug and ends with its traceback.
    This is the one place that changes settings of the whole process.

    Args:
        config_name: ``conf/<config_name>.yaml`` beside the script's folder.
        trains: whether the task has a Trainer.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        conf_dir = Path(inspect.getfile(task)).resolve().parent.parent / "conf"
        typed: list[str] = []

        @functools.wraps(task)
        def job(cfg: DictConfig) -> Any:
            # also in a process of a launcher, which comes here and not by run
            settle_process()
            check_numbers(cfg, config_name)
            if trains:
                settle_training()
            # the user's own my_file.py, which _target_ names; last, so that it hides no package.
            # What reads a stranger's run looks there only for what it is told to trust
            if str(Path.cwd()) not in sys.path and cfg.get("trust", True):
                sys.path.append(str(Path.cwd()))
            # a job of a multirun sees its own command, by which ddp starts more processes
            config = HydraConfig.get()
            if config.mode == RunMode.MULTIRUN:
                sys.argv = [typed[0], *as_given(config.overrides.task)]
            try:
                return task(cfg)
            finally:
                sys.argv = typed

        hydra_main = hydra.main(str(conf_dir), config_name, version_base="1.3")(job)

        @functools.wraps(task)
        def run() -> None:
            # Hydra hands us the exception itself
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            settle_process()
            # imports leave much that stays: looking for garbage in it takes 2 of the 30 s of five
            # short folds
            gc.set_threshold(50_000, 20, 20)
            AT_END.clear()
            typed[:] = sys.argv
            code = attempt(start)
            for action in AT_END:
                code = attempt(action) or code
            sys.stdout.flush()
            if code:
                sys.exit(code)

        def start() -> None:
            given = sys.argv[1:]
            sys.argv[1:] = as_typed(given, lambda: options_of(conf_dir, config_name, given))
            typed[:] = sys.argv
            hydra_main()

        def attempt(action: Callable[[], int | None]) -> int:
            """Do it; say what went wrong; return the exit code."""
            try:
                return action() or 0
            except KeyboardInterrupt:
                sys.stderr.write("\ninterrupted\n")
                return 130
            # Lightning's way to end after Ctrl-C
            except SystemExit as stop:
                if not isinstance(stop.code, str):
                    return stop.code or 0
                message = stop.code
            except Exception as error:
                # without a message it is a bug
                sentence = explain(error, conf_dir, config_name, sys.argv[1:])
                message = sentence or traceback.format_exc()
            sys.stdout.flush()
            sys.stderr.write(f"\nerror: {visible(message)}\n")
            return 1

        return run

    return decorate


def unfailing(stream: Any) -> Any:
    """Let a text stream end no command: what it cannot encode is escaped, what fails is left out.

    Its reader may have gone (``| head``), or its terminal, or the log's disk may be full.
    """

    def attempt(action: Callable[..., Any], *arguments: str) -> Any:
        try:
            return action(*arguments)
        except OSError as error:
            # what is still buffered, and what other processes write, goes nowhere without an error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            sys.stderr.write(f"{stream.name} takes no more ({error.strerror}): the work goes on.\n")

    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    # it may have been done before
    if not isinstance(stream.write, functools.partial):
        for name in ("write", "flush"):
            setattr(stream, name, functools.partial(attempt, getattr(stream, name)))
    return stream


def settle_process() -> None:
    """Let nothing that is printed end the process, schedulers' signals end it as Ctrl-C does.

    And figures are drawn without a screen: a notebook's backend may not be there.
    """
    os.environ["MPLBACKEND"] = "agg"
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("stdout", "stderr"):
        setattr(sys, name, unfailing(getattr(sys, name) or Path(os.devnull).open("w")))  # noqa: SIM115
    if threading.current_thread() is threading.main_thread():
        for number in [getattr(signal, name) for name in ENDING if hasattr(signal, name)]:
            # submitit has its own way with some, nohup and Lightning with others
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, end)


def end(number: int, frame: Any) -> NoReturn:
    """End as after Ctrl-C, so that locks are freed and the next start goes on."""
    name = signal.Signals(number).name
    if name != "SIGTERM":
        # by which Lightning ends ddp's other processes
        with contextlib.suppress(SystemExit):
            signal.raise_signal(signal.SIGTERM)
    raise SystemExit(
        f"Stopped by {name}. What was finished before is whole, and can be gone on with."
    )


def settle_training() -> None:
    """Settle what Lightning warns of, and how torch looks for GPUs and computes there."""
    # sets the variable itself when it is imported
    import lightning  # noqa: F401
    import torch

    os.environ[NVML_CHECK] = "0"
    # 32-true means float32: with 10 of its 23 bits, torch's default for convolutions on NVIDIA's
    # GPUs, folds in lockstep would not be what they are alone
    torch.backends.cudnn.allow_tf32 = False
    # deterministic algorithms would also fill all memory that is about to be written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined, unused-ignore]
    for text in UNWANTED_WARNINGS:
        warnings.filterwarnings("ignore", message=text)


def as_given(overrides: Any) -> list[str]:
    """Return options as they were typed, with interpolations such as ``${seed}`` as they stand."""
    options: Any = OmegaConf.to_container(overrides, resolve=False)
    return list(map(str, options))


def check_numbers(cfg: DictConfig, config_name: str) -> None:
    """Refuse a word on the command line where the default is a number, or one of our switches.

    Raises:
        UserError: names the option, the word and the default.
    """
    given = as_given(HydraConfig.get().overrides.task)
    keys = {option.partition("=")[0] for option in given} - WORDS_ALLOWED
    # of a path, which nearly every command has, no default need be composed
    values = {
        k: OmegaConf.select(cfg, k) for k in keys if k.rpartition(".")[2] not in PATHS | TEXTS
    }
    words = {key: value for key, value in values.items() if isinstance(value, str)}
    defaults = compose(config_name) if words else OmegaConf.create()
    for key, word in words.items():
        default = OmegaConf.select(defaults, key)
        if isinstance(default, bool):
            # those of libraries may take words
            if "." not in key:
                raise UserError(f"{key}={word} should be true or false.")
        elif isinstance(default, int | float):
            raise UserError(f"{key}={word} should be a number, such as {key}={default}.")
