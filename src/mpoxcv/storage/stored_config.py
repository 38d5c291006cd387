"""A run's stored config, read as if a stranger had sent it: nothing is built that is not listed."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mpoxcv.errors import UserError
from mpoxcv.resolvers import RESOLVERS
from mpoxcv.storage.files import read_bytes

MAX_BYTES = 2**20
MAX_DEPTH = 30
MAX_NESTED = 5
MAX_VALUES = 100_000
FAILURES = (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError, OSError, TypeError)
PLAIN_TAGS = (None, "!", "tag:yaml.org,2002:str")
REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
# these compute, and neither write nor call what they are given
ALLOWED = re.compile(
    r"mpoxcv\.(LeNet|LesionClassifier|MSLDDataModule|RandomFlip|create_model)"
    r"|(torch\.optim|torch\.optim\.lr_scheduler|torch\.nn|torchvision\.transforms"
    r"|torchvision\.transforms\.v2)\.[A-Z]\w*"
)
# hydra.utils.get_object of a dtype
ALLOWED_OBJECT = re.compile(r"torch\.(float|uint|int)\d+")


def read_plain(file: Path) -> Any:
    """Return a YAML file's mapping or list, interpolations unresolved.

    UserError where it cannot be read, has tags, aliases or over 1 MiB, or is nested too deep.
    """
    try:
        text = read_bytes(file, MAX_BYTES).decode()
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if getattr(event, "anchor", None):
                raise ValueError("it has aliases")
            if getattr(event, "tag", None) not in PLAIN_TAGS:
                raise ValueError(f"it has the tag {event.tag}")
            if isinstance(event, yaml.ScalarEvent) and not depth:
                raise ValueError("it is a single value")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep")

        plain = OmegaConf.to_container(OmegaConf.create(text))
        # halves of characters, which nothing could write again
        "".join(_nodes(plain, str)).encode()
        return plain
    except FAILURES as error:
        raise UserError(f"{file} is refused: it is no plain config of a run: {error}") from None


def load_config(file: Path, trust: Sequence[str] = ()) -> DictConfig:
    """Load a run's ``.hydra/config.yaml``; ``trust`` names more resolvers than those of our conf.

    UserError where it is not plain, swells when interpolated, or interpolates the environment.
    """
    plain = read_plain(file)
    if not isinstance(plain, dict):
        raise UserError(f"{file} is refused, since it is no config of a run: it holds no options.")

    names = "|".join(map(re.escape, [*RESOLVERS, "hydra", *trust]))
    resolver = re.compile(rf"\$\{{({names}):[^{{}}$]*\}}")
    for text in _nodes(plain, str):
        rest = text
        # from the innermost; the zero byte is in no name
        for _ in range(MAX_NESTED if "${" in text else 0):
            rest = resolver.sub("\0", REFERENCE.sub("\0", rest))
        if "${" in rest:
            raise UserError(
                f"{file} is refused: {text!r} interpolates more than options of the config. If it is your own: "
                "put the value into the file, or trust=[NAME] with the resolver's name."
            )

    if _size(plain) > MAX_VALUES:
        reason = "its interpolations go in circles or swell without bounds"
        raise UserError(f"{file} is refused: {reason}.")
    return OmegaConf.create(plain)


def resolved(config: DictConfig, key: str, file: Path) -> Any:
    """Return a part of the config in plain values, None where it is not there.

    UserError where it cannot be resolved, or would give other values if it were once more.
    """
    try:
        node = config.get(key)
        part = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    except (OmegaConfBaseException, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file} is refused: its {key} cannot be read: {reason}") from None
    if any("${" in text for text in _nodes(part, str)):
        raise UserError(f"{file} is refused: its {key} interpolates what an interpolation gave.")
    return part


def instantiable(
    part: Any, key: str, file: Path, trust: Sequence[str] = (), more: Sequence[str] = ()
) -> DictConfig:
    """Return a :func:`resolved` part, if all that it names with ``_target_`` may be built.

    This is the one way from a stored config to ``hydra.utils.instantiate``. ``trust`` has modules
    and names that may be built besides, ``more`` names alone. UserError names the file, the target,
    and how to go on.
    """
    if not isinstance(part, dict) or "_target_" not in part:
        raise UserError(f"{file} is refused: its {key} holds no _target_.")

    for call in (node for node in _nodes(part, dict) if "_target_" in node):
        target, pattern = call["_target_"], ALLOWED
        if target == "hydra.utils.get_object":
            target, pattern = call.get("path"), ALLOWED_OBJECT
        trusted = any(f"{target}.".startswith(f"{name}.") for name in trust)
        known = isinstance(target, str) and (pattern.fullmatch(target) or target in more)
        if not (known or (trusted and isinstance(target, str))):
            raise UserError(
                f"{file} is refused: it would call {target!r}, which is not among what a run's config may name. Nothing of "
                f"it was run. If the run is your own, or you have read that code, go on with trust=['{target}']."
            )
    return OmegaConf.create(part)


def _nodes(node: Any, kind: type) -> Iterator[Any]:
    """Yield what is of a kind: the node itself, and keys and values below it."""
    if isinstance(node, kind):
        yield node
    below = chain.from_iterable(node.items()) if isinstance(node, dict) else node
    if isinstance(node, dict | list):
        for inner in below:
            yield from _nodes(inner, kind)


def _size(plain: dict[str, Any]) -> float:
    """Return how many values and characters a resolved config has: inf where it goes in circles."""

    @lru_cache(None)
    def size(*names: str) -> float:
        node: Any = plain
        for name in names:
            node = node.get(name) if isinstance(node, dict) else None
        texts = list(_nodes(node, str))
        referred = [name for text in texts for name in REFERENCE.findall(text)]
        values = len(list(_nodes(node, object))) + sum(map(len, texts)) / 100
        return values + sum(size(*name.split(".")) for name in referred)

    try:
        return size()
    except RecursionError:
        return float("inf")
