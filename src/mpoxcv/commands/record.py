"""How a run began: written once into its folder, and compared whenever it goes on."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mpoxcv.command_line import command_again, command_for, setting
from mpoxcv.errors import UserError, shorten
from mpoxcv.storage.files import read_json, read_metrics, require_no_links, write_json
from mpoxcv.storage.stored_config import read_plain
from mpoxcv.terminal import warn

BEGINNING = "beginning.json"
# options that tell runs apart in one experiment, so that a run must keep them
OWN = frozenset({"fold", "seed", "name", "model.own_kernels"})
# where the data's description lies (the data themselves are compared), and what changes no result
MAY_DIFFER = frozenset({
    "data.split_file", "data.patients", "trainer.enable_progress_bar", "hparams_search.trials",
})  # fmt: skip
# characters of a value that is told
LONGEST = 200
# options that say where a run lies and whether it goes on
PLACE = ("resume", "hydra.run.dir", "hydra.sweep.dir")


def options_of(config: DictConfig) -> dict[str, str]:
    """Return the options that results hang on, by dotted names, as text; null is left out.

    Interpolations stay as they are written, so that no folder's path gets in, but for ``${oc.…}``,
    which may give another value in another process.
    """
    # here, since pandas takes a second
    from mpoxcv.evaluation.runs import flat, tells_apart

    options = {}
    for name, value in flat(OmegaConf.to_container(config)).items():
        if name in MAY_DIFFER or not (tells_apart(name) or name in OWN) or value is None:
            continue
        if "${oc." in str(value):
            value = OmegaConf.select(config, name)
        options[name] = value if isinstance(value, str) else json.dumps(value, default=str)
    return options


def read_beginning(run: Path) -> dict[str, Any]:
    """Return how a run began, empty if it has not."""
    content = read_json(run / BEGINNING)
    return {kind: part for kind, part in content.items() if isinstance(part, dict)}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs, by name: the value then and the value now, ``absent`` where none is."""
    pairs = {name: (then.get(name, "absent"), now.get(name, "absent")) for name in {**then, **now}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def told(differing: Mapping[str, tuple[Any, Any]]) -> str:
    """Return differences as lines of text."""
    pairs = {name: [str(value)[:LONGEST] for value in pair] for name, pair in differing.items()}
    lines = [f"{name}: {then} then, {now} now" for name, (then, now) in pairs.items()]
    return shorten(lines, 10)


def finished_metrics(folder: Path) -> dict[str, float | None] | None:
    """Return metrics.json of a run's folder if the run is finished."""
    finished = read_json(folder / "provenance.json").get("status") == "finished"
    metrics = folder / "metrics.json"
    return read_metrics(metrics) if finished and metrics.is_file() else None


def check(options: Mapping[str, str], folder: Path, goes_on: bool) -> None:
    """Refuse to overwrite a run, or, with ``goes_on``, to do so under other options.

    Nothing is written; a folder without a run passes. ``options`` are those of :func:`options_of`.

    Raises:
        UserError: a link leads out of the folder; or something differs: says what, and which
            commands give what was asked for.
    """
    require_no_links(folder)
    if not goes_on and any((folder / name).exists() for name in (BEGINNING, "provenance.json")):
        hint = f"Choose another folder, or go on with it:\n  {_going_on(folder)}"
        raise UserError(f"{folder} holds a run already. {hint}")
    _compare(folder, {"options": options})


def begin(folder: Path, now: Mapping[str, Mapping[str, Any]], before: Path | None = None) -> None:
    """Write how a run begins, once; compare what goes on with how it, or ``before``, began.

    ``now`` has ``options``, ``data``, ``versions`` and, where there are, ``weights``. Other
    versions are told on stderr, and provenance.json has both.

    Raises:
        UserError: options, data or weights are others.
    """
    folder = folder.absolute()
    for run in dict.fromkeys((folder, before or folder)):
        _compare(run, now)
        tell(run, {"versions": now["versions"]})
    if not (folder / BEGINNING).is_file():
        write_json(folder / BEGINNING, now)


def tell(run: Path, now: Mapping[str, Mapping[str, Any]]) -> None:
    """Tell on stderr what of ``now`` is not what a run began with."""
    then = read_beginning(run)
    pairs = [pair for k in now if k in then for pair in differences(then[k], now[k]).items()]
    if pairs:
        text = "began with other data or versions, and results may differ"
        warn(f"{run} {text}:\n{told(dict(pairs))}")


def _compare(run: Path, now: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse options and data that are not those that a run began with, if it has begun."""
    then = read_beginning(run)
    kinds = [kind for kind in ("options", "data", "weights") if kind in then and kind in now]
    differing = {kind: pairs for kind in kinds if (pairs := differences(then[kind], now[kind]))}
    if not differing:
        return
    state = "a finished run" if finished_metrics(run) is not None else "a run"
    lines = told({name: pair for pairs in differing.values() for name, pair in pairs.items()})
    new = command_for(Path(sys.argv[0]).stem, *elsewhere(sys.argv[1:]))
    raise UserError(
        f"{run} holds {state} with other {' and '.join(differing)}:\n{lines}\n"
        "A run keeps its options and data to its end: what it has learnt, and its schedule, fit no "
        f"others. Train with these in a folder of their own:\n  {new}\n"
        f"Go on with it as it began (data.root=DIR where its data have moved):\n  {_going_on(run)}"
    )


def _going_on(folder: Path) -> str:
    """Return the command that goes on with a run."""
    stored = folder / ".hydra" / "overrides.yaml"
    options = [str(option) for option in read_plain(stored)] if stored.is_file() else []
    options = [o for o in sys.argv[1:] if o.startswith("hydra.searchpath")] + elsewhere(options)
    where = setting("hydra.run.dir", folder)
    return command_again(Path(sys.argv[0]).stem, options, where, "resume=true")


def elsewhere(options: Sequence[str]) -> list[str]:
    """Return a command's options without those that say where its run lies and that it goes on."""
    names = {option: option.lstrip("+~").partition("=")[0] for option in options}
    return [o for o in options if names[o] not in PLACE and o != "ckpt_path=last"]
