"""Pillow's resizing by torch operations alone, so that an exported network can do it.

Legend: N pictures, H and W pixels of a picture's sides, S of the square's.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mpoxcv.errors import UserError
from mpoxcv.pictures.pixels import Form

# Pillow computes in whole numbers of so many bits
BITS = 22


def _triangle(x: Tensor) -> Tensor:
    return (1 - x).clamp_min(0)


def _cubic(x: Tensor) -> Tensor:
    # Keys 1981, a = -0.5
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


# by interpolation: the filter, and how far it reaches
FILTERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
}


class Resize(nn.Module):
    """Make pictures of any size into what ``mpoxcv.pictures.pixels.resize`` makes of them.

    Pillow 13 takes columns before rows of some pictures that are higher than wide, which changes
    some pixels by one grey level; here rows always come first.

    Args:
        form: with antialias, and one of ``FILTERS``.

    Raises:
        UserError: it has none.
    """

    def __init__(self, form: Form) -> None:
        super().__init__()
        if not form.antialias or form.interpolation not in FILTERS:
            asked = f"data.interpolation={form.interpolation}, data.antialias={form.antialias}"
            raise UserError(f"Resizing cannot be exported as it was in training: {asked}.")
        self.size = form.size
        self.filter, self.reach = FILTERS[form.interpolation]
        whole = form.crop == "squash"
        self.shorter = 0 if whole else int(form.size / float(form.crop) + 1e-6)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map uint8 (N, H, W, 3) to float32 (N, 3, S, S), whole numbers from 0 to 255."""
        images = pictures.permute(0, 3, 1, 2).double()
        height, width = (torch.arange(n, dtype=torch.float64) for n in images.shape[2:])
        sides = height[-1:] + 1, width[-1:] + 1
        least = torch.minimum(*sides)
        for pixels, side, axis in ((width, sides[1], 3), (height, sides[0], 2)):
            target = torch.floor(side * self.shorter / least) if self.shorter else None
            weights = self._weights(pixels, side, target)
            product = images @ weights.T if axis == 3 else weights @ images
            images = torch.floor((product + 2 ** (BITS - 1)) / 2**BITS).clamp(0, 255)
        return images.float()

    def _weights(self, pixels: Tensor, side: Tensor, target: Tensor | None) -> Tensor:
        """Return what each new pixel of a side takes of the old ones, float64 (S, side).

        Args:
            pixels: float64 (side,), 0 and so on.
            side: float64 (1,).
            target: float64 (1,), pixels of the side of which S in the middle are taken; None: S.
        """
        places = torch.arange(self.size, dtype=torch.float64)
        if target is None:
            target = torch.full_like(side, self.size)
        else:
            # half of an odd number is rounded to an even one, as Python does
            places = places + torch.round((target - self.size) / 2)
        scale = side / target
        stretch = scale.clamp_min(1)
        centres = ((places + 0.5) * scale)[:, None]
        first = torch.trunc(centres - self.reach * stretch + 0.5).clamp_min(0)
        last = torch.minimum(torch.trunc(centres + self.reach * stretch + 0.5), side)
        weights = self.filter(((pixels - centres + 0.5) / stretch).abs())
        weights = weights * ((pixels >= first) & (pixels < last))
        weights = weights / weights.sum(1, keepdim=True) * 2**BITS
        return torch.trunc(weights + 0.5 * torch.sign(weights))
