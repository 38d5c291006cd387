"""Batches taken from the decoded pictures as whole tensors.

Legend: N pictures of the split, B batch, S picture size in pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from mpoxcv.data.augment import augment_batch


class Batch(TypedDict):
    """One batch."""

    image: Tensor  # float32 (B, 3, S, S) in channels_last order; in [0, 1] unless normalised
    label: Tensor  # int64 (B,)
    index: Tensor  # int64 (B,), position in the split's table


class BatchLoader:
    """The batches of one split; each is a function of (seed, epoch, step) alone.

    It stands where Lightning expects a DataLoader. With ``world_size`` processes each takes its share of every batch, so
    that together they do the steps of one process; the last batch's share may be empty. No picture is repeated.

    Args:
        pixels: uint8 (n, S, S, 3), n at least the largest of ``rows`` + 1.
        rows: int64 (N,), where in ``pixels`` the split's pictures lie.
        labels: int64 (N,).
        batch_size: B over all processes.
        sampler: ``sequential``; ``shuffle``, a new random order each epoch; ``fixed``, one random order; ``weighted``, N
            draws with replacement in which every class is equally likely.
        seed: of order and augmentation.
        mean, std: (3,), normalise to ``(image - mean) / std``; None leaves [0, 1].
        augment: maps uint8 (B, 3, S, S), or (3, S, S), to the same; see ``mpoxcv.data.augment.augment_batch``.
        rank, world_size: of this process.
    """

    batch_sampler = None  # Lightning reads it

    def __init__(
        self,
        pixels: Tensor,
        rows: Tensor,
        labels: Tensor,
        batch_size: int,
        sampler: str = "sequential",
        seed: int = 0,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.pixels, self.rows, self.labels = pixels, rows, labels
        self.batch_size, self.sampler_name, self.seed = batch_size, sampler, seed
        # (pixel / 255 - mean) / std in two passes
        self.shift = None if mean is None else mean.view(1, 3, 1, 1) * 255
        self.scale = 255 if std is None else std.view(1, 3, 1, 1) * 255
        self.augment = augment
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self._taken = self._skip = 0  # batches of this iteration, and those to leave out in the next

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch are done, for a checkpoint from the middle of it; Lightning asks."""
        return {"step": self._taken % max(1, len(self))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next iteration after that many batches."""
        self._skip = state["step"]

    @property
    def sampler(self) -> "BatchLoader":
        """Itself: Lightning calls ``sampler.set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        skip, self._skip = self._skip, 0
        for step, chosen in enumerate(self._order().split(self.batch_size)):
            self._taken = step + 1
            if step >= skip:
                yield self._batch(chosen, step)

    def _order(self) -> Tensor:
        n = len(self.rows)
        generator = torch.Generator().manual_seed(mix(self.seed, 0 if self.sampler_name == "fixed" else self.epoch))
        if self.sampler_name == "sequential":
            return torch.arange(n)
        if self.sampler_name == "weighted":
            weights = 1.0 / torch.bincount(self.labels)[self.labels]
            return torch.multinomial(weights, n, replacement=True, generator=generator)
        return torch.randperm(n, generator=generator)

    def _batch(self, chosen: Tensor, step: int) -> Batch:
        share = slice(self.rank, None, self.world_size)
        if self.augment is None:
            chosen = chosen[share]
        # index_select, ten times faster than indexing; the rest is a view: channels_last
        image = self.pixels.index_select(0, self.rows[chosen]).permute(0, 3, 1, 2)
        if self.augment is not None:
            # every process draws for the whole batch, so that a picture's draw does not depend on their number
            with seeded(mix(self.seed, self.epoch, step)):
                image = augment_batch(self.augment, image)[share]
            image, chosen = image.contiguous(memory_format=torch.channels_last), chosen[share]
        image = image.float()
        if self.shift is not None:
            image.sub_(self.shift)
        image.div_(self.scale)
        return {"image": image, "label": self.labels[chosen], "index": chosen}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator of the CPU, and put it back afterwards (``torch.manual_seed`` and ``fork_rng`` take 0.2 ms)."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def mix(*numbers: int) -> int:
    """Return one 64-bit seed for several numbers (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
