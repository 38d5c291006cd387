"""LeNet by the kernels is LeNet by torch, but for float noise."""

import math

import pytest
import torch
import torch.nn.functional as F

from mpoxcv import LeNet
from mpoxcv.models import kernels

needs_kernels = pytest.mark.skipif(
    kernels.name() is None, reason="the kernels were not built, or not for this processor"
)


@pytest.fixture(params=["AVX512", "AVX2"])
def processor(request, monkeypatch):
    """Take the kernels for this kind of processor, if this one can run them."""
    here = torch.backends.cpu.get_cpu_capability()
    if here not in ("AVX512", request.param):
        pytest.skip(f"this processor has {here}")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    kernels._load.cache_clear()
    yield request.param.lower()
    kernels._load.cache_clear()


def two_networks(num_classes: int = 6) -> tuple[LeNet, LeNet]:
    """Return the same network by the kernels and by torch."""
    own, plain = LeNet(num_classes), LeNet(num_classes, own_kernels=False)
    plain.load_state_dict(own.state_dict())
    return own, plain


def gradients_of(network: LeNet, images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    network.zero_grad()
    F.cross_entropy(network(images), labels).backward()
    return [p.grad.clone() for p in network.parameters()]


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="another processor"
)
def test_where_there_is_a_compiler_they_are_built():
    import shutil

    assert kernels.name() is not None or shutil.which("cc") is None


@needs_kernels
@pytest.mark.parametrize("size", [1, 3, 8, 64, 67])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_scores_and_gradients_are_torchs(processor, size, order):
    assert kernels.name() == processor
    torch.manual_seed(size)
    own, plain = two_networks()
    own.to(memory_format=order)
    images, labels = (
        torch.randn(size, 3, 32, 32).contiguous(memory_format=order),
        torch.randint(0, 6, (size,)),
    )
    assert kernels.usable(images, own.conv1.weight)
    assert torch.allclose(own(images), plain(images), atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(own(images), plain(images), atol=1e-5)
    for one, two in zip(
        gradients_of(own, images, labels), gradients_of(plain, images, labels), strict=True
    ):
        assert torch.allclose(one, two, atol=1e-5)


@needs_kernels
def test_equal_pixels_and_dead_units_are_torchs():
    own, plain = two_networks()
    with torch.no_grad():
        for network in (own, plain):
            network.conv1.bias[:3] = -9.0  # never above zero
    images, labels = (
        torch.full((9, 3, 32, 32), 0.5),
        torch.arange(9) % 6,
    )  # every place of a window is as large
    for one, two in zip(
        gradients_of(own, images, labels), gradients_of(plain, images, labels), strict=True
    ):
        assert torch.allclose(one, two, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_a_number_is_not_hidden(value):
    own, plain = two_networks()
    images = torch.rand(4, 3, 32, 32)
    images[1, 0, 13, 14] = value
    assert torch.equal(own(images).isnan().any(1), plain(images).isnan().any(1))
    assert own(images)[1].isnan().any() and not own(images)[[0, 2, 3]].isnan().any()


@needs_kernels
def test_gradients_of_convolutions_are_the_same_for_any_number_of_threads():
    images, features = torch.randn(2, 50, 3, 32, 32), torch.randn(2, 50, 400)
    weights = [
        torch.randn(shape, requires_grad=True)
        for shape in ((12, 3, 5, 5), (12,), (32, 6, 5, 5), (32,))
    ]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            kernels.convolve(images.unbind(), *weights).backward(features)
            found.append([w.grad for w in weights])
            for weight in weights:
                weight.grad = None
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], others, strict=True))


@needs_kernels
def test_batches_of_several_networks_may_differ_in_size():
    networks = [LeNet(6) for _ in range(3)]
    batches = [torch.randn(n, 3, 32, 32) for n in (5, 0, 11)]
    together = [
        torch.cat([getattr(n, layer).weight for n in networks]) for layer in ("conv1", "conv2")
    ]
    biases = [torch.cat([getattr(n, layer).bias for n in networks]) for layer in ("conv1", "conv2")]
    features = kernels.convolve(batches, together[0], biases[0], together[1], biases[1])
    assert features.shape == (3, 11, 400) and not features[0, 5:].any() and not features[1].any()
    for network, batch, own in zip(networks, batches, features, strict=True):
        weights = [
            network.conv1.weight,
            network.conv1.bias,
            network.conv2.weight,
            network.conv2.bias,
        ]
        assert torch.equal(kernels.convolve([batch], *weights)[0], own[: len(batch)])


@needs_kernels
def test_an_empty_batch_gives_nothing_and_no_gradient():
    network = LeNet(6)
    scores = network(torch.zeros(0, 3, 32, 32))
    scores.sum().backward()
    assert scores.shape == (0, 6) and not any(p.grad.any() for p in network.parameters())


def test_where_they_do_not_apply_torch_computes():
    network, images = LeNet(6), torch.rand(2, 3, 32, 32)
    weight = network.conv1.weight
    assert not kernels.usable(images.double(), weight) and not kernels.usable(
        images, weight.double()
    )
    assert not kernels.usable(images.clone().requires_grad_(), weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not kernels.usable(images, weight)
    assert network.double()(images.double()).dtype == torch.float64
    asked = images.double().requires_grad_()
    network(asked).sum().backward()  # a saliency map
    assert asked.grad.abs().sum() > 0
