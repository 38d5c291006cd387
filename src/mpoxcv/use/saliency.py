"""Where a network looked, and how far that can be believed.

Legend: S picture size in pixels.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from mpoxcv.errors import UserError
from mpoxcv.pictures.pixels import resize
from mpoxcv.use.stored_run import TrainedRun

# a map of fewer cells a side says little; then parts of the picture are covered one by one
CELLS = 6
# of the picture that is blurred, and how often as much is blurred elsewhere
SHARE, ELSEWHERE = 0.1, 8


@dataclass(frozen=True)
class Explanation:
    """A map and its checks.

    ``map`` is float32 (S, S) from 0 to 1; ``random`` is that of the same network with random
    weights, and ``likeness`` their rank correlation (Adebayo et al. 2018: near 1 the map shows the
    picture, not what the network learned). ``fall`` is how much the class's probability falls where
    the marked tenth of the picture is blurred, ``fall_elsewhere`` the mean of blurring tenths of
    the same shape elsewhere.
    """

    map: np.ndarray
    random: np.ndarray
    likeness: float
    fall: float
    fall_elsewhere: float


def explain_picture(run: TrainedRun, picture: np.ndarray, label: int, seed: int = 0) -> Explanation:
    """Explain one of a network's scores.

    Args:
        run: whose network.
        picture: uint8 (S, S, 3), as the run's form makes it.
        label: the score's class.
        seed: of the random weights and places.

    Raises:
        UserError: captum is not installed.
    """
    network = run.classifier.network
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
    shift, scale = run.normalisation()
    generator = torch.Generator().manual_seed(seed)
    image = (pixels - shift) / scale
    marked = saliency(network, image, label)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        by_chance = saliency(randomised(network), image, label)
    likeness = float(spearmanr(marked.ravel(), by_chance.ravel()).statistic)

    blurred = gaussian_blur(
        pixels, [2 * (pixels.shape[-1] // 8) + 1] * 2, [pixels.shape[-1] / 12] * 2
    )
    mask = torch.from_numpy(marked >= np.quantile(marked, 1 - SHARE)).expand_as(pixels)
    side = pixels.shape[-1]
    masks = [mask]
    for _ in range(ELSEWHERE):
        rows, columns = (
            int(torch.randint(side // 4, side - side // 4, (), generator=generator))
            for _ in range(2)
        )
        masks.append(mask.roll((rows, columns), (2, 3)))
    changed = torch.cat([pixels, *(torch.where(one, blurred, pixels) for one in masks)])
    with torch.inference_mode():
        probabilities = network((changed - shift) / scale).softmax(1)[:, label].double()
    fall, *elsewhere = (probabilities[0] - probabilities[1:]).tolist()
    return Explanation(marked, by_chance, np.nan_to_num(likeness), fall, float(np.mean(elsewhere)))


def explain_by_all(
    runs: Sequence[TrainedRun], picture: np.ndarray, label: int, seed: int = 0
) -> Explanation:
    """Return the mean of the networks' explanations of a picture, uint8 (height, width, 3)."""
    parts = [explain_picture(run, resize(picture, run.form), label, seed) for run in runs]
    means = {
        field.name: np.mean([getattr(part, field.name) for part in parts], axis=0)
        for field in fields(Explanation)
    }
    return Explanation(**means)


def saliency(network: nn.Module, image: Tensor, label: int) -> np.ndarray:
    """Return where a score comes from, float32 (S, S) from 0 to 1.

    Grad-CAM (Selvaraju et al. 2017) of the last layer with a map of at least ``CELLS`` a side;
    for networks without one, as LeNet and transformers, occlusion (Zeiler and Fergus 2014).
    """
    try:
        from captum.attr import LayerGradCam, Occlusion
    except ImportError:
        raise UserError('Explaining needs captum: pip install "mpoxcv[explain]"') from None
    size = image.shape[-1]
    if layer := _last_map(network, image):
        given = image.clone().requires_grad_()
        attribution = LayerGradCam(network, layer).attribute(given, label, relu_attributions=True)
        attribution = F.interpolate(attribution, (size, size), mode="bilinear")
    else:
        side = max(2, size // 8)
        with torch.no_grad():
            attribution = (
                Occlusion(network)
                .attribute(
                    image,
                    (3, side, side),
                    (3, max(1, side // 2), max(1, side // 2)),
                    0,
                    label,
                    perturbations_per_eval=64,
                )
                .clamp_min(0)
            )
    found = attribution.detach().sum(1)[0]
    return (found / found.max().clamp_min(1e-12)).float().numpy()


def randomised(network: nn.Module) -> nn.Module:
    """Return a copy of a network with weights as they are before any training."""
    fresh = copy.deepcopy(network).eval()
    modules: Any = fresh.modules()
    for module in modules:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return fresh


def _last_map(network: nn.Module, image: Tensor) -> nn.Module | None:
    """Return the last module whose output is a map, and which is called once."""
    seen: list[tuple[nn.Module, torch.Size]] = []
    leaves = [m for m in network.modules() if not [*m.children()]]
    hooks = [
        m.register_forward_hook(
            lambda m, _, out: seen.append((m, getattr(out, "shape", torch.Size())))
        )
        for m in leaves
    ]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    called = [module for module, _ in seen]
    maps = [
        m
        for m, shape in seen
        if len(shape) == 4 and min(shape[2:]) >= CELLS and called.count(m) == 1
    ]
    return maps[-1] if maps else None
