"""Checkpoints that are whole or not there."""

import io
import os
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mpoxcv.files import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint beside its target and rename it.

    Lightning's own way goes over the system's temporary folder; where that is another filesystem, a kill or a full disk
    leaves a broken file under the good name.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Save ``checkpoint`` under ``path``.

        Raises:
            OSError: the disk is full or the folder cannot be written to; what was under ``path`` is still there.
        """
        buffer = io.BytesIO()  # torch.save itself hides the reason of a failed write
        torch.save(checkpoint, buffer)
        write_atomically(path, buffer.getbuffer())
