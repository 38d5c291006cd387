"""How the time of scripts/train.py grows: with the pictures, the runs (folds x seeds), their size.

    python benchmarks/growth.py [--pictures 1000 8000 40000] [--runs 1 5 25 50]
        [--sizes 32 64 128 224] [options of train.py]

On generated JPEGs; wall times are from Enter to the last file, and the pictures are decoded anew
each time. A multirun is run under Hydra's own launcher, one run after another, and in lockstep.
LeNet takes 32 pixels only: sizes are tried with another network.
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
from measuring import epochs_of, new_figure, shown, spread
from mpoxcv.datasets.published import SPLIT_COUNTS
from mpoxcv.datasets.synthetic import write_synthetic
from mpoxcv.report.figures import COLOURS, STYLES

FOLD = 3
# what grows: label of the axis, what is drawn over it, its label
PANELS = {
    "pictures": ("training pictures", "s_an_epoch", "s an epoch"),
    "runs": ("runs (folds x seeds)", "wall_s", "s, from Enter to the summary"),
    "size": ("pixels a side", "s_an_epoch", "s an epoch"),
}
# what grows, how far, and the network or launcher
Cell = tuple[str, int, str]


def jobs_of(
    arguments: argparse.Namespace, folder: Path
) -> dict[Cell, Callable[[int], dict[str, float]]]:
    """Generate the data, and return what to measure."""

    def once(cell: Cell, root: Path, options: list[str], number: int) -> dict[str, float]:
        out = folder / f"{'-'.join(map(str, cell))}-{number}"
        timed = cell[0] != "runs"
        options = [*options, *arguments.options]
        run, times = measuring.train(root, out, Path(f"{out}-cache"), *options, timed=timed)
        row = {"wall_s": run.seconds, "peak_mib": run.mib}
        if timed:
            row |= {"s_an_epoch": statistics.median(epochs_of(times))}
            row |= {"pictures": times["pictures"]}
        return row

    def tree(pictures: int, *folds: int) -> Path:
        copies = max(1, round(pictures / SPLIT_COUNTS[FOLD]["train"]) - 1)
        root = folder / f"{copies}-{len(folds)}"
        write_synthetic(root, size=arguments.file_size, copies=copies, folds=folds)
        return root

    jobs: dict[Cell, Callable[[int], dict[str, float]]] = {}

    def add(cell: Cell, root: Path, *options: str) -> None:
        jobs[cell] = partial(once, cell, root, list(options))

    one_fold = (f"fold={FOLD}", f"trainer.max_epochs={arguments.epochs + 2}")
    for pictures in arguments.pictures:
        add(("pictures", pictures, "lenet"), tree(pictures, FOLD), *one_fold)

    network = ("model=torchvision", f"model.name={arguments.network}")
    for size in arguments.sizes:
        options = (*one_fold, *network, f"data.image_size={size}")
        add(("size", size, arguments.network), tree(arguments.size_pictures, FOLD), *options)

    length = f"trainer.max_epochs={arguments.run_epochs}"
    for runs, launcher in itertools.product(arguments.runs, ("basic", "lockstep")):
        options = (*grid(runs), f"hydra/launcher={launcher}", length)
        add(("runs", runs, launcher), tree(arguments.run_pictures, *range(1, 6)), *options)
    return jobs


def grid(runs: int) -> tuple[str, str]:
    """Return a multirun's folds and seeds: up to five folds of one seed, or all five of several."""
    folds = min(runs, 5)
    if runs < 1 or runs % folds:
        raise SystemExit(
            f"--runs {runs} should be at most 5, or five folds times a number of seeds."
        )
    seeds = runs // folds
    return (
        f"fold={','.join(map(str, range(1, folds + 1)))}",
        f"seed={','.join(map(str, range(1, seeds + 1)))}",
    )


def summarise(rounds_of: dict[Cell, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Return one row a cell, with the spread of every number over the rounds."""
    rows = []
    for (grows, to, way), rounds in rounds_of.items():
        spreads = {key: spread(numbers[key] for numbers in rounds) for key in rounds[0]}
        rows.append({"grows": grows, "to": to, "way": way, **spreads})
    return rows


def chart(cells: list[dict[str, Any]]) -> Figure:
    """Draw a panel for each thing that grows."""
    figure = new_figure("How time grows", True, 11, 4)
    panels = zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True)
    for axes, (grows, (x_label, key, y_label)) in panels:
        shown_cells = [cell for cell in cells if cell["grows"] == grows]
        for number, way in enumerate(dict.fromkeys(cell["way"] for cell in shown_cells)):
            line = [cell for cell in shown_cells if cell["way"] == way]
            reached = [cell["to"] for cell in line]
            middle = [cell[key]["median"] for cell in line]
            below = [cell[key]["median"] - cell[key]["min"] for cell in line]
            above = [cell[key]["max"] - cell[key]["median"] for cell in line]
            style = {"color": COLOURS[number], "linestyle": STYLES[number], "marker": "o"}
            axes.errorbar(reached, middle, [below, above], label=way, capsize=3, **style)
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
        if shown_cells:
            axes.legend(fontsize=8, loc="upper left")
    return figure


def main() -> None:
    parser = measuring.parser(__doc__, "growth.json", rounds=3, data=False)
    add = parser.add_argument
    add("--pictures", nargs="*", type=int, default=[1000, 8000, 40000], help="about as many")
    add("--epochs", type=int, default=3, help="timed epochs, for pictures and sizes")
    add("--runs", nargs="*", type=int, default=[1, 5, 25, 50])
    add("--run-pictures", type=int, default=8000)
    add("--run-epochs", type=int, default=5)
    add("--sizes", nargs="*", type=int, default=[32, 64, 128, 224])
    add("--size-pictures", type=int, default=1000)
    add("--network", default="shufflenet_v2_x0_5", help="of torchvision, for the sizes")
    add("--file-size", type=int, default=224, help="pixels a side of the JPEGs")
    arguments = parser.parse_intermixed_args()

    conditions = {key: value for key, value in vars(arguments).items() if key != "out"}
    result = measuring.conditions() | {"conditions": conditions}
    with tempfile.TemporaryDirectory() as folder:
        rounds_of = measuring.alternate(jobs_of(arguments, Path(folder)), arguments.rounds)
        result["cells"] = summarise(rounds_of)

    rows = [
        [f"{cell['to']} {PANELS[cell['grows']][0]}", cell["way"], shown(cell["wall_s"], 1),
         shown(cell["s_an_epoch"]) if "s_an_epoch" in cell else f"{cell['wall_s']['median'] / cell['to']:.1f} a run",
         shown(cell["peak_mib"], 0)]
        for cell in result["cells"]
    ]  # fmt: skip
    size = f"{arguments.file_size} x {arguments.file_size}"
    title = f"Generated JPEGs of {size}: median (smallest-largest)"
    columns = ["", "with", "wall s", "s an epoch", "peak MiB"]
    measuring.report(arguments.out, result, title, columns, rows, chart(result["cells"]))


if __name__ == "__main__":
    main()
