"""Checkpoints that are whole or not there."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint beside its target and rename it.

    Lightning's own way goes over the system's temporary folder; where that is another filesystem, a kill or a full disk
    leaves a broken file under the good name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None) -> None:
        """Save ``checkpoint`` under ``path``.

        Raises:
            OSError: the disk is full or the folder cannot be written to; what was under ``path`` is still there.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()  # torch.save itself hides the reason of a failed write
        torch.save(checkpoint, buffer)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as stream:
                stream.write(buffer.getbuffer())
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
