"""A network in two parts: a backbone, which may be pretrained, and a new head.

Legend: B batch, S picture size in pixels, D features, C classes.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor, nn

from mpoxcv.errors import UserError
from mpoxcv.models.stem import Stem


@dataclass(frozen=True)
class Preprocessing:
    """What pictures are made into for a network; the options of data of the same names.

    ``interpolation`` is ``bilinear`` or another of Pillow's; ``crop`` is ``squash``, or the share
    of a side that is cut out (see ``mpoxcv.pictures.pixels.Form``). ``mean`` and ``std`` normalise.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"
    crop: float | str = "squash"


@dataclass(frozen=True)
class Weights:
    """Where a backbone's weights come from; ``sha256`` is the file's, or that of its tensors."""

    source: str
    licence: str
    sha256: str


class Network(nn.Module):
    """A backbone and its head.

    What is not trained stays as it is: it has no gradients, and its batch norm and dropout do what
    they do in evaluation. ``stem`` is what of pretrained weights comes before all that is trained,
    and can be computed once: the backbone, some of it, or None.

    Args:
        backbone: maps float (B, 3, S, S) to features (B, D).
        head: maps features to scores (B, C).
        train: ``all``; ``head``, which alone is trained; or a number: the backbone's last
            ``parts``, as many as that, are trained, too.
        preprocessing: that the backbone was made for.
        weights: of the backbone; None: random.

    Raises:
        UserError: ``train`` is none of these, or more than the backbone's parts.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        train: str | int = "all",
        preprocessing: Preprocessing | None = None,
        weights: Weights | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.preprocessing, self.weights = preprocessing, weights
        self.frozen = train == "head"
        # in a list, so that its modules are not registered twice
        self._stem: list[nn.Module] = []
        if train == "all":
            return
        parts = self.parts()
        if train != "head" and (type(train) is not int or not 1 <= train <= len(parts)):
            names = ", ".join(parts)
            raise UserError(
                f"model.train={train} is not one of all, head, or a number: how many of the backbone's last parts are "
                f"trained with the head, from 1 to {len(parts)}: {names}."
            )
        number = 0 if train == "head" else int(train)
        frozen = list(parts.values())[: len(parts) - number]
        for part in frozen:
            part.requires_grad_(False)
        if not number:
            # what lies between the parts, such as a class token
            backbone.requires_grad_(False)
            self._stem.append(backbone)
        elif frozen and weights and preprocessing:
            # what networks raise that are no row of parts; they are computed anew in each step
            with suppress(ValueError, RuntimeError, TypeError, AttributeError, IndexError):
                size = preprocessing.image_size
                self._stem.append(Stem(backbone, frozen, self._children().values(), size))

    @property
    def stem(self) -> nn.Module | None:
        """What is computed once: maps float (B, 3, S, S) to (B, D)."""
        return self._stem[0] if self._stem else None

    def parts(self) -> dict[str, nn.Module]:
        """Return the backbone's parts that have parameters by name, in order."""
        return {n: p for n, p in self._children().items() if next(p.parameters(), None) is not None}

    def _children(self) -> dict[str, nn.Module]:
        """Return the backbone's modules by name; those of its sequences one by one."""
        parts: dict[str, nn.Module] = {}
        for name, child in self.backbone.named_children():
            sequence = isinstance(child, nn.Sequential | nn.ModuleList) and len(child) > 1
            below = child.named_children() if sequence else [("", child)]
            parts |= {f"{name}.{inner}".rstrip("."): module for inner, module in below}
        return parts

    def forward(self, x: Tensor) -> Tensor:
        """Map float (B, 3, S, S), or what the stem makes of it (B, D), to scores (B, C)."""
        if x.ndim > 2:
            return self.head(self.backbone(x))
        return self.head(self.stem.rest(x) if isinstance(self.stem, Stem) else x)


def make_head(features: int, classes: int, dropout: float, hidden: Sequence[int]) -> nn.Sequential:
    """Return a linear head, or one with hidden layers of these widths; dropout before each layer.

    Raises:
        UserError: a number is not what it should be.
    """
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"model.dropout={dropout} should be a number from 0, below 1.")
    if not isinstance(hidden, Sequence) or not all(type(w) is int and w > 0 for w in hidden):
        raise UserError(f"model.hidden={hidden} should be widths of layers: [256].")
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Dropout(dropout), nn.Linear(features, width), nn.ReLU()]
        features = width
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(features, classes))


def set_frozen_to_eval(network: nn.Module) -> None:
    """Put each part that has parameters, none of which is trained, into evaluation."""
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
