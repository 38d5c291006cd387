"""reference.pt: what a network makes of Train's pictures, to tell what is unlike all of them."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.evaluation.novelty import distances, normalised
from mpoxcv.models.network import Network
from mpoxcv.storage.files import StrPath, write_atomically
from mpoxcv.training.classifier import LesionClassifier

# original pictures of Train; more would hardly lie closer
MOST = 500


class Reference(L.Callback):
    """Keep features of Train's original pictures, and how far from them Valid's and Test's lie.

    Args:
        folder: gets reference.pt: ``features`` float16 (M, D) of length one, and the distances
            ``val`` and ``test``, float64 (N,), of ``mpoxcv.evaluation.novelty``.
    """

    def __init__(self, folder: StrPath) -> None:
        self.folder = Path(folder)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: D102
        assert isinstance(pl_module, LesionClassifier)
        data: MSLDDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.is_global_zero:
            return
        train = data.table("train")
        rows = np.flatnonzero(~train["augmented"] | train["augmented"].all())
        chosen = rows[np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(int)]
        reference = normalised(_features(pl_module, data, "train", chosen)).astype(np.float16)
        content = {"features": torch.from_numpy(reference)}
        for split in ("val", "test"):
            far = distances(_features(pl_module, data, split), reference)
            content[split] = torch.from_numpy(far)

        stream = io.BytesIO()
        torch.save(content, stream)
        write_atomically(self.folder / "reference.pt", stream.getbuffer())


def _features(
    classifier: LesionClassifier, data: MSLDDataModule, split: str, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return a network's features of a split's pictures, or of these rows of it: (N, D)."""
    with torch.inference_mode(), features_caught(classifier.network.eval()) as caught:
        for batch in data.scoring_batches(split, rows):
            classifier.network(batch["image"].to(classifier.device))
    return torch.cat(caught).float().cpu().numpy()


@contextmanager
def features_caught(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a network's head, or another network's last layer, gets: (B, D) a batch."""
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    head = network.head if isinstance(network, Network) else layers[-1]
    caught: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: caught.append(given[0].flatten(1)))
    try:
        # compiled networks know no hooks
        with torch.compiler.set_stance("force_eager"):
            yield caught
    finally:
        hook.remove()
