"""The part of a backbone before all that is trained: what it gives can be computed once.

Legend: B batch, S picture size in pixels, D features.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Stem(nn.Module):
    """A backbone up to its last frozen part; ``rest`` goes on from there.

    Which parts come before is seen in one forward pass. The others hand on what they get, so that
    the backbone's own ``forward`` serves for both halves: a backbone that does more between its
    parts than to reshape is refused.

    Args:
        backbone: maps float (B, 3, S, S) to (B, D).
        frozen: those of its ``parts`` that are not trained.
        parts: its parts, those without parameters among them.
        size: S of a picture to try.

    Raises:
        ValueError: the halves do not give what the whole gives.
    """

    def __init__(
        self,
        backbone: nn.Module,
        frozen: Sequence[nn.Module],
        parts: Iterable[nn.Module],
        size: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone.eval()
        called: list[tuple[nn.Module, Tensor]] = []
        hooks = [p.register_forward_hook(lambda m, _, x: called.append((m, x))) for p in parts]
        picture = torch.rand(2, 3, size, size)
        with torch.no_grad():
            whole = backbone(picture)
        for hook in hooks:
            hook.remove()

        modules = [module for module, _ in called]
        self.number = 1 + max(modules.index(part) for part in frozen)
        # in a tuple, so that they are no modules of this one besides
        self.before, self.after = tuple(modules[: self.number]), tuple(modules[self.number :])
        trains = any(p.requires_grad for module in self.before for p in module.parameters())
        output = called[self.number - 1][1]
        if trains or len(set(modules)) < len(modules) or not isinstance(output, Tensor):
            raise ValueError("its parts do not follow each other")
        self.shape = output.shape[1:]
        with torch.no_grad():
            if not torch.equal(self.rest(self(picture)), whole):
                raise ValueError("it does more between its parts than to reshape")

    def set_size(self, size: int) -> None:
        """Prepare ``rest`` for what pictures of another size S give."""
        shapes: list[torch.Size] = []
        hook = self.before[-1].register_forward_hook(lambda m, _, x: shapes.append(x.shape[1:]))
        with torch.no_grad():
            self(torch.zeros(1, 3, size, size))
        hook.remove()
        self.shape = shapes[0]

    def extra_repr(self) -> str:
        """Tell stems of one backbone apart."""
        return f"number={self.number}"

    def forward(self, x: Tensor) -> Tensor:
        """Map float (B, 3, S, S) to (B, D), what the last frozen part gives as one row."""
        with handing_on(self.after):
            return self.backbone(x).flatten(1)

    def rest(self, x: Tensor) -> Tensor:
        """Map what the stem gives to what the backbone gives."""
        with handing_on(self.before):
            return self.backbone(x.unflatten(1, self.shape))


@contextmanager
def handing_on(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let modules return what they are given."""
    modules = list(modules)
    for module in modules:
        module.forward = lambda x: x
    try:
        yield
    finally:
        for module in modules:
            # the class's again
            del module.forward
