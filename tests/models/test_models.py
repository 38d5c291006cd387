import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mpoxcv import LeNet, create_model
from mpoxcv.errors import UserError


class OriginalLeNet(nn.Module):
    """The network as the tutorial that the original scripts follow writes it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.pool, self.conv2 = (
            nn.Conv2d(3, 6, 5),
            nn.MaxPool2d(2, 2),
            nn.Conv2d(6, 16, 5),
        )
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 6)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(F.relu(self.fc2(x)))


def test_lenet_is_the_originals_weights_values_and_gradients():
    original, ours = OriginalLeNet(), LeNet(6, own_kernels=False)
    ours.load_state_dict(original.state_dict(), strict=True)
    x = torch.rand(7, 3, 32, 32)
    assert torch.equal(ours(x), original(x))
    for network in (original, ours):
        F.cross_entropy(network(x), torch.arange(7) % 6).backward()
    for one, two in zip(original.parameters(), ours.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, atol=1e-7)
    channels_last = ours.to(memory_format=torch.channels_last)(
        x.contiguous(memory_format=torch.channels_last)
    )
    assert torch.allclose(channels_last, original(x), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 32, 32), (3, 32, 32)])
def test_lenet_names_the_size_that_it_takes(shape):
    with pytest.raises(UserError, match=r"data\.image_size=32"):
        LeNet()(torch.zeros(shape))


@pytest.mark.parametrize(
    "name", ["lenet", "resnet18", "efficientnet_b0", "mobilenet_v3_small", "vit_b_16"]
)
def test_networks_by_name_have_the_head_that_is_asked_for(name):
    network = create_model(name, num_classes=2).eval()
    assert network(torch.rand(2, 3, *([32, 32] if name == "lenet" else [224, 224]))).shape == (2, 2)


def test_the_two_networks_with_auxiliary_heads_return_scores():
    assert create_model("googlenet", 4)(torch.rand(2, 3, 96, 96)).shape == (2, 4)


def test_unknown_names_and_options():
    with pytest.raises(UserError, match="Did you mean 'resnet18'"):
        create_model("resnet81", 6)
    with pytest.raises(UserError, match="dropuot"):
        create_model("resnet18", 6, dropuot=0.2)
