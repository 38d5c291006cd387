"""Several LeNets computed as one network: grouped convolutions and batched matrix products.

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

    The networks go on to hold their own parameters and gradients: views of tensors that hold those
    of all.

    Args:
        networks: F networks (``mpoxcv.models.LeNet``), all on one device.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.size = len(networks)
        self.own_kernels = all(getattr(network, "own_kernels", False) for network in networks)
        # parameters of all networks by name; a convolution's stand below each other
        self.together: dict[str, Tensor] = {}
        parameters = [dict(network.named_parameters()) for network in networks]
        for name in parameters[0]:
            separate = [named[name] for named in parameters]
            joined = torch.stack([parameter.detach() for parameter in separate])
            # each convolution's weight keeps its channels_last order
            if joined.ndim == 5:
                joined = joined.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
            gradient = torch.zeros_like(joined)
            for parameter, value, slot in zip(separate, joined, gradient, strict=True):
                parameter.data, parameter.grad = value, slot

            if name.startswith("conv"):
                joined, gradient = joined.flatten(0, 1), gradient.flatten(0, 1)
            self.together[name] = joined.requires_grad_()
            joined.grad = gradient

    def clear_gradients(self) -> None:
        """Set all gradients to zero, where they are."""
        for parameter in self.together.values():
            assert parameter.grad is not None
            parameter.grad.zero_()

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Map F batches, float (at most B, 3, 32, 32), to scores (F, B, C)."""
        for batch in images:
            check_shape(batch)
        p = self.together
        layers = [(p[f"{layer}.weight"], p[f"{layer}.bias"]) for layer in ("conv1", "conv2")]
        if self.own_kernels and kernels.usable(images[0], layers[0][0]):
            x = kernels.convolve(images, *layers[0], *layers[1])
        else:
            x = _side_by_side(images)
            for weight, bias in layers:
                x = F.relu(F.max_pool2d(F.conv2d(x, weight, bias, groups=self.size), 2))
            x = x.reshape(len(x), self.size, -1).transpose(0, 1)
        for layer in ("fc1", "fc2", "fc3"):
            weight, bias = p[f"{layer}.weight"].transpose(1, 2), p[f"{layer}.bias"].unsqueeze(1)
            x = torch.baddbmm(bias, x, weight)
            x = x if layer == "fc3" else F.relu(x)
        return x


def _side_by_side(images: Sequence[Tensor]) -> Tensor:
    """Return the batches as one, float (B, 3 F, 32, 32), padded with zeros."""
    most = max(map(len, images))
    pads = [(0, 0, 0, 0, 0, 0, 0, most - len(batch)) for batch in images]
    filled = [F.pad(b.permute(0, 2, 3, 1), pad) for b, pad in zip(images, pads, strict=True)]
    return torch.cat(filled, 3).permute(0, 3, 1, 2)
