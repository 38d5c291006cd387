"""Checkpoints that are whole or not there, and run no code when they are read."""

import contextlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mpoxcv.errors import UserError
from mpoxcv.storage.files import write_atomically

KINDS: dict[str, type] = {  # of what Lightning and our classifier read
    "hyper_parameters": dict, "callbacks": dict, "loops": dict, "history": list, "steps": list, "optimizer_states": list,
    "lr_schedulers": list, "epoch": int, "global_step": int, "pytorch-lightning_version": str,
}  # fmt: skip
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint beside its target and rename it.

    Lightning's own way goes over the system's temporary folder; where that is another filesystem, a kill or a full disk
    leaves a broken file under the good name.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Save ``checkpoint`` under ``path``; the ``last.ckpt`` before it stays as ``previous.ckpt``.

        Raises:
            OSError: the disk is full or the folder cannot be written to; what was under ``path`` is still there.
        """
        buffer = io.BytesIO()  # torch.save itself hides the reason of a failed write
        torch.save(checkpoint, buffer)
        if (last := Path(path)).name == LAST and last.is_file():
            previous = last.with_name(PREVIOUS)
            previous.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a disk without links
                os.link(last, previous)
        write_atomically(path, buffer.getbuffer())

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Load a checkpoint of tensors and plain values, whatever ``weights_only`` says; UserError for any other file."""
        try:
            if Path(path).is_file() and zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                        raise ValueError("its parts are packed, which torch never does: a bomb?")
            # a path and no address, which Lightning's own way would fetch
            checkpoint = torch.load(Path(path), map_location, weights_only=True)
        except Exception as error:  # torch and zipfile raise a dozen kinds for damaged files
            reason = (
                "it is damaged, no checkpoint at all, or holds more than tensors and plain values"
            )
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"The checkpoint {path} cannot be read: {reason} ({first}).") from None
        weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
        if not isinstance(weights, dict) or not all(
            isinstance(value, torch.Tensor) for value in weights.values()
        ):
            raise UserError(
                f"{path} is not a checkpoint of a run: it holds no state_dict of tensors."
            )
        if wrong := [
            key for key, kind in KINDS.items() if not isinstance(checkpoint.get(key, kind()), kind)
        ]:
            raise UserError(
                f"{path} is not a checkpoint of a run: its {wrong[0]} is no {KINDS[wrong[0]].__name__}."
            )
        classes = checkpoint.get("hyper_parameters", {}).get("classes") or []
        if not isinstance(classes, list | tuple) or not all(
            isinstance(name, str) for name in classes
        ):
            raise UserError(f"{path} is not a checkpoint of a run: its classes are no names.")
        return checkpoint

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove a checkpoint, and nothing else: which ones are old stands in a checkpoint that someone may have sent."""
        if (file := Path(path)).suffix == ".ckpt" and file.is_file():
            file.unlink()
