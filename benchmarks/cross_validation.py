"""A whole cross-validation, one fold after another and in lockstep, against the usual way.

It is timed from Enter to its summary.

    python benchmarks/cross_validation.py
        generated folds of MSLD v2.0's size
    python benchmarks/cross_validation.py --data DIR data=msld_v1
        a tree made by scripts/make_folds.py

They alternate, each in a new process, and our own decode the pictures anew. The usual way is
lightning_usual.py: of it, three epochs of the first fold are measured before each of ours, and the
median of those on either side is extrapolated to all folds and epochs, without its start, tests and
figures.
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import measuring
from measuring import HERE, epochs_of, shown, spread
from mpoxcv.report.figures import COLOURS

LAUNCHERS = ("basic", "lockstep")
USUAL = "usual, extrapolated"


def measure(
    root: Path, folder: Path, arguments: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Return by launcher, for every round, the seconds, memory, and usual epochs before it."""

    def once(launcher: str, number: int) -> dict[str, Any]:
        out = folder / f"{launcher}{number}"
        options = [f"fold={','.join(map(str, arguments.folds))}", f"hydra/launcher={launcher}"]
        options += [f"trainer.max_epochs={arguments.epochs}", *arguments.options]
        epochs = usual(root, Path(f"{out}-usual"), arguments)
        run, _ = measuring.train(root, out, Path(f"{out}-cache"), *options, timed=False)
        return {"wall_s": run.seconds, "peak_mib": run.mib, "usual": epochs}

    jobs = {name: lambda number, name=name: once(name, number) for name in LAUNCHERS}
    rounds: dict[str, list[dict[str, Any]]] = measuring.alternate(jobs, arguments.rounds)
    rounds["after"] = [{"usual": usual(root, folder / "after", arguments)}]
    return rounds


def usual(root: Path, out: Path, arguments: argparse.Namespace) -> list[float]:
    """Return the seconds of three epochs of the usual way."""
    out.mkdir()
    numbers = (arguments.folds[0], arguments.batch_size, 5)
    measuring.run(HERE / "lightning_usual.py", root, *map(str, numbers), out)
    return epochs_of(measuring.times_of(out))[:3]


def summarise(
    rounds: Mapping[str, Sequence[Mapping[str, Any]]], epochs: int
) -> dict[str, dict[str, Any]]:
    """Return the spreads over the rounds; ``epochs`` are those of all folds together."""
    order = [
        run for pair in zip(*(rounds[name] for name in LAUNCHERS), strict=True) for run in pair
    ]
    measured = [run["usual"] for run in order] + [rounds["after"][0]["usual"]]
    extrapolated = [epochs * statistics.median([*a, *b]) for a, b in itertools.pairwise(measured)]

    ways: dict[str, dict[str, Any]] = {}
    for place, launcher in enumerate(LAUNCHERS):
        seconds = [run["wall_s"] for run in rounds[launcher]]
        beside = extrapolated[place :: len(LAUNCHERS)]
        ratios = [usual_s / wall_s for wall_s, usual_s in zip(seconds, beside, strict=True)]
        ways[launcher] = {
            "wall_s": spread(seconds),
            "usual_over_this": spread(ratios),
            "peak_mib": spread(run["peak_mib"] for run in rounds[launcher]),
        }
    every = [epoch for part in measured for epoch in part]
    return {**ways, USUAL: {"wall_s": spread(extrapolated), "s_an_epoch": spread(every)}}


def chart(result: Mapping[str, Any]) -> Figure:
    """Draw the seconds, with the ratios beside them."""
    conditions = result["conditions"]
    folds = f"{len(conditions['folds'])} folds"
    title = f"{folds} x {conditions['epochs']} epochs, {conditions['data']}"
    figure = measuring.new_figure(title, conditions["synthetic"], 8, 2.6)
    axes = figure.subplots()
    ways = result["ways"]
    middle = [way["wall_s"]["median"] for way in ways.values()]
    errors = [[m - w["wall_s"]["min"] for m, w in zip(middle, ways.values(), strict=True)],
              [w["wall_s"]["max"] - m for m, w in zip(middle, ways.values(), strict=True)]]  # fmt: skip
    axes.barh([*ways], middle, xerr=errors, color=[COLOURS[0], COLOURS[0], COLOURS[5]], capsize=3)
    for place, way in enumerate(ways.values()):
        text = f" {middle[place]:,.0f} s"
        if "usual_over_this" in way:
            text += f"  (usual is {way['usual_over_this']['median']:.1f} times this)"
        style = {"xytext": (2, 6), "textcoords": "offset points", "fontsize": 8}
        axes.annotate(text, (middle[place], place), **style)
    axes.set(xlabel="s, from Enter to the summary", xlim=(0, 1.2 * max(middle)))
    axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()
    return figure


def main() -> None:
    parser = measuring.parser(__doc__, "cross_validation.json", rounds=3)
    parser.add_argument("--folds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--epochs", type=int, default=50)
    of_usual = "of the usual way; ours is in its recipe"
    parser.add_argument("--batch-size", type=int, default=64, help=of_usual)
    arguments = parser.parse_intermixed_args()

    result = measuring.conditions()
    with tempfile.TemporaryDirectory() as folder:
        root, conditions = measuring.fold_tree(arguments, Path(folder), arguments.folds)
        result["conditions"] = conditions | {"folds": arguments.folds, "epochs": arguments.epochs}
        rounds = measure(root, Path(folder), arguments)
    result["ways"] = summarise(rounds, len(arguments.folds) * arguments.epochs)

    rows = [
        [name, shown(way["wall_s"], 1), shown(way["usual_over_this"], 1) if "usual_over_this" in way else "",
         shown(way["peak_mib"], 0) if "peak_mib" in way else ""]
        for name, way in result["ways"].items()
    ]  # fmt: skip
    title = f"{len(arguments.folds)} folds x {arguments.epochs} epochs, {conditions['data']}: median (smallest-largest)"
    columns = ["", "wall s", "usual / this", "peak MiB"]
    measuring.report(arguments.out, result, title, columns, rows, chart(result))


if __name__ == "__main__":
    main()
