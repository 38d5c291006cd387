"""What a person at the keyboard is told of an error."""

import difflib
from collections.abc import Iterator, Mapping
from errno import EACCES, EDQUOT, EFBIG, ENOSPC, EPERM, EROFS
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mpoxcv import undocumented
from mpoxcv.errors import UserError, did_you_mean, visible

# what joblib and submitit raise when a job's process has ended without a word; named, so that they
# need not be imported
KILLED = frozenset({"TerminatedWorkerError", "BrokenProcessPool", "UncompletedJobError"})
DISK_ERRORS = frozenset({ENOSPC, EDQUOT, EROFS, EACCES, EPERM, EFBIG})


def explain(error: Exception, conf_dir: Path, config_name: str, arguments: list[str]) -> str | None:
    """Return the message for a person, or None where the error is a bug.

    Its chain of causes is searched; ``arguments`` are the command line's, for suggestions.
    """
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, UserError) or type(cause).__name__ == undocumented.LIGHTNING_REFUSES:
            return str(cause)
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            where = f": {cause.filename}" if cause.filename else ""
            ways = "make room, or take another folder (data.cache_dir=DIR, hydra.run.dir=DIR)"
            return f"{cause.strerror}{where}. What was finished before is whole; {ways}."
        if operation := undocumented.NOT_DETERMINISTIC.match(str(cause)):
            return (
                f"{operation[1]}, which this network needs, gives other last digits each time on this device. "
                "Train all the same with trainer.deterministic=warn, or take another network or trainer=cpu."
            )
        if type(cause).__name__ in KILLED:
            return "A job's process was killed: by the system, for want of memory or time, or by someone. Others are kept."

    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = ", ".join(error.options)
        return f"{choice!r} is not an option of {group}.{did_you_mean(choice, error.options)} Options: {options}."
    if isinstance(error, ConfigCompositionException) and (key := _unknown_key(causes)):
        hint = _suggest_option(key, _config_keys(conf_dir, config_name, arguments))
        return f"There is no option {key!r}.{hint} All options with their values: --cfg job"
    if isinstance(error, ValueError) and undocumented.WRONG_GROUP_VALUE in str(error):
        return f"{error}. A group takes the name of one of its options, such as logger=none."
    if message := _unimportable(causes):
        return message
    if isinstance(error, HydraException | OmegaConfBaseException):
        return "\n".join(dict.fromkeys(str(cause).strip() for cause in causes))
    return None


def cause_of(error: BaseException) -> str:
    """Return what a person needs to know of an error, in a line or a few."""
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, UserError):
            return str(cause)
    return _unimportable(causes) or visible(f"{type(error).__name__}: {error}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _unimportable(causes: list[BaseException]) -> str | None:
    """Return why a ``_target_`` cannot be imported, where that is what the errors are about."""
    match = undocumented.NO_TARGET.search(str(causes[0]))
    if match is None:
        return None
    target, option = match[1], match[2] or "The config"
    module = target.partition(".")[0]
    files = [file.stem for file in Path().glob("*.py")]
    hint = "" if module in files else did_you_mean(module, files)
    return (
        f"{option} names {target!r}, which cannot be imported: {type(causes[-1]).__name__}: {causes[-1]}.{hint}\n"
        f"_target_ takes a name in a package that is installed, or in a file of the working folder, {Path.cwd()}:\n"
        "my_file.MyNetwork is the class MyNetwork in my_file.py."
    )


def _unknown_key(causes: list[BaseException]) -> str | None:
    match = undocumented.UNKNOWN_OPTION.search("\n".join(map(str, causes)))
    # where it is a group
    if match and match[2]:
        return match[1].partition("@")[0].replace("/", ".")
    return match and match[1]


def _config_keys(conf_dir: Path, config_name: str, arguments: list[str]) -> list[str]:
    """Names of all options, with the groups chosen on the command line where those compose."""
    groups = {p.name for p in conf_dir.iterdir() if p.is_dir()}
    choices = [a for a in arguments if a.partition("=")[0] in groups]
    for overrides in (choices, []):
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(conf_dir), version_base="1.3"):
                config = compose(config_name, overrides)
        except HydraException:
            continue
        return list(dict.fromkeys([*sorted(groups), *_flatten(OmegaConf.to_container(config))]))
    return sorted(groups)


def _flatten(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _flatten(value, f"{prefix}{key}.")


def _suggest_option(key: str, options: list[str]) -> str:
    """Suggest options that look like ``key``, or whose last part does: people leave groups out."""
    close = difflib.get_close_matches(key, options, n=2, cutoff=0.8)
    if not close:
        leaves = {name.rpartition(".")[2] for name in options}
        best = difflib.get_close_matches(key.rpartition(".")[2], sorted(leaves), n=1, cutoff=0.6)
        close = [name for name in options if name.rpartition(".")[2] in best][:3]
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
