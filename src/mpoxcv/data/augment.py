"""Augmentation on the fly, of whole batches.

The loader calls any augmentation for each picture, and for a whole batch where its ``batched`` is
true.

Legend: B batch, S picture size in pixels.
"""

import torch
from torch import Tensor


class RandomFlip:
    """Mirror each picture of a batch or leave it; several times faster than one by one.

    Args:
        horizontal: probability of left for right.
        vertical: probability of top for bottom.
    """

    batched = True

    def __init__(self, horizontal: float = 0.5, vertical: float = 0.0) -> None:
        self.probabilities = {1: horizontal, 2: vertical}

    def draw(self, n: int, device: torch.device | None = None) -> Tensor:
        """Return how each is mirrored, uint8 (n,): 1 left for right, 2 top for bottom, 3 both."""
        mirrored = torch.zeros(n, dtype=torch.uint8, device=device)
        for bit, probability in self.probabilities.items():
            if probability:
                mirrored += bit * (torch.rand(n, device=device) < probability)
        return mirrored

    def __call__(self, images: Tensor) -> Tensor:
        """Map (B, 3, S, S) to the same shape and dtype."""
        # as they lie in memory
        pictures = images.permute(0, 2, 3, 1)
        n = len(images)
        mirrored = self.draw(n, images.device)
        for bit, axis in ((1, 2), (2, 1)):
            if self.probabilities[bit]:
                # three times faster than torch.where
                both_ways = torch.cat([pictures, pictures.flip(axis)])
                rows = torch.arange(n, device=images.device) + n * ((mirrored & bit) > 0)
                pictures = both_ways.index_select(0, rows)
        return pictures.permute(0, 3, 1, 2)
