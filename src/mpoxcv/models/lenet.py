"""LeNet as the public project that this one answers defines it."""

import torch.nn.functional as F
from torch import Tensor, nn

from mpoxcv.errors import UserError
from mpoxcv.models import kernels
from mpoxcv.models.network import Preprocessing


class LeNet(nn.Module):
    """LeNet (after LeCun et al. 1998) for colour pictures of 32 x 32 pixels.

    Convolution 3 to 6 at 5x5, pooling, convolution 6 to 16 at 5x5, pooling, then 400, 120, 84 and
    ``num_classes`` units. With ``own_kernels`` it convolves by ``mpoxcv.models.kernels`` where they
    are usable, else by torch.
    """

    IMAGE_SIZE = 32
    # the usual normalisation of pictures where nothing is known of them
    preprocessing = Preprocessing(IMAGE_SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

    def __init__(self, num_classes: int = 6, own_kernels: bool = True) -> None:
        super().__init__()
        self.own_kernels = own_kernels
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map float (B, 3, 32, 32) to scores (B, num_classes); UserError for another shape."""
        check_shape(x)
        if self.own_kernels and kernels.usable(x, self.conv1.weight):
            x = kernels.convolve([x], *self.conv1.parameters(), *self.conv2.parameters())[0]
        else:
            # Pooling before the ReLU gives the same numbers with a quarter of the ReLU's work.
            x = F.relu(F.max_pool2d(self.conv1(x), 2))
            x = F.relu(F.max_pool2d(self.conv2(x), 2)).flatten(1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def check_shape(x: Tensor) -> None:
    """Raise the ``UserError`` of ``LeNet.forward``."""
    if x.ndim != 4 or x.shape[1:] != (3, LeNet.IMAGE_SIZE, LeNet.IMAGE_SIZE):
        raise UserError(
            f"LeNet takes pictures of shape (3, 32, 32) and got {tuple(x.shape[1:])}. "
            "Set data.image_size=32, or choose a network for other sizes: model=torchvision model.name=resnet18"
        )
