"""LeNet's convolutions on a CPU by kernels of our own, five times as fast as torch's.

Installing compiles them (lenet_kernels.c) where there is a C compiler; without them, or on another
processor, torch computes the same but for float noise. They take the threads that torch has.

Legend: F networks, B batch.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mpoxcv.storage.native import library

# of a picture, as in lenet_kernels.c
HIDDEN = (14, 14, 8)
FEATURES = 16 * 5 * 5


def name() -> str | None:
    """Return which kernels this processor uses: ``avx512``, ``avx2``, or None for torch's."""
    return _load()[0]


def usable(images: Tensor, weight: Tensor) -> bool:
    """Return whether ``convolve`` takes these.

    They are float32 on a CPU, no gradient of the pictures is asked for, and nothing traces.
    """
    floats = images.dtype == weight.dtype == torch.float32
    on_cpu = images.device.type == weight.device.type == "cpu"
    traced = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    return floats and on_cpu and not images.requires_grad and not traced and name() is not None


def convolve(images: Sequence[Tensor], *weights: Tensor) -> Tensor:
    """Return what F LeNets hand on to their first linear layers: float32 (F, B, 400).

    Rows that a smaller batch lacks are zero. Gradients go to the weights alone, and once; they are
    the same for any number of threads.

    Args:
        images: F batches, float32 (at most B, 3, 32, 32), best in channels_last order.
        weights: conv1.weight (6 F, 3, 5, 5), conv1.bias (6 F,), conv2.weight (16 F, 6, 5, 5) and
            conv2.bias (16 F,).

    Raises:
        ValueError: a shape or type is another, which C would not notice.
    """
    n = len(images)
    shapes = [(6 * n, 3, 5, 5), (6 * n,), (16 * n, 6, 5, 5), (16 * n,)]
    floats = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (*weights, *images))
    sound = n and floats and all(image.shape[1:] == (3, 32, 32) for image in images)
    if not sound or [tuple(weight.shape) for weight in weights] != shapes:
        raise ValueError("pictures or weights have another shape than LeNet's, or are no float32")
    return _Convolutions.apply(*weights, *images)


@functools.cache
def _load() -> tuple[str | None, Any]:
    capability = torch.backends.cpu.get_cpu_capability()
    for kind in {"AVX512": ("avx512", "avx2"), "AVX2": ("avx2",)}.get(capability, ()):
        compiled = library(Path(__file__).with_name(f"_lenet_{kind}"))
        if compiled:
            return kind, compiled
    return None, None


class _Convolutions(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *images: Tensor
    ) -> Tensor:
        pixels = [image.permute(0, 2, 3, 1).contiguous() for image in images]
        w1, w2 = (w.contiguous(memory_format=torch.channels_last) for w in (w1, w2))
        b1, b2 = b1.contiguous(), b2.contiguous()
        largest = max(map(len, pixels))
        features = torch.empty(len(pixels), largest, FEATURES)
        if not any(ctx.needs_input_grad):
            _call("lenet_forward", pixels, largest, w1, b1, w2, b2, None, None, features, None)
            return features

        hidden = torch.empty(len(pixels), largest, *HIDDEN)
        sources = [torch.empty_like(values, dtype=torch.int16) for values in (hidden, features)]
        outputs = (hidden, sources[0], features, sources[1])
        _call("lenet_forward", pixels, largest, w1, b1, w2, b2, *outputs)
        ctx.save_for_backward(w1, w2, *outputs, *pixels)
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        w1, w2, hidden, source1, features, source2, *pixels = ctx.saved_tensors
        biases = w1.new_empty(len(w1)), w2.new_empty(len(w2))
        gradients = (torch.empty_like(w1), biases[0], torch.empty_like(w2), biases[1])
        inputs = (w2, hidden, source1, features, source2, grad.contiguous())
        _call("lenet_backward", pixels, features.shape[1], *inputs, *gradients)
        return *gradients, *[None] * len(pixels)


def _call(function: str, pixels: Sequence[Tensor], largest: int, *arrays: Tensor | None) -> None:
    n = len(pixels)
    counts = (ctypes.c_int64 * n)(*map(len, pixels))
    addresses = (ctypes.c_void_p * n)(*(p.data_ptr() for p in pixels))
    pointers = (ctypes.c_void_p(None if array is None else array.data_ptr()) for array in arrays)
    kernel = getattr(_load()[1], function)
    if kernel(n, ctypes.c_int64(largest), counts, addresses, *pointers, torch.get_num_threads()):
        hint = "Set a smaller data.batch_size."
        raise MemoryError(f"There is no memory left for a step's gradients. {hint}")
