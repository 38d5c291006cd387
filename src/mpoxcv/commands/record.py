"""How a run began: written once into its folder, and compared whenever it goes on."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mpoxcv.command_line import command_for, setting
from mpoxcv.errors import UserError, shorten
from mpoxcv.storage.files import read_json, read_metrics, write_json
from mpoxcv.storage.stored_config import read_plain

BEGINNING = "beginning.json"
# options that tell runs apart in one experiment, so that a run must keep them
OWN = frozenset({"fold", "seed", "name", "model.own_kernels"})
# where the data's description lies (the data themselves are compared), and what changes no result
MAY_DIFFER = frozenset({
    "data.split_file", "data.patients", "trainer.enable_progress_bar", "hparams_search.trials",
})  # fmt: skip
# of a beginning: a run does not go on with others
DECISIVE = ("options", "data")
# options that say where a run lies and whether it goes on
PLACE = ("resume", "hydra.run.dir", "hydra.sweep.dir")
ABSENT = "absent"


def options_of(config: DictConfig | Mapping[str, Any]) -> dict[str, str]:
    """Return the options that results hang on, by dotted names, as text; null is left out.

    Interpolations stay as they are written, so that no folder's path gets in, but for ``${oc.…}``,
    which may give another value in another process.
    """
    # here, since pandas takes a second
    from mpoxcv.evaluation.runs import flat, tells_apart

    plain = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
    options = {}
    for name, value in flat(plain).items():
        if name in MAY_DIFFER or not (tells_apart(name) or name in OWN) or value is None:
            continue
        if isinstance(config, DictConfig) and "${oc." in str(value):
            value = OmegaConf.select(config, name)
        options[name] = value if isinstance(value, str) else json.dumps(value, default=str)
    return options


def read_beginning(run: Path) -> dict[str, Any]:
    """Return how a run began, empty if it has not; of an older version's run the options alone."""
    content = read_json(run / BEGINNING)
    beginning = {kind: part for kind, part in content.items() if isinstance(part, dict)}
    config = run / ".hydra" / "config.yaml"
    begun = any((run / name).exists() for name in ("provenance.json", "checkpoints", "study.db"))
    if not beginning and begun and config.is_file():
        beginning = {"options": options_of(read_plain(config))}
    return beginning


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs, by name: the value then and the value now, ``absent`` where none is."""
    pairs = {name: (then.get(name, ABSENT), now.get(name, ABSENT)) for name in {**then, **now}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def told(differing: Mapping[str, tuple[Any, Any]]) -> str:
    """Return differences as lines of text."""
    lines = [f"{name}: {then} then, {now} now" for name, (then, now) in differing.items()]
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
        UserError: says what differs, and which commands give what was asked for.
    """
    if not goes_on and read_beginning(folder):
        hint = f"Choose another folder, or go on with it:\n  {_going_on(folder)}"
        raise UserError(f"{folder} holds a run already. {hint}")
    _compare(folder, {"options": options})


def begin(folder: Path, now: Mapping[str, Mapping[str, Any]], before: Path | None = None) -> None:
    """Write how a run begins, once; compare what goes on with how it, or ``before``, began.

    ``now`` has ``options``, ``data`` and ``versions``. Other versions are told on stderr, and
    provenance.json has both.

    Raises:
        UserError: options or data are others.
    """
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
        print(f"{run} {text}:\n{told(dict(pairs))}", file=sys.stderr)


def _compare(run: Path, now: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse options and data that are not those that a run began with, if it has begun."""
    then = read_beginning(run)
    kinds = [kind for kind in DECISIVE if kind in then and kind in now]
    differing = {kind: differences(then[kind], now[kind]) for kind in kinds}
    if not any(differing.values()):
        return
    state = "a finished run" if finished_metrics(run) is not None else "a run"
    what = " and ".join(kind for kind in kinds if differing[kind])
    lines = told({name: pair for pairs in differing.values() for name, pair in pairs.items()})
    raise UserError(
        f"{run} holds {state} with other {what}:\n{lines}\n"
        "A run keeps its options and data to its end: what it has learnt, and its schedule, fit no "
        f"others. Train with these in a folder of their own:\n  {_again(*elsewhere(sys.argv[1:]))}\n"
        f"Go on with it as it began (data.root=DIR where its data have moved):\n  {_going_on(run)}"
    )


def _going_on(folder: Path) -> str:
    """Return the command that goes on with a run."""
    stored = folder / ".hydra" / "overrides.yaml"
    options = [str(option) for option in read_plain(stored)] if stored.is_file() else []
    options = [o for o in sys.argv[1:] if o.startswith("hydra.searchpath")] + elsewhere(options)
    return _again(*options, setting("hydra.run.dir", folder), "resume=true")


def _again(*options: str) -> str:
    """Return this command with other options."""
    return command_for(Path(sys.argv[0]).stem, *options)


def elsewhere(options: Sequence[str]) -> list[str]:
    """Return a command's options without those that say where its run lies and that it goes on."""
    names = {option: option.lstrip("+~").partition("=")[0] for option in options}
    return [o for o in options if names[o] not in PLACE and o != "ckpt_path=last"]
