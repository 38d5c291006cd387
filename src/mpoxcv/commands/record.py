"""How a run began: written once into its folder, and compared whenever it goes on."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

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
# of a beginning: a run does not go on with others; differences of the rest are only told
DECISIVE = ("options", "data")
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
    beginning = read_json(run / BEGINNING)
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


def check_options(
    options: Mapping[str, str], folder: Path, goes_on: bool, typed: Sequence[str]
) -> None:
    """Refuse to overwrite a run, or to go on with it under other options; nothing is written.

    Args:
        options: of :func:`options_of`.
        folder: of the run; one that holds none is as good as any.
        goes_on: whether to go on with what is there was asked for.
        typed: the command's options.

    Raises:
        UserError: says what differs, and which commands give what was asked for.
    """
    then = read_beginning(folder)
    if not then:
        return
    if not goes_on:
        hint = f"Choose another folder, or go on with it:\n  {_going_on(folder)}"
        raise UserError(f"{folder} holds a run already. {hint}")
    if differing := differences(then["options"], options):
        state = "a finished run" if finished_metrics(folder) is not None else "a run"
        new = [o for o in typed if option_name(o) not in ("resume", "ckpt_path")]
        raise UserError(
            f"{folder} holds {state} with other options:\n{told(differing)}\n"
            "A run keeps its options to its end: a schedule that is made for some fits no others. Train "
            f"with these in a folder of their own:\n  {command(new)}\n"
            f"Go on with it as it began:\n  {_going_on(folder)}"
        )


def begin(folder: Path, now: Mapping[str, Any], before: Path | None = None) -> None:
    """Write how a run begins, once; compare a run that goes on with how it began.

    Other versions of code or packages are told on stderr (provenance.json has both).

    Args:
        folder: of the run.
        now: ``options``, ``data`` and more kinds, each a mapping of names to plain values.
        before: folder of the run whose checkpoint this one goes on from.

    Raises:
        UserError: the run had other options or data: says which.
    """
    for run in dict.fromkeys((folder, before or folder)):
        then = read_beginning(run)
        kinds = then.keys() & now.keys()
        differing = {kind: differences(then[kind], now[kind]) for kind in kinds}
        refused = {f"{k}.{n}": p for k in DECISIVE for n, p in differing.get(k, {}).items()}
        if refused:
            raise UserError(
                f"What {run} began with has changed since:\n{told(refused)}\n"
                "What it has learnt is of that, and it does not go on with anything else. Put it back as it "
                "was (data.root=DIR where the data have moved), or train anew in another folder."
            )
        versions = [
            f"{n} {p[0]} then, {p[1]} now" for d in differing.values() for n, p in d.items()
        ]
        if versions:
            text = "began with other versions, and its last digits may be others"
            print(f"{run} {text}: {'; '.join(versions)}.", file=sys.stderr)
    if not (folder / BEGINNING).is_file():
        write_json(folder / BEGINNING, now)


def command(options: Sequence[str], *switches: str) -> str:
    """Return a command with these options."""
    return f"python {shlex.join([sys.argv[0], *switches, *options])}"


def _going_on(folder: Path) -> str:
    """Return the command that goes on with a run."""
    stored = folder / ".hydra" / "overrides.yaml"
    options = [str(option) for option in read_plain(stored)] if stored.is_file() else []
    again = [o for o in options if option_name(o) not in ("resume", "ckpt_path")]
    return command([*again, f"hydra.run.dir={folder}", "resume=true"])


def option_name(override: str) -> str:
    """Return the option that an override on the command line sets."""
    return override.lstrip("+~").partition("=")[0]
