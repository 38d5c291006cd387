"""A run's folder: whether it may be used, what is finished in it, and where to go on from."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from mpoxcv.cli import as_given
from mpoxcv.command_line import command_for, setting
from mpoxcv.errors import UserError
from mpoxcv.storage.files import lock, read_json, read_metrics
from mpoxcv.storage.stored_config import instantiable, load_config, read_plain

# options that may differ when a run goes on
MAY_CHANGE = frozenset({
    "resume", "ckpt_path", "data.root", "data.cache_dir", "data.threads", "data.prefetch", "data.gpu_cache_mb",
    "logger", "trainer.max_epochs", "trainer.max_steps", "callbacks.progress",
})  # fmt: skip


def refuse_used(config: DictConfig) -> None:
    """Refuse to overwrite a run or go on with it under other options, before Hydra writes there.

    Raises:
        SystemExit: says which command goes on (Hydra swallows other errors of callbacks).
    """
    folder = Path(config.hydra.run.dir).absolute()
    stored = folder / ".hydra" / "overrides.yaml"
    begun = (folder / "provenance.json").exists() or (folder / "checkpoints").exists()
    if not stored.is_file() or not begun:
        return

    before = [str(option) for option in read_plain(stored)]
    typed = as_given(config.hydra.overrides.task)
    again = [o for o in as_given(config.hydra.overrides.hydra) if o.startswith("hydra.searchpath")]
    again += [option for option in before if option_name(option) not in ("resume", "ckpt_path")]
    command = command_for("train", *again, setting("hydra.run.dir", folder), "resume=true")
    if not config.resume and config.ckpt_path != "last":
        hint = f"Choose another folder, or go on with it:\n  {command}"
        raise SystemExit(f"{folder} holds a run already. {hint}")

    changed = [o for o in [*typed, *before] if (o in typed) != (o in before)]
    refused = ", ".join(option for option in changed if option_name(option) not in MAY_CHANGE)
    if refused:
        hint = f"Go on with it:\n  {command}"
        raise SystemExit(f"{folder} holds a run with other options ({refused}). {hint}")


def claim(folder: Path) -> BaseFileLock:
    """Keep other processes out of a run's folder until the lock is released or this process ends.

    Raises:
        SystemExit: another process is at work there (Hydra swallows other errors of callbacks).
    """
    try:
        return lock(folder / ".lock", timeout=0).lock
    except Timeout:
        hint = "Wait until it has ended, or choose another."
        raise SystemExit(f"Another process is at work in {folder}. {hint}") from None


def finished_metrics(folder: Path) -> dict[str, float | None] | None:
    """Return metrics.json of a run's folder if the run is finished."""
    finished = read_json(folder / "provenance.json").get("status") == "finished"
    metrics = folder / "metrics.json"
    return read_metrics(metrics) if finished and metrics.is_file() else None


def stored_parts(
    run: Path, trust: Sequence[str], moved: Mapping[str, Any]
) -> tuple[DictConfig, dict[str, DictConfig]]:
    """Return a run's stored config, and its parts ``data`` and ``classifier`` to instantiate.

    ``moved`` has options of data that take the place of the stored ones where they say something.

    Raises:
        UserError: the config is refused (see ``mpoxcv.storage.stored_config``).
    """
    file = run / ".hydra" / "config.yaml"
    stored = load_config(file, trust)
    for name, value in moved.items():
        if value:
            OmegaConf.update(stored, f"data.{name}", value)
    return stored, {key: instantiable(stored, key, file, trust) for key in ("data", "classifier")}


def resume_path(ckpt_path: str | None, output_dir: Path) -> str | None:
    """Return the checkpoint to go on from: None, ``last`` of this run's folder, or a file.

    A last.ckpt that cannot be read is passed over for the one before it, as stderr says.

    Raises:
        UserError: it is not there, or cannot be read and there is none before it.
    """
    if ckpt_path is None:
        return None
    if "://" in str(ckpt_path):
        hint = "Fetch it, look at it, and give its path."
        raise UserError(f"ckpt_path={ckpt_path} is refused: only files are read. {hint}")
    if ckpt_path != "last":
        if not Path(str(ckpt_path)).is_file():
            hint = "Give a file, or ckpt_path=last with hydra.run.dir=DIR of an interrupted run."
            raise UserError(f"There is no checkpoint {ckpt_path}. {hint}")
        return str(ckpt_path)

    # here, since Lightning takes seconds
    from mpoxcv.storage.checkpoint_io import LAST, PREVIOUS, AtomicCheckpointIO

    last, previous = (output_dir / "checkpoints" / name for name in (LAST, PREVIOUS))
    if not last.is_file():
        hint = "ckpt_path=last goes on in the folder of an interrupted run: give it with hydra.run.dir=DIR."
        raise UserError(f"There is no checkpoint {last}. {hint}")
    try:
        AtomicCheckpointIO().load_checkpoint(last, map_location="cpu")
    except UserError as error:
        if not previous.is_file():
            raise
        AtomicCheckpointIO().load_checkpoint(previous, map_location="cpu")
        print(f"{error}\nGoing on from the one before it, {previous}.", file=sys.stderr)
        return str(previous)
    return str(last)


def option_name(override: str) -> str:
    """Return the option that an override on the command line sets."""
    return override.lstrip("+~").partition("=")[0]
