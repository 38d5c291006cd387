"""A training step as one CUDA graph.

Launching a small network's kernels one by one takes the CPU longer than they run.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# steps; libraries and optimizers make what they keep in the first
WARM_UP = 3


def capturable(optimizers: Sequence[torch.optim.Optimizer]) -> bool:
    """Return whether their steps can be in a graph: fused on a GPU, with the rate as a tensor."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    parameters = [parameter for group in groups for parameter in group["params"]]
    fused = all(group.get("fused") and "capturable" in group for group in groups)
    return fused and all(parameter.device.type == "cuda" for parameter in parameters)


class GraphedStep:
    """Does what a step does; batches of the first one's shapes from the fourth on by a graph.

    The steps before are real ones. Learning rates may change between steps; where anything else of
    the optimizers does, such as the betas by OneCycleLR, a new graph is made.

    Args:
        step: maps a batch's tensors to one tensor, and does nothing but launch kernels on them and
            on tensors that stay.
        optimizers: that it steps, as ``capturable`` says.
    """

    def __init__(
        self, step: Callable[..., Tensor], optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        self.step = step
        self.steps = 0
        self.shapes: list[torch.Size] = []
        self.inputs: list[Tensor] = []
        self.output: Tensor
        self.groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        device = self.groups[0]["params"][0].device
        self.rates = [torch.zeros((), device=device) for _ in self.groups]
        self.last_rates = [0.0] * len(self.groups)
        # of the groups, as the graph has them
        self.settings: list[dict[str, Any]] = []
        self.graph: torch.cuda.CUDAGraph
        self.stream = torch.cuda.Stream(device)

    def __call__(self, *batch: Tensor) -> Tensor:
        """Do a step."""
        shapes = [tensor.shape for tensor in batch]
        self.shapes = self.shapes or shapes
        # an epoch's last batch may be smaller
        if shapes != self.shapes:
            return self.step(*batch)
        self.steps += 1
        if self.steps <= WARM_UP:
            return self._step_on_stream(batch)

        apart = ("params", "lr")
        settings = [{k: v for k, v in g.items() if k not in apart} for g in self.groups]
        if settings != self.settings:
            self._capture(batch)
            self.settings = settings
        for target, tensor in zip(self.inputs, batch, strict=True):
            target.copy_(tensor)
        for i, group in enumerate(self.groups):
            if group["lr"] != self.last_rates[i]:
                self.last_rates[i] = group["lr"]
                self.rates[i].fill_(group["lr"])
        self.graph.replay()
        return self.output.clone()

    def _step_on_stream(self, batch: Sequence[Tensor]) -> Tensor:
        """Do it on the stream that captures, whose libraries set themselves up there."""
        main = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(main)
        with torch.cuda.stream(self.stream):
            output = self.step(*batch)
        main.wait_stream(self.stream)
        return output

    def _capture(self, batch: Sequence[Tensor]) -> None:
        self.inputs = [tensor.clone() for tensor in batch]
        self.graph = torch.cuda.CUDAGraph()
        plain = [(group["lr"], group["capturable"]) for group in self.groups]
        for group, rate in zip(self.groups, self.rates, strict=True):
            group["lr"], group["capturable"] = rate, True
        try:
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.output = self.step(*self.inputs)
        finally:
            for group, (rate, flag) in zip(self.groups, plain, strict=True):
                group["lr"], group["capturable"] = rate, flag
