"""What the scripts share: a Hydra entry point whose errors are written for people."""

import difflib
import errno
import functools
import gc
import inspect
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mpoxcv.errors import UserError, did_you_mean, visible
from mpoxcv.undocumented import (
    CHATTY_LOGGER,
    LIGHTNING_REFUSES,
    NOT_DETERMINISTIC,
    NVML_CHECK,
    UNKNOWN_OPTION,
    UNWANTED_WARNINGS,
    WRONG_GROUP_VALUE,
)

# numbers by default, but words mean something, too
WORDS_ALLOWED = frozenset({"fold", "trainer.devices"})
# what joblib and submitit raise when a job's process has ended without a word; named, so that they
# need not be imported
KILLED = frozenset({"TerminatedWorkerError", "BrokenProcessPool", "UncompletedJobError"})
DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}
)
# what a multirun does at its end, however it ends; returns an exit code
AT_END: list[Callable[[], int]] = []

# for conf/: the number of classes, and a job's overrides as the name of one folder
OmegaConf.register_new_resolver("len", len, replace=True)
OmegaConf.register_new_resolver(
    "folder_name", lambda text: str(text).replace("/", "_"), replace=True
)


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
            with job_arguments(typed):
                return task(cfg)

        hydra_main = hydra.main(
            version_base="1.3", config_path=str(conf_dir), config_name=config_name
        )(job)

        @functools.wraps(task)
        def run() -> None:
            # Hydra hands us the exception itself
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            # imports leave much that stays: looking for garbage in it takes 2 of the 30 s of five
            # short folds
            gc.set_threshold(50_000, 20, 20)
            AT_END.clear()
            sys.argv[1:] = map(quoted, sys.argv[1:])
            typed[:] = sys.argv
            code = attempt(hydra_main)
            for action in AT_END:
                code = attempt(action) or code
            if code:
                sys.exit(code)

        def attempt(action: Callable[[], int | None]) -> int:
            """Do it; say what went wrong; return the exit code."""
            try:
                return action() or 0
            except KeyboardInterrupt:
                sys.stderr.write("\ninterrupted\n")
                return 130
            # Lightning's way to end after Ctrl-C
            except SystemExit as stop:
                if isinstance(stop.code, str):
                    sys.stderr.write(f"\nerror: {visible(stop.code)}\n")
                return 1 if isinstance(stop.code, str) else stop.code or 0
            except Exception as error:
                message = explain(error, conf_dir, config_name, sys.argv[1:])
                sys.stdout.flush()
                # without a message it is a bug
                if message is None:
                    traceback.print_exc()
                else:
                    sys.stderr.write(f"\nerror: {visible(message)}\n")
                return 1

        return run

    return decorate


def settle_process() -> None:
    """Settle what Lightning prints and how torch looks for GPUs, in this process."""
    # sets the variable itself when it is imported
    import lightning  # noqa: F401

    os.environ[NVML_CHECK] = "0"
    logging.getLogger(CHATTY_LOGGER).setLevel(logging.WARNING)
    for text in UNWANTED_WARNINGS:
        warnings.filterwarnings("ignore", message=text)


@contextmanager
def job_arguments(typed: list[str]) -> Iterator[None]:
    """Show a job of a multirun its own command, by which ddp starts more processes.

    Args:
        typed: the multirun's command, which stands there afterwards.
    """
    config = HydraConfig.get()
    if config.mode == RunMode.MULTIRUN:
        sys.argv = [typed[0], *as_given(config.overrides.task)]
    try:
        yield
    finally:
        sys.argv = typed


def quoted(argument: str) -> str:
    """Quote a value that holds an equals sign, which Hydra's grammar does not take bare.

    Such is the folder of a multirun's fold=1.
    """
    match = re.fullmatch(r"([\w.+~@/-]+)=([^=\s'\"\[\]{}(),]*=[^\s'\"\[\]{}(),]*)", argument)
    return f"{match[1]}='{match[2]}'" if match else argument


def as_given(overrides: Any) -> list[str]:
    """Return options as they were typed.

    OmegaConf would put values in the place of interpolations, such as ``${seed}``.
    """
    options: Any = OmegaConf.to_container(overrides, resolve=False)
    return list(map(str, options))


