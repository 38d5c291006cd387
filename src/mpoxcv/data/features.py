"""What a frozen backbone or its stem makes of pictures, computed once and kept by their pixels.

Legend: N pictures, S picture size in pixels, D features.
"""

import hashlib
import importlib.metadata
import importlib.util
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from mpoxcv.data.loader import BatchLoader
from mpoxcv.errors import UserError
from mpoxcv.models.weights import digest_of
from mpoxcv.pictures.pixels import Form
from mpoxcv.storage.files import StrPath, lock, write_atomically
from mpoxcv.terminal import say

# raise it when the same pictures and backbone would give other features
VERSION = 1
BATCH = 32
# pictures of a file: what an interrupted pass loses at most
CHUNK = 256
# of two ways to compute, relative to the largest feature: no more than between two processors
AGREEMENT = 1e-4
Compute = Callable[[Tensor], Tensor]
# the last one made, by the folder of its features: the next fold goes on with it
_onnx: dict[Path, Compute | None] = {}


def cached_features(
    backbone: nn.Module,
    pixels: np.ndarray,
    digests: np.ndarray,
    form: Form,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    cache_dir: StrPath,
    device: torch.device,
) -> np.ndarray:
    """Return the backbone's output for each picture, float32 (N, D); compute what is not there.

    On a CPU onnxruntime computes it, where it is installed and agrees with torch. It is found by
    the files' content, and by all that makes a difference: backbone, weights, preprocessing, and
    what computed it. Of processes that want the same, one computes, and the others wait. A pass
    that was interrupted goes on.

    Args:
        backbone: maps float (B, 3, S, S) to (B, D); is put into evaluation.
        pixels: uint8 (N, S, S, 3).
        digests: str (N,), of the files.
        form: what pictures were made into.
        mean: as of ``mpoxcv.data.loader.BatchLoader``.
        std: likewise.
        cache_dir: gets a folder of the features; may be deleted at any time.
        device: computes.

    Raises:
        UserError: somebody else changes them meanwhile.
        OSError: the disk is full, or ``cache_dir`` cannot be written to.
    """
    backbone = backbone.eval().to(device)
    made_by = [VERSION, str(backbone), digest_of(backbone.state_dict()), *form, mean, std]
    for engine in _engines(device):
        key = hashlib.sha256(repr([*made_by, engine]).encode()).hexdigest()[:16]
        folder = Path(cache_dir) / f"features-{key}"
        features, missing = _read(folder, digests)
        if not missing:
            return features
        with lock(folder / ".lock"):
            # another process may have computed them meanwhile
            features, missing = _read(folder, digests)
            loader = _loader(pixels, missing, mean, std, device)
            compute: Compute | None = backbone
            if engine.startswith("onnxruntime") and missing:
                # trying takes half a minute, which the next process need not lose again
                refused = folder / "refused"
                if folder not in _onnx and not refused.exists():
                    _onnx.clear()
                    _onnx[folder] = _by_onnxruntime(backbone, next(iter(loader))["image"])
                compute = _onnx.get(folder)
            if compute is None:
                write_atomically(refused, "torch computes this backbone\n")
                continue
            _compute(compute, loader, digests[missing], folder, engine)
        features, missing = _read(folder, digests)
        if missing:
            raise UserError(
                f"{folder} was changed or damaged meanwhile: delete it, and begin again."
            )
        return features
    raise AssertionError("torch computes what nothing else does")


def _engines(device: torch.device) -> list[str]:
    """Return what computes, the fastest first, with its version."""
    engines = [f"torch {torch.__version__} {device.type}"]
    needed = ("onnxruntime", "onnxscript")
    if device.type == "cpu" and all(importlib.util.find_spec(name) for name in needed):
        engines.insert(0, f"onnxruntime {importlib.metadata.version('onnxruntime')}")
    return engines


def _loader(
    pixels: np.ndarray, rows: Sequence[int], mean: Any, std: Any, device: torch.device
) -> BatchLoader:
    chosen = torch.tensor(rows, dtype=torch.int64)
    labels = torch.zeros_like(chosen)
    images = torch.from_numpy(pixels)
    return BatchLoader(images, chosen, labels, BATCH, mean=mean, std=std, device=device)


def _compute(
    compute: Compute, loader: BatchLoader, digests: np.ndarray, folder: Path, engine: str
) -> None:
    """Compute features of a loader's pictures and write them, a file for each few of them."""
    title = f"The frozen backbone on {len(digests)} pictures ({engine.split()[0]})"
    done: list[np.ndarray] = []
    written = 0
    with torch.inference_mode():
        for batch in track(loader, title, len(loader), transient=True):
            images, count = batch["image"], len(batch["image"])
            # the last digits may depend on the batch's size, and must not on which fold comes first
            if count < BATCH:
                images = images[torch.arange(BATCH, device=images.device) % count]
            done.append(compute(images)[:count].float().cpu().numpy())
            number = sum(map(len, done))
            if number >= CHUNK or written + number == len(digests):
                chunk = digests[written : written + number]
                stream = io.BytesIO()
                np.savez(stream, digests=chunk, features=np.concatenate(done))
                name = hashlib.sha256("".join(chunk).encode()).hexdigest()[:16]
                write_atomically(folder / f"{name}.npz", stream.getbuffer())
                written, done = written + number, []


def _read(folder: Path, digests: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Return features (N, D) as far as they are there, and the positions of those that are not."""
    features, missing = np.empty((len(digests), 0), np.float32), set(range(len(digests)))
    position = {digest: i for i, digest in enumerate(digests.tolist())}
    for file in sorted(folder.glob("*.npz")):
        try:
            with np.load(file) as content:
                named, values = content["digests"].tolist(), content["features"]
            if not features.shape[1]:
                features = np.empty((len(digests), values.shape[1]), np.float32)
            pairs = [(position[d], i) for i, d in enumerate(named) if d in position]
            if pairs:
                rows, sources = map(list, zip(*pairs, strict=True))
                features[rows] = values[sources]
                missing.difference_update(rows)
        # damaged from outside, which numpy and zipfile say in a dozen ways: computed again
        except Exception:
            continue
    return features, sorted(missing)


def _by_onnxruntime(backbone: nn.Module, example: Tensor) -> Compute | None:
    """Return the backbone as onnxruntime computes it; None where it differs from torch's.

    ``example`` is a batch of pictures, on which they are compared.
    """
    import onnxruntime

    with torch.inference_mode():
        expected = backbone(example)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "backbone.onnx"
            shapes = ({0: torch.export.Dim.DYNAMIC},)
            torch.onnx.export(
                backbone, (torch.cat([example, example])[:2].contiguous(),), file,
                dynamo=True, dynamic_shapes=shapes, verbose=False,
            )  # fmt: skip
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(file, options)
        name = session.get_inputs()[0].name

        def compute(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: images.contiguous().numpy()})[0])

        apart = float((compute(example) - expected).abs().max() / expected.abs().max())
    # exporters and runtimes refuse networks in many ways, and torch computes them all
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        say(f"onnxruntime cannot compute this backbone, and torch does: {reason}")
        return None
    if apart > AGREEMENT:
        say(f"onnxruntime differs from torch by {apart:.1g} of the largest feature: torch it is.")
        return None
    say(f"The frozen backbone is computed by onnxruntime, {apart:.1g} from torch's features.")
    return compute
