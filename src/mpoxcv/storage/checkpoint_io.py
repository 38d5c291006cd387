"""Checkpoints that are whole or not there, and run no code when they are read."""

import contextlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from mpoxcv.errors import UserError
from mpoxcv.storage.files import StrPath, write_atomically

# of what Lightning and our classifier read
KINDS: dict[str, type] = {
    "hyper_parameters": dict, "callbacks": dict, "loops": dict, "history": list, "steps": list,
    "optimizer_states": list, "lr_schedulers": list, "epoch": int, "global_step": int, "should_stop": bool,
    "pytorch-lightning_version": str,
}  # fmt: skip
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
# what a ModelCheckpoint's state says of files, beside the keys of best_k_models
PATHS = frozenset({"dirpath", "best_model_path", "kth_best_model_path", "last_model_path"})


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint beside its target and rename it; the paths in it are relative to it.

    A run goes on wherever its folder lies: Lightning's ModelCheckpoint forgets what was best where
    its folder has another path than before, and would score the checkpoint at the old one.

    Lightning's own way goes over the system's temporary folder; where that is another filesystem, a
    kill or a full disk leaves a broken file under the good name.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: StrPath, storage_options: Any = None
    ) -> None:
        """Save ``checkpoint`` under ``path``; a ``last.ckpt`` before it stays as ``previous.ckpt``.

        After an OSError (the disk is full or read-only) what was under ``path`` is still there.
        """
        # torch.save itself hides the reason of a failed write
        buffer = io.BytesIO()
        folder = Path(os.path.realpath(path)).parent

        def relative(file: str) -> str:
            """Return the path from here to what lies in the run's folder, others as they are."""
            inside = Path(file).is_relative_to(folder.parent)
            return Path(os.path.relpath(file, folder)).as_posix() if inside else file

        torch.save(_moved(checkpoint, relative), buffer)
        if (last := Path(path)).name == LAST and last.is_file():
            previous = last.with_name(PREVIOUS)
            previous.unlink(missing_ok=True)
            # some disks have no links
            with contextlib.suppress(OSError):
                os.link(last, previous)
        write_atomically(path, buffer.getbuffer())

    def load_checkpoint(
        self, path: StrPath, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load tensors and plain values, whatever ``weights_only`` says; UserError for any else."""
        checkpoint = read_tensors(path, map_location)
        if fault := _fault_of(checkpoint):
            raise UserError(f"{path} is not a checkpoint of a run: {fault}.")
        folder = Path(os.path.realpath(path)).parent
        return _moved(checkpoint, lambda file: os.path.normpath(folder / file))

    def remove_checkpoint(self, path: StrPath) -> None:
        """Remove a checkpoint, and nothing else: the path may come out of one that was sent."""
        if (file := Path(path)).suffix == ".ckpt" and file.is_file():
            file.unlink()


def read_tensors(path: StrPath, map_location: Any = None) -> dict[str, Any]:
    """Return a file's tensors and plain values, of torch's format or safetensors'; runs no code.

    Raises:
        UserError: it cannot be read, or holds anything else.
    """
    try:
        if Path(path).suffix == ".safetensors":
            # here, since it comes with timm
            from safetensors.torch import load_file

            return load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                    raise ValueError("its parts are packed, which torch never does: a bomb?")
        # a path and no address, which Lightning's own way would fetch
        content = torch.load(Path(path), map_location, weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        return content
    except ImportError:
        way = 'pip install "mpoxcv[pretrained]"'
        raise UserError(f"{path} needs the package safetensors to be read: {way}") from None
    # torch and zipfile raise a dozen kinds for damaged files
    except Exception as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{path} cannot be read: it is damaged, no checkpoint at all, "
            f"or holds more than tensors and plain values ({line})."
        ) from None


def _moved(checkpoint: dict[str, Any], move: Callable[[str], str]) -> dict[str, Any]:
    """Return a checkpoint with the paths of files that its callbacks' states name moved."""

    def moved(value: Any, key: str) -> Any:
        if key == "best_k_models" and isinstance(value, dict):
            return {moved(file, "dirpath"): score for file, score in value.items()}
        is_path = key in PATHS and isinstance(value, str) and value and "://" not in value
        return move(value) if is_path else value

    states = {
        name: {k: moved(v, k) for k, v in state.items()} if isinstance(state, dict) else state
        for name, state in checkpoint.get("callbacks", {}).items()
    }
    return {**checkpoint, "callbacks": states}


def _fault_of(checkpoint: Any) -> str | None:
    """Return why this is not what Lightning and our classifier read, or None."""
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        return "it holds no state_dict of tensors"
    for key, kind in KINDS.items():
        if not isinstance(checkpoint.get(key, kind()), kind):
            return f"its {key} is no {kind.__name__}"
    classes = checkpoint.get("hyper_parameters", {}).get("classes") or []
    if not isinstance(classes, list | tuple) or not all(isinstance(c, str) for c in classes):
        return "its classes are no names"
    return None
