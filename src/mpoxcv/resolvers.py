"""What ``conf/`` interpolates beside options: registered where a config is composed or read."""

from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf

# the number of classes, and a job's overrides as the name of one folder
RESOLVERS: dict[str, Callable[[Any], Any]] = {
    "len": len,
    "folder_name": lambda text: str(text).replace("/", "_"),
}
for _name, _resolver in RESOLVERS.items():
    OmegaConf.register_new_resolver(_name, _resolver, replace=True)
