"""Of configs: their options by dotted names, and what ``conf/`` interpolates beside options."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf

# registered where a config is composed or read: the number of classes, and a job's overrides as the
# name of one folder
RESOLVERS: dict[str, Callable[[Any], Any]] = {
    "len": len,
    "folder_name": lambda text: str(text).replace("/", "_"),
}
for _name, _resolver in RESOLVERS.items():
    OmegaConf.register_new_resolver(_name, _resolver, replace=True)


def flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each option of a plain config by its dotted name, and each group's."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}", value
            yield from flatten(value, f"{prefix}{key}.")
