"""Averaged networks as one module without files, patients or pandas: what an export holds.

Legend: B batch, S picture size in pixels, C classes, R networks, D features.
"""

import copy
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpoxcv.errors import UserError
from mpoxcv.evaluation.novelty import NEIGHBOUR
from mpoxcv.models.lenet import LeNet
from mpoxcv.models.network import Network
from mpoxcv.use.predictor import Predictor
from mpoxcv.use.resizing import Resize
from mpoxcv.use.stored_run import TrainedRun

# in the order of what ``Deployed`` returns
OUTPUTS = ("probabilities", "p_values", "distance", "by_network", "features")


class Deployed(nn.Module):
    """What ``Predictor`` computes.

    Args:
        predictor: whose networks are of backbone and head, or LeNet, for pictures of one form.

    Raises:
        UserError: a network is another, or resizing cannot be exported.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        if len(predictor.forms) > 1:
            raise UserError("The runs' pictures are of several sizes: export one kind at a time.")
        (form,) = predictor.forms
        self.resize = Resize(form)
        members: Any = nn.ModuleList(_Member(run) for run in predictor.runs)
        self.members = members
        # runs share a frozen backbone
        keys = [run.frozen or run.folder for run in predictor.runs]
        self.first = [keys.index(key) for key in keys]
        self.temperature, self.limit = predictor.temperature, predictor.limit
        held_out = predictor.held_out
        self.patients = held_out.patients if held_out else 0
        for i, member in enumerate(self.members):
            truths = held_out.truths[i] if held_out else np.zeros(0)
            weights = np.diff(held_out.weights[i]) if held_out else np.zeros(0)
            for name, values in (("truths", truths), ("weights", weights)):
                member.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Map pictures of one size, uint8 (B, height, width, 3), to ``OUTPUTS``.

        Returns:
            ``probabilities`` (B, C), averaged; ``p_values`` (B, C): classes above 1 - level are in
            the prediction set, with the likeliest; ``distance`` (B,): above 1 a picture is unlike
            what was learned from; ``by_network`` (B, R, C), probabilities without temperature;
            ``features`` (B, R, D). Where held-out predictions lack, p-values are 1; where a
            reference lacks, distances are NaN.
        """
        pixels = self.resize(pictures)
        features: list[Tensor] = []
        for i, member in enumerate(self.members):
            known = self.first[i] < i
            features.append(features[self.first[i]] if known else member.features(pixels))
        parts = [member(part) for member, part in zip(self.members, features, strict=True)]
        scores = torch.stack([scores for scores, _ in parts], 1)
        by_network = scores.softmax(2)
        probabilities = (scores / self.temperature).softmax(2).mean(1)
        total = torch.ones_like(probabilities)
        for i, member in enumerate(self.members):
            as_unlikely = member.truths.view(1, -1, 1) <= by_network[:, i, None, :]
            total = total + (member.weights.view(1, -1, 1) * as_unlikely).sum(1)
        distance = torch.stack([far for _, far in parts], 1).mean(1) / self.limit
        by_unlikeness = total / (self.patients + 1)
        return probabilities, by_unlikeness, distance, by_network, torch.stack(features, 1)


class _Member(nn.Module):
    """One network with its normalisation."""

    shift: Tensor
    scale: Tensor
    known: Tensor

    def __init__(self, run: TrainedRun) -> None:
        super().__init__()
        network = copy.deepcopy(run.classifier.network)
        if isinstance(network, Network):
            self.backbone, self.head = network.backbone, network.head
        elif isinstance(network, LeNet):
            network.own_kernels = False
            self.head, network.fc3 = network.fc3, nn.Identity()  # type: ignore[assignment]
            self.backbone = network
        else:
            raise UserError(
                f"{type(network).__name__} is a network of your own, of which features cannot be told from scores: "
                "give it a backbone and a head (mpoxcv.models.network.Network)."
            )
        shift, scale = run.normalisation()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        known = run.reference["features"] if run.reference else np.zeros((0, 1))
        self.register_buffer("known", torch.tensor(known.T, dtype=torch.float32))

    def features(self, pixels: Tensor) -> Tensor:
        backbone: Any = self.backbone
        return backbone((pixels - self.shift) / self.scale).flatten(1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.head(features)
        if not self.known.shape[1]:
            return scores, torch.full_like(scores[:, 0], torch.nan)
        length = features.norm(dim=1, keepdim=True).clamp_min(1e-12)
        cosines = (features / length) @ self.known
        nearest = cosines.topk(min(NEIGHBOUR, cosines.shape[1]), dim=1).values[:, -1]
        return scores, (2 - 2 * nearest).clamp_min(0).sqrt()


def stated(predictor: Predictor, folders: Sequence[str]) -> dict[str, str]:
    """Return what a file says of itself: names of classes, where it comes from, how to read it."""
    return {
        "classes": json.dumps(predictor.classes), "trained_on": "; ".join(predictor.sources),
        "runs": json.dumps(list(folders)), "temperature": f"{predictor.temperature:.9g}",
        "how_to_read": "the prediction set at 90 %: classes with p_values above 0.1, and the likeliest; distance above 1: "
        "unlike what was learned from", "use": "Research only: not for diagnosis.",
    }  # fmt: skip
