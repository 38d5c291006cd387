"""Commands: what people type, as Hydra reads it, and what we print, for shell and Hydra."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from mpoxcv.errors import UserError

# the last parts of options that hold a path, or a pattern, and are taken as they are typed
PATHS = frozenset({
    "cache_dir", "ckpt_path", "default_root_dir", "dir", "dirpath", "filename", "folder", "images", "name_pattern", "output",
    "output_dir", "patients", "report", "root", "run", "save_dir", "source", "split_file", "subdir",
    "submitit_folder", "tracking_uri", "weights",
})  # fmt: skip
# of those that hold another text, and of which Hydra refuses some
TEXTS = frozenset({"citation", "name", "positive_class"})
# of lists of paths, patterns or texts
LISTS = frozenset({"classes", "exclude", "ignore_classes", "runs", "searchpath"})
# null has a meaning, whatever the default is
NULLABLE = LISTS | {"weights"}
# of a stored command, what may be pasted: neither code, nor a place to write to
LAUNCHER = re.compile(r"hydra/launcher=\w+|hydra\.launcher\.[a-z]\w*=[\w.-]*")
CHOICE = re.compile(r"~[\w.]+|\+{0,2}[A-Za-z][\w/]*=[\w .,()*-]*")
OPTION = re.compile(r"\+{0,2}[A-Za-z]\w*(\.[A-Za-z]\w*)*\.[A-Za-z]\w*=[^${}]*")
READ = frozenset({"name_pattern", "patients", "root", "weights"})
ITEM = re.compile(r"""\s*('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,]*?)\s*(?:,|$)""")


def as_typed(arguments: Sequence[str], options: Callable[[], Mapping[str, Any]]) -> list[str]:
    """Return a command's arguments such that Hydra reads paths and texts as they were typed.

    They need no quotes but the shell's; ``~`` is the home. What is there under the name as typed is
    meant. Else, what Hydra means by it stays: a value in quotes, ``[…]`` where the option is a
    list, ``${…}``, ``null`` where that is the default, and in a multirun ``a,b`` if both are there.

    An object may have arguments that the default has not, or take the place of null:
    ``data.augment={_target_:…}``. ``model._target_=`` alone chooses ``model=own``. ``options``
    gives all options' defaults by their dotted names.

    Raises:
        UserError: an argument is not UTF-8.
    """
    for argument in arguments:
        if re.search("[\ud800-\udfff]", argument):
            raise UserError(f"{argument} is not UTF-8, and no config could hold it: rename it.")
    multirun = not {"-m", "--multirun"}.isdisjoint(arguments)
    own = any(argument.startswith("model._target_=") for argument in arguments)
    if own and not any(argument.startswith("model=") for argument in arguments):
        arguments = [*arguments, "model=own"]
    return [_as_typed(argument, multirun, options) for argument in arguments]


def _as_typed(argument: str, multirun: bool, options: Callable[[], Mapping[str, Any]]) -> str:
    key, _, value = argument.partition("=")
    option = key.lstrip("+")
    kind = option.rpartition(".")[2]
    if value.startswith("{") and "_target_" in value and "." in key and key in options():
        return f"++{argument}"
    if not value or kind not in PATHS | TEXTS | LISTS or (kind in TEXTS and _parsed(argument)):
        return argument

    there = _is_there(value)
    items = [value]
    if not there and kind in LISTS and value[0] == "[":
        if value[-1] != "]" or "],[" in value:
            return argument
        items = ITEM.findall(value[1:-1])[:-1]
    elif (not there and value == "null") and (kind in NULLABLE or options().get(option) is None):
        return argument
    elif not there and multirun and "," in value:
        several = ITEM.findall(value)[:-1]
        items = several if all(_is_there(item.strip("'\"")) for item in several) else items
    text = ",".join(_typed(item, there) for item in items)
    return f"{key}=[{text}]" if kind in LISTS else f"{key}={text}"


def setting(name: str, value: Any) -> str:
    """Return ``name=value`` in Hydra's grammar: of a text, a path, a number, null, or a list."""
    return f"{name}={_spelled(value)}"


def shell(*arguments: str) -> str:
    """Return arguments as they are typed into a shell."""
    return subprocess.list2cmdline(arguments) if os.name == "nt" else shlex.join(arguments)


def command_for(verb: str, *arguments: str) -> str:
    """Return the command that runs ``scripts/<verb>.py`` from where this one was started."""
    here = Path(sys.argv[0]).parent
    folder = here if here.name == "scripts" else Path("scripts")
    return shell("python", (folder / f"{verb}.py").as_posix(), *arguments)


def command_again(verb: str, options: Sequence[str], *more: str) -> str:
    """Return the command with the options of a stored one, which may be a stranger's.

    Of those that were not typed just now, what names code or a place to write to is left out, and a
    comment says so.
    """
    known = [option for option in options if option in sys.argv or _is_harmless(option)]
    left_out = len(options) - len(known)
    note = f"  # without {left_out} stored option(s) that name code or places: read them first"
    return command_for(verb, *known, *more) + (note if left_out else "")


def _is_harmless(option: str) -> bool:
    if option == "-m":
        return True
    if option.lstrip("+~").startswith("hydra"):
        return bool(LAUNCHER.fullmatch(option))
    kind = option.partition("=")[0].lstrip("+").rpartition(".")[2]
    is_plain = CHOICE.fullmatch(option) or OPTION.fullmatch(option)
    return bool(is_plain) and kind not in PATHS - READ


def data_options() -> list[str]:
    """Return the options of data of this command, for another on the same data."""
    names = ("data=", "data.", "+data.", "++data.")
    return [argument for argument in sys.argv[1:] if argument.startswith(names)]


def leaving_out(paths: Iterable[str]) -> str:
    """Return the option, for a shell, that leaves out pictures, as well as what is left out now."""
    given = [_parsed(text) for text in data_options() if text.startswith("data.exclude=")]
    before: Any = given[-1].value() if given and given[-1] else []
    patterns = [re.sub(r"[*?[]", r"[\g<0>]", path) for path in paths]
    return shell(setting("data.exclude", [*before, *patterns]))


def require_given(cfg: DictConfig, verb: str, **examples: str) -> None:
    """Refuse a command that lacks one of these options; ``examples`` are values of them."""
    for option in examples:
        if OmegaConf.is_missing(cfg, option):
            example = command_for(verb, *(f"{name}={value}" for name, value in examples.items()))
            raise UserError(f"{option}= is missing (--help tells more):\n  {example}")


def require_suffix(name: str, value: object, suffix: str) -> None:
    """Refuse a file's name that promises something else than what is written; None is none."""
    if value is not None and Path(str(value)).suffix.lower() != suffix:
        raise UserError(f"{name}={value} should end in {suffix}, since that is what is written.")


def _is_there(text: str) -> bool:
    return os.path.lexists(os.path.expanduser(text))  # noqa: PTH111  of any text, without an error


def _typed(text: str, there: bool) -> str:
    if not there and text[:1] in ("'", '"') and _parsed(f"x={text}"):
        return text
    text = os.path.expanduser(text)  # noqa: PTH111  a Path would drop ./ and a slash at the end
    return _where_needed(_escaped(text) if there else text)


def _spelled(value: Any) -> str:
    if isinstance(value, list | tuple):
        items = (_quoted(_escaped(v)) if isinstance(v, str) else _spelled(v) for v in value)
        return f"[{','.join(items)}]"
    if isinstance(value, str | Path):
        return _where_needed(_escaped(str(value)))
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _escaped(text: str) -> str:
    """Return a text that OmegaConf reads without an interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _where_needed(text: str) -> str:
    """Return a text in quotes, unless Hydra reads it without them."""
    override = None if text[:1] == "~" else _parsed(f"x={text}")
    plain = override and not override.is_sweep_override() and override.value() == text
    return text if plain else _quoted(text)


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()


def _parsed(argument: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
