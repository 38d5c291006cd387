"""Loggers and progress bars that cost a run nothing: they may fail, and they end with it."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mpoxcv.errors import visible
from mpoxcv.terminal import warn

# seconds until it is opened again: two processes may make the same data base
PAUSES = (1.0, 4.0)
# wrong options, and packages that are not installed
MISTAKES = (
    ImportError, TypeError, ValueError, AttributeError, InstantiationException,
    MisconfigurationException,
)  # fmt: skip


def tell(name: str, error: Exception) -> None:
    """Say what failed, and that the run goes on."""
    reason = visible(f"{type(error).__name__}: {error}").strip().splitlines()[0]
    text = f"{name} failed, and may lack something; the run goes on. ({reason})"
    warn(text)


def unfailing(thing: Any, interface: type, *more: str) -> Any:
    """Let the methods of a logger's or a progress bar's interface, and ``more``, end nothing.

    The first failure is told.
    """
    told = False

    def attempt(action: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        nonlocal told
        try:
            return action(*arguments, **named)
        except Exception as error:
            if not told:
                tell(type(thing).__name__, error)
            told = True

    for name in (*dir(interface), *more):
        if not name.startswith("_") and callable(getattr(type(thing), name, None)):
            setattr(thing, name, partial(attempt, getattr(thing, name)))
    return thing


def open_loggers(configs: Iterable[Any]) -> list[Logger]:
    """Make and open loggers; one that cannot be, say without its server, is told and left out.

    Raises:
        InstantiationException: its options are wrong, or its package is not installed.
    """
    opened = []
    for config in configs:
        for pause in (*PAUSES, None):
            try:
                logger = instantiate(config)
                # many connect only now
                _ = getattr(logger, "experiment", None)
                opened.append(unfailing(logger, Logger, "log_final"))
                break
            except Exception as error:
                cause: Any = error.__cause__ or error
                if isinstance(error, InstantiationException) and isinstance(cause, MISTAKES):
                    raise
                if pause is None:
                    tell(config._target_, cause)
                else:
                    time.sleep(pause)
    return opened


@contextmanager
def ended(loggers: Iterable[Any]) -> Iterator[None]:
    """End W&B's run with ours, however it ends: the next in the process has its own."""
    failed = True
    try:
        yield
        failed = False
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                try:
                    logger.experiment.finish(exit_code=int(failed))
                except Exception as error:
                    tell("WandbLogger", error)
