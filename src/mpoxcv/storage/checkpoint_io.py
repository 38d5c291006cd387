"""Checkpoints that are whole or not there, and run no code when they are read."""

import contextlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from mpoxcv.errors import UserError
from mpoxcv.storage.files import NUMBER, StrPath, fault_of, opened, write_atomically

# of what Lightning and our classifier read; see fault_of
KINDS: dict[str, Any] = {
    "state_dict": {...: Tensor}, "hyper_parameters": {"classes": [str]}, "callbacks": {...: {}},
    "loops": {}, "history": [{...: NUMBER}], "steps": [Tensor], "optimizer_states": [{}],
    "lr_schedulers": [{}], "epoch": int, "global_step": int, "should_stop": bool, "weights": str,
    "pytorch-lightning_version": str,
}  # fmt: skip
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
# what a ModelCheckpoint's state says of files, beside the keys of best_k_models
PATHS = frozenset({"dirpath", "best_model_path", "kth_best_model_path", "last_model_path"})
# a checkpoint is of any size
MAX_BYTES = 2**45
# a zip archive's first bytes, by which torch tells one, and those of its last part, with its length
ZIP, END, END_BYTES = b"PK\3\4", b"PK\5\6", 22


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint beside its target and rename it; the paths in it are relative to it.

    A run goes on wherever its folder lies: Lightning's ModelCheckpoint forgets what was best where
    its folder has another path than before, and would score the checkpoint at the old one.

    Lightning's own way goes over the system's temporary folder; where that is another filesystem, a
    kill or a full disk leaves a broken file under the good name.
    """

    def __init__(self) -> None:
        super().__init__()
        # where this run's checkpoints lie: what else a checkpoint names is a stranger's
        self.folders: set[str] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: StrPath, storage_options: Any = None
    ) -> None:
        """Save ``checkpoint`` under ``path``; a ``last.ckpt`` before it stays as ``previous.ckpt``.

        After an OSError (the disk is full or read-only) what was under ``path`` is still there.
        """
        # torch.save itself hides the reason of a failed write
        buffer = io.BytesIO()
        folder = Path(os.path.realpath(path)).parent
        self.folders.add(str(folder))

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
        """Load tensors and plain values, whatever ``weights_only`` says; UserError for any else.

        Files that it names are forgotten, since Lightning would read and remove them, but for those
        in its own folder and in ``folders``.
        """
        content = read_tensors(path, map_location)
        checkpoint = {key: value for key, value in content.items() if value is not None}
        if fault := fault_of(checkpoint, KINDS) or (
            "state_dict" not in checkpoint and "state_dict"
        ):
            raise UserError(
                f"{path} is not a checkpoint of a run: it has another {fault}, or none."
            )
        folder = os.path.dirname(os.path.realpath(path))  # noqa: PTH120

        def inside(file: str) -> str:
            there = Path(os.path.realpath(Path(folder, file)))
            known = any(there.is_relative_to(own) for own in (folder, *self.folders))
            return str(there) if known else ""

        return _moved(checkpoint, inside)

    def remove_checkpoint(self, path: StrPath) -> None:
        """Remove a checkpoint from a folder of this run's, and nothing else."""
        file = Path(os.path.realpath(Path(path).parent), Path(path).name)
        known = any(file.is_relative_to(own) for own in self.folders)
        if known and file.suffix == ".ckpt" and file.is_file():
            file.unlink()


def read_tensors(path: StrPath, map_location: Any = None) -> dict[str, Any]:
    """Return a file's tensors and plain values, of torch's format or safetensors'; runs no code.

    Raises:
        UserError: it cannot be read, or holds anything else.
    """
    try:
        with opened(path, MAX_BYTES) as stream:
            if Path(path).suffix == ".safetensors":
                # here, since it comes with timm
                from safetensors.torch import load_file

                return load_file(path)
            _require_unpacked(stream)
            content = torch.load(stream, map_location, weights_only=True)
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


def _require_unpacked(stream: BinaryIO) -> None:
    """Raise ValueError where what torch takes for a zip archive is packed, or is read in two ways.

    Torch packs none. With more behind its last part zipfile and torch may see two archives in one.
    """
    if stream.read(len(ZIP)) == ZIP:
        stream.seek(-END_BYTES, os.SEEK_END)
        if not stream.read().startswith(END):
            raise ValueError("it is cut, or something lies behind its end")
        with zipfile.ZipFile(stream) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("its parts are packed, which torch never does: a bomb?")
    stream.seek(0)


def _moved(checkpoint: dict[str, Any], move: Callable[[str], str]) -> dict[str, Any]:
    """Return a checkpoint with the paths of files that its callbacks' states name moved."""

    def moved(value: Any, key: str) -> Any:
        if key == "best_k_models":
            pairs = value.items() if isinstance(value, dict) else ()
            return {there: s for file, s in pairs if (there := moved(file, "dirpath"))}
        if key not in PATHS:
            return value
        return move(value) if isinstance(value, str) and value else ""

    states = {
        name: {k: moved(v, k) for k, v in state.items()} if isinstance(state, dict) else state
        for name, state in checkpoint.get("callbacks", {}).items()
    }
    return {**checkpoint, "callbacks": states}
