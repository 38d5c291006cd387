"""What a frozen backbone or its stem makes of pictures, computed once and kept by their pixels.

Legend: N pictures, S picture size in pixels, D features.
"""

import hashlib
import importlib.util
import io
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from mpoxcv.data.loader import shift_and_scale
from mpoxcv.errors import UserError
from mpoxcv.models.weights import digest_of
from mpoxcv.pictures.pixels import Form
from mpoxcv.storage.files import StrPath, lock, write_atomically
from mpoxcv.terminal import say

# raise it when the same pictures and backbone would give other features
VERSION = 2
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
    made_by = [VERSION, str(backbone), digest_of(backbone.state_dict()), *form, mean, std]
    prepared = Prepared(backbone, mean, std).eval().to(device)
    for engine in _engines(device):
        key = hashlib.sha256(repr([*made_by, engine]).encode()).hexdigest()[:16]
        folder = Path(cache_dir) / f"features-{key}"
        features, missing = _read(folder, digests)
        if not missing:
            return features
        with lock(folder / ".lock"):
            # another process may have computed them meanwhile
            features, missing = _read(folder, digests)
            compute: Compute | None = prepared
            if engine.startswith("onnxruntime") and missing:
                # trying takes half a minute, which the next process need not lose again
                refused = folder / "refused"
                if folder not in _onnx and not refused.exists():
                    _onnx.clear()
                    _onnx[folder] = _by_onnxruntime(prepared, _batch(pixels, missing[:BATCH]))
                compute = _onnx.get(folder)
            if compute is None:
                write_atomically(refused, "torch computes this backbone\n")
                continue
            _compute(compute, pixels, missing, digests, folder, device, engine)
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
    # torch's exporter takes onnxscript; a broken installation is none
    if device.type == "cpu" and importlib.util.find_spec("onnxscript"):
        with suppress(ImportError):
            import onnxruntime

            engines.insert(0, f"onnxruntime {onnxruntime.__version__}")
    return engines


class Prepared(nn.Module):
    """A backbone that takes pictures as the cache has them: uint8 (B, S, S, 3) to (B, D).

    Whatever computes the backbone normalises them, too: two pools of threads are in each other's
    way.
    """

    def __init__(
        self, backbone: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.shift: Tensor
        self.scale: Tensor
        for name, values in zip(("shift", "scale"), shift_and_scale(mean, std), strict=True):
            self.register_buffer(name, values.view(3, 1, 1), False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the backbone's output."""
        images = pixels.permute(0, 3, 1, 2).float()
        return self.backbone((images - self.shift) / self.scale)


def _batch(pixels: np.ndarray, rows: Sequence[int]) -> Tensor:
    """Return BATCH pictures, these again where they are fewer.

    The last digits may depend on the batch's size, and must not on which fold comes first.
    """
    return torch.from_numpy(np.take(pixels, np.resize(rows, BATCH), 0))


def _compute(
    compute: Compute,
    pixels: np.ndarray,
    rows: Sequence[int],
    digests: np.ndarray,
    folder: Path,
    device: torch.device,
    engine: str,
) -> None:
    """Compute features of the pictures in ``rows`` and write them, a file for each few of them."""
    title = f"The frozen backbone on {len(rows)} pictures ({engine.split()[0]})"
    parts = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    done: list[np.ndarray] = []
    written = 0
    with torch.inference_mode():
        for part in track(parts, title, transient=True):
            features = compute(_batch(pixels, part).to(device))
            done.append(features[: len(part)].float().cpu().numpy())
            number = sum(map(len, done))
            if number >= CHUNK or written + number == len(rows):
                chunk = digests[rows[written : written + number]]
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
                backbone, (example[:2],), file,
                dynamo=True, dynamic_shapes=shapes, verbose=False,
            )  # fmt: skip
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(file, options)
        name = session.get_inputs()[0].name

        def compute(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: images.numpy()})[0])

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