def check_numbers(cfg: DictConfig, config_name: str) -> None:
    """Refuse a word on the command line where the default is a number.

    Args:
        cfg: the config as composed.
        config_name: its file.

    Raises:
        UserError: names the option, the word and the default.
    """
    overrides = as_given(HydraConfig.get().overrides.task)
    words: dict[str, str] = {}
    for key in (override.partition("=")[0] for override in overrides):
        value = OmegaConf.select(cfg, key, throw_on_missing=False)
        if key not in WORDS_ALLOWED and isinstance(value, str):
            words[key] = value
    if not words:
        return

    groups = [o for o in overrides if "." not in (k := o.partition("=")[0]) and k not in words]
    hydra_options = as_given(HydraConfig.get().overrides.hydra)
    folders = [option for option in hydra_options if option.startswith("hydra.searchpath=")]
    defaults = compose(config_name, [*groups, *folders])
    for key, word in words.items():
        default = OmegaConf.select(defaults, key)
        if isinstance(default, int | float) and not isinstance(default, bool):
            raise UserError(f"{key}={word} should be a number, such as {key}={default}.")


def explain(
    error: BaseException, conf_dir: Path, config_name: str, arguments: list[str]
) -> str | None:
    """Return the message for a person, or None where the error is a bug.

    Args:
        error: what was raised; its chain of causes is searched.
        conf_dir: the folder of configs, for suggestions.
        config_name: the script's config.
        arguments: the command line's arguments.
    """
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, UserError) or type(cause).__name__ == LIGHTNING_REFUSES:
            return str(cause)
    for cause in causes:
        if not isinstance(cause, OSError) or isinstance(cause, HydraException):
            continue
        if cause.errno in DISK_ERRORS:
            where = f": {cause.filename}" if cause.filename else ""
            ways = "make room, or take another folder (data.cache_dir=DIR, hydra.run.dir=DIR)"
            return f"{cause.strerror}{where}. What was finished before is whole; {ways}."
    for cause in causes:
        if operation := NOT_DETERMINISTIC.match(str(cause)):
            return (
                f"{operation[1]}, which this network needs, gives other last digits each time on this device. "
                "Train all the same with trainer.deterministic=warn, or take another network or trainer=cpu."
            )
    if any(type(cause).__name__ in KILLED for cause in causes):
        return "A job's process was killed: by the system, for want of memory or time, or by someone. Others are kept."
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = ", ".join(error.options)
        return f"{choice!r} is not an option of {group}.{did_you_mean(choice, error.options)} Options: {options}."
    if isinstance(error, ConfigCompositionException) and (key := _unknown_key(error)):
        hint = _suggest_option(key, _config_keys(conf_dir, config_name, arguments))
        return f"There is no option {key!r}.{hint} All options with their values: --cfg job"
    if isinstance(error, ValueError) and WRONG_GROUP_VALUE in str(error):
        return f"{error}. A group takes the name of one of its options, such as logger=none."
    if isinstance(error, HydraException | OmegaConfBaseException):
        return "\n".join(dict.fromkeys(str(cause).strip() for cause in causes))
    return None


def cause_of(error: BaseException) -> str:
    """Return what a person needs to know of an error, in a line or a few."""
    for cause in _chain(error):
        if isinstance(cause, UserError):
            return str(cause)
    return visible(f"{type(error).__name__}: {error}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _unknown_key(error: BaseException) -> str | None:
    text = "\n".join(map(str, _chain(error)))
    match = UNKNOWN_OPTION.search(text)
    # where it is a group
    if match and match[2]:
        return match[1].partition("@")[0].replace("/", ".")
    return match and match[1]


def _config_keys(conf_dir: Path, config_name: str, arguments: list[str]) -> list[str]:
    """Names of all options, with the groups chosen on the command line where those compose."""
    groups = {p.name for p in conf_dir.iterdir() if p.is_dir()}
    choices = [a for a in arguments if a.partition("=")[0] in groups]
    for overrides in (choices, []):
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(conf_dir), version_base="1.3"):
                config = compose(config_name, overrides)
        except HydraException:
            continue
        return list(dict.fromkeys([*sorted(groups), *_flatten(OmegaConf.to_container(config))]))
    return sorted(groups)


def _suggest_option(key: str, known: list[str]) -> str:
    """Suggest options that look like ``key``, or whose last part does.

    People leave the group out.
    """
    close = difflib.get_close_matches(key, known, n=2, cutoff=0.8)
    if not close:
        leaves = {name.rpartition(".")[2] for name in known}
        best = difflib.get_close_matches(key.rpartition(".")[2], sorted(leaves), n=1, cutoff=0.6)
        close = [name for name in known if name.rpartition(".")[2] in best][:3]
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def _flatten(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _flatten(value, f"{prefix}{key}.")
