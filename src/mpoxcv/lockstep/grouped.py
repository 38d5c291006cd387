"""Several LeNets computed as one network: grouped convolutions, or batched matrix products alone.

Legend: F networks, B batch, C classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpoxcv.models import kernels
from mpoxcv.models.lenet import check_shape


class GroupedLeNet:
    """Compute LeNets of the same number of classes side by side.

    Args:
        networks: F networks (``mpoxcv.models.LeNet``), all on one device.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.size = len(networks)
        self.own_kernels = all(getattr(network, "own_kernels", False) for network in networks)
        # on GPUs cuDNN has no fast kernels for few channels in groups
        self.as_products = next(networks[0].parameters()).is_cuda
        self.parameters = [dict(network.named_parameters()) for network in networks]

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Map F batches, float (at most B, 3, 32, 32), to scores (F, B, C)."""
        for batch in images:
            check_shape(batch)
        names = self.parameters[0]
        p = {name: torch.stack([named[name] for named in self.parameters]) for name in names}
        # a convolution's of all networks stand below each other
        layers = [
            (p[f"{layer}.weight"].flatten(0, 1), p[f"{layer}.bias"].flatten())
            for layer in ("conv1", "conv2")
        ]
        if self.own_kernels and kernels.usable(images[0], layers[0][0]):
            x = kernels.convolve(images, *layers[0], *layers[1])
        elif self.as_products:
            x = torch.stack(_padded(images))
            for weight, bias in layers:
                x = F.relu(F.max_pool2d(_convolved(x, weight, bias).flatten(0, 1), 2))
                x = x.unflatten(0, (self.size, -1))
            x = x.flatten(2)
        else:
            # (B, 3 F, 32, 32)
            x = torch.cat([image.permute(0, 2, 3, 1) for image in _padded(images)], 3)
            x = x.permute(0, 3, 1, 2)
            for weight, bias in layers:
                x = F.relu(F.max_pool2d(F.conv2d(x, weight, bias, groups=self.size), 2))
            x = x.reshape(len(x), self.size, -1).transpose(0, 1)
        for layer in ("fc1", "fc2", "fc3"):
            weight, bias = p[f"{layer}.weight"].transpose(1, 2), p[f"{layer}.bias"].unsqueeze(1)
            x = torch.baddbmm(bias, x, weight)
            x = x if layer == "fc3" else F.relu(x)
        return x


def _padded(images: Sequence[Tensor]) -> list[Tensor]:
    """Return batches of one size, with pictures of zeros at the end of the smaller ones."""
    most = max(map(len, images))
    return [F.pad(batch, (0, 0, 0, 0, 0, 0, 0, most - len(batch))) for batch in images]


def _convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve (F, B, I, S, S) by weight (F O, I, K, K) and bias (F O,), as a matrix product."""
    networks, side = len(x), weight.shape[-1]
    patches = x.unfold(3, side, 1).unfold(4, side, 1)
    height, width = patches.shape[3:5]
    rows = patches.permute(0, 1, 3, 4, 2, 5, 6).reshape(networks, -1, weight[0].numel())
    kernels = weight.flatten(1).unflatten(0, (networks, -1)).transpose(1, 2)
    sums = torch.baddbmm(bias.view(networks, 1, -1), rows, kernels)
    return sums.view(networks, -1, height, width, sums.shape[-1]).permute(0, 1, 4, 2, 3)
