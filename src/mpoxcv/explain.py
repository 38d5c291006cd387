"""What a person at the keyboard is told of an error."""

import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mpoxcv import undocumented
from mpoxcv.errors import UserError, did_you_mean, visible
from mpoxcv.resolvers import flatten

# by which option a file lies where it does
ANOTHER_FOLDER = (
    "make room or give leave, or take another folder: hydra.run.dir, hydra.sweep.dir, data.root, "
    "data.cache_dir, data.split_file, output"
)

# files of ours, of other packages and of Python itself; others are the user's own
PLACES = (str(Path(__file__).parent), sysconfig.get_path("stdlib"))
INSTALLED = re.compile("|".join(["^<", "(site|dist)-packages", *map(re.escape, PLACES)]))


def explain(error: Exception, conf_dir: Path, config_name: str, arguments: list[str]) -> str | None:
    """Return the message for a person, or None where the error is a bug.

    ``arguments`` are the command line's, for suggestions.
    """
    if message := known_cause(error):
        return message
    causes = list(_chain(error))
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = ", ".join(error.options)
        return f"{choice!r} is not an option of {group}.{did_you_mean(choice, error.options)} Options: {options}."
    match = undocumented.UNKNOWN_OPTION.search("\n".join(map(str, causes)))
    if isinstance(error, ConfigCompositionException) and match:
        # of a group, as conf/ has it
        key = match[1].partition("@")[0].replace("/", ".") if match[2] else match[1]
        known = options_of(conf_dir, config_name, arguments)
        # an option that is there, and takes no such value, is explained by Hydra itself
        if "." not in key or key not in known:
            hint = _suggest_option(key, list(known))
            return f"There is no option {key!r}.{hint} All options with their values: --cfg job"
    if isinstance(error, ValueError) and undocumented.WRONG_GROUP_VALUE in str(error):
        return f"{error}. A group takes the name of one of its options, such as logger=none."
    if isinstance(error, HydraException | OmegaConfBaseException):
        return "\n".join(dict.fromkeys(str(cause).strip() for cause in causes))
    return None


def known_cause(error: BaseException) -> str | None:
    """Return what a person needs to know of an error, from its chain of causes; None of a bug."""
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, UserError) or type(cause).__name__ == undocumented.LIGHTNING_REFUSES:
            return str(cause)
    for cause in causes:
        # without a number it is another tool's: Hydra's for a missing config is one
        if isinstance(cause, OSError) and cause.errno:
            where = f": {cause.filename}" if cause.filename else ""
            return f"{cause.strerror}{where}. What was finished before is whole; {ANOTHER_FOLDER}"
        if isinstance(cause, ImportError) and (extra := extra_of(str(cause))):
            return f'The package {extra[0]} is not installed: pip install "mpoxcv[{extra[1]}]"'
    for cause in causes:
        line = f"{type(cause).__name__}: {str(cause).strip()}".splitlines()[0]
        for pattern, hint in undocumented.REFUSALS.items():
            if match := re.search(pattern, line):
                return f"{match[1].rstrip('.')}. {hint}"
    if match := undocumented.NO_TARGET.search(str(error)):
        hint = f"It takes a name in a package that is installed, or in a file of {Path.cwd()}"
        what = f"{match[2] or 'The config'} names {match[1]!r}, which cannot be imported"
        return f"{what} ({causes[-1]}). {hint}: my_file.MyNetwork is in my_file.py."
    return None


def extra_of(text: str) -> tuple[str, str] | None:
    """Return which of our optional packages a text names, and the extra that brings it."""
    for requirement in metadata.requires("mpoxcv") or ():
        match = re.match(r"""([\w-]+).*extra == ['"](\w+)['"]""", requirement)
        if match and re.search(rf"\b{match[1]}\b", text.replace("_", "-")):
            return match[1], match[2]
    return None


def cause_of(error: BaseException) -> str:
    """Return what a person needs to know of an error, in a line or a few."""
    return visible(known_cause(error) or f"{type(error).__name__}: {error}")


@contextmanager
def blaming(sent: object) -> Iterator[None]:
    """Let an error that nobody foresaw be a UserError: of files that a stranger may have sent.

    What a person is told of anyhow passes, and what the user's own code is at; all, if ``sent`` is
    None.
    """
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = any(not INSTALLED.search(frame.filename) for frame in frames)
        explained = known_cause(error) or isinstance(error, HydraException | OmegaConfBaseException)
        if sent is None or own or explained:
            raise
        where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{sent} holds something that no run of ours does: {line} ({where})"
        ) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def options_of(conf_dir: Path, config_name: str, arguments: list[str]) -> dict[str, Any]:
    """Return all options by dotted names, with the groups chosen in the command's arguments.

    Where those do not compose, as without them.
    """
    groups = sorted(p.name for p in conf_dir.iterdir() if p.is_dir())
    choices = [a for a in arguments if a.partition("=")[0] in groups]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        try:
            config = compose(config_name, choices)
        except HydraException:
            config = compose(config_name)
    return dict.fromkeys(groups) | dict(flatten(OmegaConf.to_container(config)))


def _suggest_option(key: str, options: list[str]) -> str:
    """Suggest options that end in ``key``, since people leave groups out, or look like it."""
    longer = [name for name in options if name.endswith(f".{key}")][:3]
    hint = f" Did you mean {' or '.join(map(repr, longer))}?"
    return hint if longer else did_you_mean(key, options)
