"""Several LeNets computed as one network: grouped convolutions and batched matrix products.

Legend: F networks, B batch, C classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupedLeNet:
    """Compute LeNets of the same number of classes side by side.

    The networks go on to hold their own parameters and gradients: views of tensors that hold those of all.

    Args:
        networks: F networks (``mpoxcv.models.LeNet``), all on one device.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.size = len(networks)
        self.together: dict[str, Tensor] = {}
        parameters = [dict(network.named_parameters()) for network in networks]
        for name in parameters[0]:
            own = [named[name] for named in parameters]
            joined = torch.stack([parameter.detach() for parameter in own])
            if joined.ndim == 5:  # each convolution's weight keeps its channels_last order
                joined = joined.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
            gradient = torch.zeros_like(joined)
            for parameter, value, slot in zip(own, joined, gradient, strict=True):
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

    def __call__(self, images: Tensor) -> Tensor:
        """Map float (B, 3 F, 32, 32), network after network, to scores (F, B, C)."""
        p, x = self.together, images
        for layer in ("conv1", "conv2"):
            x = F.relu(F.max_pool2d(F.conv2d(x, p[f"{layer}.weight"], p[f"{layer}.bias"], groups=self.size), 2))
        x = x.reshape(len(images), self.size, -1).transpose(0, 1)
        for layer in ("fc1", "fc2", "fc3"):
            x = torch.baddbmm(p[f"{layer}.bias"].unsqueeze(1), x, p[f"{layer}.weight"].transpose(1, 2))
            x = x if layer == "fc3" else F.relu(x)
        return x
