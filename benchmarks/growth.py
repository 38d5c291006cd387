"""How the time of scripts/train.py grows with the pictures, with the runs (folds x seeds), and with the size of the pictures.

    python benchmarks/growth.py [--pictures 1000 8000 40000] [--runs 1 5 25 50] [--sizes 32 64 128 224] [options of train.py]

On generated JPEGs; wall times are from Enter to the last file, and the pictures are decoded anew each time. A multirun is run
under Hydra's own launcher, one run after another, and in lockstep. LeNet takes 32 pixels only: sizes are tried with another
network.
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import measuring
from measuring import epochs_of, shown, spread
from mpoxcv.datasets.published import SPLIT_COUNTS
from mpoxcv.datasets.synthetic import write_synthetic
from mpoxcv.report.figures import COLOURS, STYLES, new_figure

FOLD = 3
PANELS = {  # what grows: label of the axis, what is drawn over it, its label
    "pictures": ("training pictures", "s_an_epoch", "s an epoch"),
    "runs": ("runs (folds x seeds)", "wall_s", "s, from Enter to the summary"),
    "size": ("pixels a side", "s_an_epoch", "s an epoch"),
}
Cell = tuple[str, int, str]  # what grows, how far, and the network or launcher


def jobs_of(
    arguments: argparse.Namespace, folder: Path
) -> dict[Cell, Callable[[int], dict[str, float]]]:
    """Generate the data, and return what to measure."""

    def once(cell: Cell, root: Path, options: list[str], number: int) -> dict[str, float]:
        place, timed = folder / f"{'-'.join(map(str, cell))}-{number}", cell[0] != "runs"
        run, times = measuring.train(
            root, place, Path(f"{place}-cache"), *options, *arguments.options, timed=timed
        )
        epoch = (
            {"s_an_epoch": statistics.median(epochs_of(times)), "pictures": times["pictures"]}
            if timed
            else {}
        )
        return {"wall_s": run.seconds, "peak_mib": run.mib, **epoch}

    def tree(pictures: int, *folds: int) -> Path:
        copies = max(1, round(pictures / SPLIT_COUNTS[FOLD]["train"]) - 1)
        root = folder / f"{copies}-{len(folds)}"
        write_synthetic(root, size=arguments.file_size, copies=copies, folds=folds)
        return root

    jobs: dict[Cell, Callable[[int], dict[str, float]]] = {}

    def add(cell: Cell, root: Path, *options: str) -> None:
        jobs[cell] = partial(once, cell, root, list(options))

    one = (f"fold={FOLD}", f"trainer.max_epochs={arguments.epochs + 2}")
    for pictures in arguments.pictures:
        add(("pictures", pictures, "lenet"), tree(pictures, FOLD), *one)
    for size in arguments.sizes:
        network = (
            "model=torchvision",
            f"model.name={arguments.network}",
            f"data.image_size={size}",
        )
        add(("size", size, arguments.network), tree(arguments.size_pictures, FOLD), *one, *network)
    for runs, launcher in itertools.product(arguments.runs, ("basic", "lockstep")):
        many = (
            *grid(runs),
            f"hydra/launcher={launcher}",
            f"trainer.max_epochs={arguments.run_epochs}",
        )
        add(("runs", runs, launcher), tree(arguments.run_pictures, *range(1, 6)), *many)
    return jobs


def grid(runs: int) -> tuple[str, str]:
    """Return a multirun's folds and seeds: up to five folds of one seed, or all five of several."""
    folds = min(runs, 5)
    if runs < 1 or runs % folds:
        raise SystemExit(
            f"--runs {runs} should be at most 5, or five folds times a number of seeds."
        )
    return (
        f"fold={','.join(map(str, range(1, folds + 1)))}",
        f"seed={','.join(map(str, range(1, runs // folds + 1)))}",
    )


def summarise(found: dict[Cell, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Return one row a cell, with the spread of every number over the rounds."""
    return [
        {
            "grows": grows,
            "to": to,
            "way": way,
            **{key: spread(r[key] for r in rounds) for key in rounds[0]},
        }
        for (grows, to, way), rounds in found.items()
    ]


def chart(cells: list[dict[str, Any]]) -> Figure:
    """Draw a panel for each thing that grows."""
    figure = new_figure("How time grows", True, 11, 4)
    for axes, (grows, (x_label, key, y_label)) in zip(
        figure.subplots(1, len(PANELS)), PANELS.items(), strict=True
    ):
        own = [cell for cell in cells if cell["grows"] == grows]
        for number, way in enumerate(dict.fromkeys(cell["way"] for cell in own)):
            line = [cell for cell in own if cell["way"] == way]
            middle = [cell[key]["median"] for cell in line]
            below = [cell[key]["median"] - cell[key]["min"] for cell in line]
            above = [cell[key]["max"] - cell[key]["median"] for cell in line]
            style = {
                "color": COLOURS[number],
                "linestyle": STYLES[number],
                "marker": "o",
                "capsize": 3,
            }
            axes.errorbar([cell["to"] for cell in line], middle, [below, above], label=way, **style)
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
        if own:
            axes.legend(fontsize=8, loc="upper left")
    return figure


def main() -> None:
    parser = measuring.parser(__doc__, "growth.json", rounds=3, data=False)
    parser.add_argument(
        "--pictures", nargs="*", type=int, default=[1000, 8000, 40000], help="about as many"
    )
    parser.add_argument(
        "--epochs", type=int, default=3, help="timed epochs, for pictures and sizes"
    )
    parser.add_argument("--runs", nargs="*", type=int, default=[1, 5, 25, 50])
    parser.add_argument("--run-pictures", type=int, default=8000)
    parser.add_argument("--run-epochs", type=int, default=5)
    parser.add_argument("--sizes", nargs="*", type=int, default=[32, 64, 128, 224])
    parser.add_argument("--size-pictures", type=int, default=1000)
    parser.add_argument(
        "--network", default="shufflenet_v2_x0_5", help="of torchvision, for the sizes"
    )
    parser.add_argument("--file-size", type=int, default=224, help="pixels a side of the JPEGs")
    arguments = parser.parse_intermixed_args()
    result = measuring.conditions() | {
        "conditions": {k: v for k, v in vars(arguments).items() if k != "out"}
    }
    with tempfile.TemporaryDirectory() as folder:
        result["cells"] = summarise(
            measuring.alternate(jobs_of(arguments, Path(folder)), arguments.rounds)
        )
    rows = [
        [f"{cell['to']} {PANELS[cell['grows']][0]}", cell["way"], shown(cell["wall_s"], 1),
         shown(cell["s_an_epoch"]) if "s_an_epoch" in cell else f"{cell['wall_s']['median'] / cell['to']:.1f} a run",
         shown(cell["peak_mib"], 0)]
        for cell in result["cells"]
    ]  # fmt: skip
    title = f"Generated JPEGs of {arguments.file_size} x {arguments.file_size}: median (smallest-largest)"
    measuring.report(
        arguments.out,
        result,
        title,
        ["", "with", "wall s", "s an epoch", "peak MiB"],
        rows,
        chart(result["cells"]),
    )


if __name__ == "__main__":
    main()
