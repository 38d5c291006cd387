"""Checkpoints that are whole or not there, and run no code when they are read."""

import contextlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mpoxcv.errors import UserError
from mpoxcv.files import write_atomically

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
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint of tensors and plain values, whatever ``weights_only`` says.

        Raises:
            UserError: the file is no checkpoint, a damaged one, or one that holds code.
        """
        try:
            checkpoint = super().load_checkpoint(str(path), map_location, weights_only=True)
        except (
            pickle.UnpicklingError,
            RuntimeError,
            EOFError,
            LookupError,
            ValueError,
            TypeError,
            AttributeError,
            OSError,
        ) as error:
            reason = "it is damaged, no checkpoint at all, or holds more than tensors and plain values"
            raise UserError(f"The checkpoint {path} cannot be read: {reason} ({str(error).splitlines()[0]}).") from None
        if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
            raise UserError(f"{path} is not a checkpoint of a run: it holds no state_dict.")
        return checkpoint
