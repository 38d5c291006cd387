"""What the scripts share: a Hydra entry point whose errors are written for people."""

import functools
import gc
import inspect
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mpoxcv.command_line import as_typed
from mpoxcv.errors import UserError, visible
from mpoxcv.explain import explain, options_of
from mpoxcv.undocumented import CHATTY_LOGGER, NVML_CHECK, UNWANTED_WARNINGS

# numbers by default, but words mean something, too
WORDS_ALLOWED = frozenset({"fold", "trainer.devices"})
# what a multirun does at its end, however it ends; returns an exit code
AT_END: list[Callable[[], int]] = []

# for conf/: the number of classes, and a job's overrides as the name of one folder
OmegaConf.register_new_resolver("len", len, replace=True)
OmegaConf.register_new_resolver("folder_name", lambda x: str(x).replace("/", "_"), replace=True)


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
            check_numbers(cfg, config_name)
            if trains:
                settle_process()
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
            # imports leave much that stays: looking for garbage in it takes 2 of the 30 s of five
            # short folds
            gc.set_threshold(50_000, 20, 20)
            AT_END.clear()
            typed[:] = sys.argv
            code = attempt(start)
            for action in AT_END:
                code = attempt(action) or code
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
                message: str | None = stop.code
            except Exception as error:
                message = explain(error, conf_dir, config_name, sys.argv[1:])
                sys.stdout.flush()
                # without a message it is a bug
                if message is None:
                    traceback.print_exc()
            if message is not None:
                sys.stderr.write(f"\nerror: {visible(message)}\n")
            return 1

        return run

    return decorate


def settle_process() -> None:
    """Settle what Lightning prints, and how torch looks for GPUs and computes there."""
    # sets the variable itself when it is imported
    import lightning  # noqa: F401
    import torch

    os.environ[NVML_CHECK] = "0"
    # 32-true means float32: with 10 of its 23 bits, torch's default for convolutions on NVIDIA's
    # GPUs, folds in lockstep would not be what they are alone
    torch.backends.cudnn.allow_tf32 = False
    logging.getLogger(CHATTY_LOGGER).setLevel(logging.WARNING)
    for text in UNWANTED_WARNINGS:
        warnings.filterwarnings("ignore", message=text)


def as_given(overrides: Any) -> list[str]:
    """Return options as they were typed, with interpolations such as ``${seed}`` as they stand."""
    options: Any = OmegaConf.to_container(overrides, resolve=False)
    return list(map(str, options))


def check_numbers(cfg: DictConfig, config_name: str) -> None:
    """Refuse a word on the command line where the default is a number.

    Raises:
        UserError: names the option, the word and the default.
    """
    overrides = as_given(HydraConfig.get().overrides.task)
    keys = [override.partition("=")[0] for override in overrides]
    values = {key: OmegaConf.select(cfg, key) for key in keys if key not in WORDS_ALLOWED}
    words = {key: value for key, value in values.items() if isinstance(value, str)}
    if not words:
        return

    groups = [o for key, o in zip(keys, overrides, strict=True) if not ("." in key or key in words)]
    hydra_options = as_given(HydraConfig.get().overrides.hydra)
    folders = [option for option in hydra_options if option.startswith("hydra.searchpath=")]
    defaults = compose(config_name, [*groups, *folders])
    for key, word in words.items():
        default = OmegaConf.select(defaults, key)
        if isinstance(default, int | float) and not isinstance(default, bool):
            raise UserError(f"{key}={word} should be a number, such as {key}={default}.")
