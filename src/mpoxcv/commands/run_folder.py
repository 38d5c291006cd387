"""A run's folder: its lock, its stored config, and where to go on from."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from mpoxcv.errors import UserError
from mpoxcv.storage.files import lock, write_atomically
from mpoxcv.storage.stored_config import read_plain
from mpoxcv.terminal import warn


def leads() -> bool:
    """Return whether this is not one of the processes that only help with ddp."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def goes_on(config: DictConfig) -> bool:
    """Return whether a run is to go on with what its folder holds; Slurm's second starts do."""
    restarted = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    return bool(config.resume) or config.ckpt_path == "last" or restarted


def write_config(config: DictConfig, folder: Path) -> None:
    """Write ``.hydra`` as Hydra would, which writes it anew whenever a run goes on."""
    task = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    hydra, overrides = OmegaConf.masked_copy(config, "hydra"), config.hydra.overrides.task
    for name, part in {"config": task, "hydra": hydra, "overrides": overrides}.items():
        write_atomically(folder / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(part))


def complete_config(folder: Path, preprocessing: Mapping[str, Any]) -> None:
    """Write into a run's stored config what pictures are made into, where the network decided."""
    file = folder / ".hydra" / "config.yaml"
    if file.is_file():
        stored = read_plain(file)
        if isinstance(stored, dict) and isinstance(stored.get("data"), dict):
            stored["data"] |= preprocessing
            write_atomically(file, OmegaConf.to_yaml(OmegaConf.create(stored)))


def claim(folder: Path) -> BaseFileLock:
    """Keep other processes out of a run's folder until the lock is released or this process ends.

    Raises:
        UserError: another process is at work there.
    """
    try:
        return lock(folder / ".lock", timeout=0).lock
    except Timeout:
        hint = "Wait until it has ended, or choose another."
        raise UserError(f"Another process is at work in {folder}. {hint}") from None


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
        warn(f"{error}\nGoing on from the one before it, {previous}.")
        return str(previous)
    return str(last)
