"""The folds of the Mpox Skin Lesion Dataset as a LightningDataModule."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mpoxcv.data.features import cached_features
from mpoxcv.data.fold import Fold
from mpoxcv.data.loader import BatchLoader, batch_sizes
from mpoxcv.errors import UserError, check_choice, check_number
from mpoxcv.models.factory import check_size
from mpoxcv.models.network import Network, Preprocessing
from mpoxcv.models.stem import Stem
from mpoxcv.storage.files import StrPath
from mpoxcv.terminal import say, warn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
SAMPLERS = ("shuffle", "fixed", "weighted")


# Lightning says that a name is optional; ours is not
@dataclass(eq=False, repr=False)
class MSLDDataModule(Fold, L.LightningDataModule):  # type: ignore[misc]
    """A :class:`~mpoxcv.data.fold.Fold` and its batches.

    Args:
        root, classes, name_pattern, fold: as in ``Fold``.
        batch_size: training pictures a step, over all processes together.
        eval_batch_size: pictures a step in validation and test; does not change results.
        mean: three numbers, for pixels in [0, 1]; None leaves [0, 1].
        std: likewise.
        augment: a torchvision v2 transform, or ``mpoxcv.RandomFlip``, of uint8 pictures: drawn anew
            for each training picture in each epoch.
        sampler: ``shuffle``; ``fixed``, the same order in every epoch; ``weighted``, every class
            equally often.
        prefetch: batches of large pictures that a thread reads ahead; bounds their memory.
        gpu_cache_mb: the decoded pictures are kept on the GPU if they have at most this many MiB;
            otherwise each batch's are sent there.
        generator: called with ``root`` before anything is read; makes the data where they lack.
        seed: of order, augmentation and permuted labels.

    The keywords of ``Fold``, such as ``image_size``, come besides.

    Raises:
        UserError: an argument is not one of its values, or, from ``setup``, the data are not as
            expected.
    """

    _: KW_ONLY
    batch_size: int = 64
    eval_batch_size: int = 256
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    augment: Callable[[Tensor], Tensor] | None = None
    sampler: str = "shuffle"
    prefetch: int = 2
    gpu_cache_mb: int = 8192
    generator: Callable[[StrPath], None] | None = None

    def __post_init__(self) -> None:
        L.LightningDataModule.__init__(self)
        super().__post_init__()
        check_choice("data.sampler", self.sampler, SAMPLERS)
        check_number("data.batch_size", self.batch_size, 1)
        check_number("data.eval_batch_size", self.eval_batch_size, 1)
        check_number("data.prefetch", self.prefetch, 0)
        check_number("data.gpu_cache_mb", self.gpu_cache_mb, 0)
        for option, value in (("mean", self.mean), ("std", self.std)):
            if value is None:
                continue
            if not isinstance(value, Sequence) or len(value) != 3:
                hint = "should be three numbers, for red, green and blue: [0.5,0.5,0.5]"
                raise UserError(f"data.{option}={value} {hint}.")
            setattr(self, option, list(value))
        # the cache's, where batches are made; of a network with a stem, what that makes of them
        self._pixels: Tensor | None = None
        self._network: nn.Module | None = None
        # give pictures to a network with a stem, too
        self.as_pictures = False

    def prepare_for(self, network: nn.Module) -> None:
        """Make pictures into what a network was made for, where the options leave that open.

        What a network's stem makes of them is computed once, and is what its batches hold; but
        where pictures are augmented on the fly.

        Raises:
            UserError: pictures of ``image_size`` do not fit, or ``augment`` cannot act on features.
        """
        made_for = getattr(network, "preprocessing", None)
        if self._network is network:
            return
        # features are of one network
        self._network, self._pixels = network, None
        if made_for is None:
            return
        others = []
        for name, value in vars(made_for).items():
            value = list(value) if isinstance(value, tuple) else value
            if not self.antialias and name in ("interpolation", "crop"):
                continue
            given = getattr(self, name)
            if given is None:
                setattr(self, name, value)
            elif given != value:
                others.append(f"data.{name}={given} for {value}")
        if not isinstance(network, Network):
            return
        if others and network.weights:
            say(f"The weights were made for other pictures than these: {', '.join(others)}.")
        if self.image_size != made_for.image_size:
            check_size(network.backbone, self.form.size)
            if isinstance(network.stem, Stem):
                network.stem.set_size(self.form.size)
        if network.frozen and self.augment is not None:
            raise UserError(
                "data.augment acts on pictures, and of a frozen backbone (model.train=head) its outputs are kept: "
                "set data.augment=null, since the copies in FOLDS_AUG are augmentation, or model.train=all."
            )

    def preprocessing(self) -> dict[str, Any]:
        """Return what pictures are made into, by options of data."""
        names = [field.name for field in fields(Preprocessing)]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def prepare_data(self) -> None:
        """Make the data, if there is a generator; Lightning calls this in one process a node."""
        if self.generator is not None:
            self.generator(self.root)

    def setup(self, stage: str | None = None) -> None:
        """Read the fold, once for all stages; of several processes one fills the cache."""
        is_new = not self.doubts
        if self.trainer and (module := self.trainer.lightning_module) is not None:
            self.prepare_for(module.network)  # type: ignore[arg-type]
        self.read()
        if self.trainer:
            # a frozen backbone's pass comes before the fit, and its progress bar
            self._on_device()
        if self.trainer and not self.trainer.is_global_zero:
            return
        for doubt in self.doubts if is_new else ():
            warn(f"WARNING: {doubt}")
        if stage == "fit" and (joined := self.batch_sizes()[-1]) > self.batch_size:
            rest = joined - self.batch_size
            what = f"{rest} picture{'s' * (rest > 1)}, too few for BatchNorm"
            where = f"it is joined to the one before, which has {joined}"
            say(f"The last training batch would have {what}: {where}.")

    def train_dataloader(self) -> BatchLoader:
        """Return the training batches."""
        options: Any = {"sampler": self.sampler, "augment": self.augment}
        options["smallest"] = self._smallest_batch()
        loader = self._loader(self.table("train"), self.batch_size, **options)
        # the same few batches in every epoch: Lightning itself tells that to a DataLoader alone
        loader.one_order |= getattr(self.trainer, "overfit_batches", 0) > 0
        return loader

    def batch_sizes(self) -> list[int]:
        """Return how many pictures each training batch has, over all processes."""
        return batch_sizes(len(self.table("train")), self.batch_size, self._smallest_batch())

    def val_dataloader(self) -> BatchLoader:
        """Return the validation batches."""
        return self._loader(self.table("val"), self.eval_batch_size)

    def test_dataloader(self) -> BatchLoader:
        """Return the test batches."""
        return self._loader(self.table("test"), self.eval_batch_size)

    def scoring_batches(self, split: str, rows: np.ndarray | None = None) -> BatchLoader:
        """Return batches of a split's pictures as they are, in order; of these ``rows`` alone."""
        table = self.table(split)
        return self._loader(table if rows is None else table.iloc[rows], self.eval_batch_size)

    def _loader(self, table: pd.DataFrame, batch_size: int, **options: Any) -> BatchLoader:
        rows = torch.from_numpy(table["row"].to_numpy(copy=True))
        labels = torch.from_numpy(table["label"].to_numpy(np.int64, copy=True))
        if self.trainer:
            options |= {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

        pixels, device = self._on_device()
        return BatchLoader(
            pixels, rows, labels, batch_size, seed=self.seed, mean=self.mean,
            std=self.std, prefetch=self.prefetch, device=device, **options,
        )  # fmt: skip

    def _on_device(self) -> tuple[Tensor, torch.device]:
        """Return what rows of the table stand for, and where batches are made of it."""
        # on the GPU that trains, and otherwise on the CPU
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        device = device if device.type == "cuda" else torch.device("cpu")
        if self._pixels is None:
            self._pixels = self._rows_of(device)
        if self._pixels.nbytes <= self.gpu_cache_mb * 2**20:
            self._pixels = self._pixels.to(device)
        return self._pixels, device

    def _rows_of(self, device: torch.device) -> Tensor:
        """Return what rows of the table stand for: pixels, or what a network's stem gives."""
        network = self._network
        stem = network.stem if isinstance(network, Network) else None
        if not isinstance(network, Network) or stem is None or self.as_pictures or self.augment:
            return torch.from_numpy(self.cached_pixels)
        place = next(network.parameters()).device
        features = cached_features(
            stem, self.cached_pixels, self.cached_digests, self.form, self.mean,
            self.std, self.cache_dir, device,
        )  # fmt: skip
        network.to(place)
        return torch.from_numpy(features)

    def _smallest_batch(self) -> int:
        """Return the fewest pictures to train on at once: BatchNorm takes two a process."""
        network: Any = self.trainer.lightning_module if self.trainer else None
        if network is None or not any(isinstance(m, BATCH_NORMS) for m in network.modules()):
            return 1
        return 2 * network.trainer.world_size
