"""Batches taken from the decoded pictures as whole tensors.

Legend: N pictures of the split, B batch, S picture size in pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from mpoxcv.errors import UserError
from mpoxcv.pictures.ahead import map_ahead

# bytes of pictures: smaller batches are made several at once, larger ones read ahead by a thread
PART = 2**20
# on a GPU, where launching a kernel takes longer than it runs on few pictures
GPU_PART = 2**24


class Batch(TypedDict):
    """One batch.

    ``image`` is float32 (B, 3, S, S) in channels_last order, in [0, 1] unless normalised, or (B, D)
    features of a frozen backbone; ``label`` int64 (B,); ``index`` int64 (B,), the position in the
    split's table.
    """

    image: Tensor
    label: Tensor
    index: Tensor


class BatchLoader:
    """The batches of one split; each is a function of (seed, epoch, step) alone.

    It stands where Lightning expects a DataLoader. With ``world_size`` processes each takes its
    share of every batch, so that together they do the steps of one process; the last batch's share
    may be empty. No picture is repeated. Batches are made on ``device``: where ``pixels`` lie there
    nothing of an epoch but its order passes from the CPU, otherwise the pictures as uint8.

    Args:
        pixels: uint8 (n, S, S, 3), n at least the largest of ``rows`` + 1; memory-mapped, in
            memory, or on a GPU; or float32 (n, D), features, taken as they are.
        rows: int64 (N,), where in ``pixels`` the split's pictures lie.
        labels: int64 (N,).
        batch_size: B over all processes.
        sampler: ``sequential``; ``shuffle``, a new random order each epoch; ``fixed``, one random
            order; ``weighted``, N draws with replacement in which every class is equally likely.
        seed: of order and augmentation.
        mean, std: three numbers, normalise to ``(image - mean) / std``; None leaves [0, 1].
        augment: maps uint8 (B, 3, S, S) to the same, if ``augment.batched`` is true, otherwise
            (3, S, S), as torchvision's v2 transforms do, drawn anew for each picture.
        rank, world_size: of this process.
        prefetch: batches of large pictures, or for a GPU, that a thread reads ahead from memory or
            a memory-mapped file; bounds their memory.
        device: of the batches; None takes that of ``pixels``.
        smallest: see :func:`batch_sizes`.
    """

    # Lightning reads it
    batch_sampler = None

    def __init__(
        self,
        pixels: Tensor,
        rows: Tensor,
        labels: Tensor,
        batch_size: int,
        sampler: str = "sequential",
        seed: int = 0,
        mean: Sequence[float] | Tensor | None = None,
        std: Sequence[float] | Tensor | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 2,
        device: torch.device | None = None,
        smallest: int = 1,
    ) -> None:
        self.pixels, self.device = pixels, device or pixels.device
        self.rows, self.labels = rows.to(self.device), labels.to(self.device)
        self.weights = 1.0 / torch.bincount(labels)[labels] if sampler == "weighted" else None
        self.sizes = batch_sizes(len(rows), batch_size, smallest)
        # in every epoch
        self.one_order = sampler == "fixed"
        self.sequential = sampler == "sequential"
        self.seed = seed
        self.augment = augment
        self.prefetch = prefetch
        # this process's part of a batch
        self.share = slice(rank, None, world_size)
        self.epoch = 0

        self.are_features = pixels.is_floating_point()
        # (pixel / 255 - mean) / std over rows of 3 S numbers: seven times faster than over channels
        size = pixels.shape[1]
        shift, scale = shift_and_scale(mean, std)
        self.shift = shift.repeat(size).to(self.device)
        self.scale = scale.repeat(size).to(self.device)

        batch_bytes = pixels[0].nbytes * batch_size
        on_gpu = self.device.type == "cuda"
        # batches of a part
        self.together = max(1, (GPU_PART if on_gpu else PART) // batch_bytes)
        self.comes_to_gpu = on_gpu and pixels.device.type == "cpu"
        large = batch_bytes >= PART and pixels.device.type == "cpu"
        self.reads_ahead = prefetch > 0 and (large or self.comes_to_gpu)

        # batches of this iteration that are done, and those to leave out in the next
        self._done = self._skip = 0

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch are done, for Lightning's checkpoints within it."""
        return {"step": self._done % max(1, len(self))}

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
        return len(self.sizes)

    def __iter__(self) -> Iterator[Batch]:
        skip, self._skip = self._skip, 0
        order = self._order().to(self.device)
        labels, indices = self.labels[order].split(self.sizes), order.split(self.sizes)
        for step, image in enumerate(self._images(order, skip), skip):
            self._done = step + 1
            label, index = labels[step][self.share], indices[step][self.share]
            yield {"image": image[self.share], "label": label, "index": index}

    def _images(self, order: Tensor, skip: int) -> Iterator[Tensor]:
        """Yield each batch's pictures, from number ``skip`` on; a part's batches at once."""
        parts = [self.sizes[i : i + self.together] for i in range(0, len(self), self.together)]
        rows = self.rows[order].to(self.pixels.device).split([sum(sizes) for sizes in parts])
        first = skip // self.together
        for part, pictures in enumerate(self._gathered_ahead(rows[first:]), first):
            pictures = pictures.to(self.device, non_blocking=True)
            if self.are_features:
                yield from pictures.split(parts[part])[max(0, skip - part * self.together) :]
                continue
            if self.augment is not None:
                # every process draws for whole batches, so that a picture's draw does not depend
                # on their number
                with seeded(mix(self.seed, self.epoch, part), self.device):
                    pictures = augmented(self.augment, pictures)
            images = pictures.float()
            images.flatten(2).sub_(self.shift).div_(self.scale)
            batches = images.permute(0, 3, 1, 2).split(parts[part])
            yield from batches[max(0, skip - part * self.together) :]

    def _gathered(self, rows: Tensor) -> Tensor:
        shape = (len(rows), *self.pixels.shape[1:])
        # from pinned memory a GPU takes them while the batch before is at work
        out = None
        if self.comes_to_gpu:
            out = torch.empty(shape, dtype=self.pixels.dtype, pin_memory=True)
        # ten times faster than indexing
        return torch.index_select(self.pixels, 0, rows, out=out)

    def _gathered_ahead(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield each part's pictures; large ones while the batch before is at work."""
        if not self.reads_ahead:
            yield from map(self._gathered, parts)
            return
        with ThreadPoolExecutor(1) as pool:
            yield from map_ahead(pool, self._gathered, parts, self.prefetch)

    def _order(self) -> Tensor:
        n = len(self.rows)
        if self.sequential:
            return torch.arange(n)
        epoch = 0 if self.one_order else self.epoch
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        if self.weights is not None:
            return torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return torch.randperm(n, generator=generator)


def shift_and_scale(
    mean: Sequence[float] | Tensor | None, std: Sequence[float] | Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return what is subtracted from pixels of 0 to 255, and what they are divided by then.

    Float32 (3,) each, for ``(pixel / 255 - mean) / std``; None leaves [0, 1].
    """
    mean = torch.zeros(3) if mean is None else torch.tensor([*mean])
    std = torch.ones(3) if std is None else torch.tensor([*std])
    return 255 * mean.float(), 255 * std.float()


def batch_sizes(n: int, batch_size: int, smallest: int = 1) -> list[int]:
    """Return the sizes of the batches of n pictures; a last one below ``smallest`` is joined."""
    whole, rest = divmod(n, batch_size)
    sizes = [batch_size] * whole + [rest] * (rest > 0)
    if whole and 0 < rest < smallest:
        sizes[-2:] = [batch_size + rest]
    return sizes


def augmented(augment: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    """Return uint8 (B, S, S, 3), augmented from the same.

    Raises:
        UserError: the augmentation changed shape or dtype.
    """
    # a view: channels_last
    images = pictures.permute(0, 3, 1, 2)
    batched = getattr(augment, "batched", False)
    changed = augment(images) if batched else torch.stack([augment(image) for image in images])
    if changed.dtype != torch.uint8 or changed.shape != images.shape:
        got, wanted = (
            f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
            for x in (changed[0], images[0])
        )
        raise UserError(
            f"data.augment made {got} of a picture, which is {wanted}: it should keep both. Leave out ToDtype "
            "and Normalize, since data.mean and data.std normalise, and crop with a Resize to data.image_size."
        )
    return changed.permute(0, 2, 3, 1).contiguous()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators, and put the CPU's back afterwards.

    ``fork_rng`` would take 0.2 ms. A GPU's is not put back: reading its state would wait for the
    GPU, and the classifier seeds it in each step.
    """
    state = torch.default_generator.get_state()
    seed_generators(seed, device)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the CPU's and the device's generator; ``torch.manual_seed`` takes ten times as long."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


def mix(*numbers: int) -> int:
    """Return one 64-bit seed for several numbers (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
