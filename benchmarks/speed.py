"""Our training path against others, on one processor: speed, time to the metrics, and memory.

    python benchmarks/speed.py
        a generated fold of MSLD v2.0's size, 8,070 JPEGs of 224 x 224
    python benchmarks/speed.py --data DIR data=msld_v1
        a tree made by scripts/make_folds.py
    python benchmarks/speed.py --network resnet18 --size 224 --ways ours usual bare --batch-size 32
    python benchmarks/speed.py --network tf_efficientnet_lite0 --library timm --size 224 --ways …

All train one network, LeNet at 32 x 32 unless told otherwise, on the same files, alternating, each
time in a new process. ``ours`` is scripts/train.py as it is, which decodes the pictures anew in
each round; ``usual`` is lightning_usual.py; of the others see plain_loops.py. Our own kernels
convolve in ``ours`` and ``bare``, torch's in the others, ``bare torch`` among them.

An epoch of ``ours`` and ``usual`` is training, validation, metrics, TensorBoard and checkpoint;
plain loops only train. The first epoch is left out (it starts workers and fills caches), and the
last, which runs into the end. ``limit`` is what the matrix product of this machine would allow, for
as many operations as torch's convolutions take; ``import torch`` is what of the memory, that of the
largest process, is torch itself.
"""

import itertools
import statistics
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import measuring
from measuring import HERE, Run, epochs_of, shown, spread
from mpoxcv.report.figures import COLOURS

WAYS = ("ours", "usual", "bare", "bare torch", "timm", "original")
ORIGINAL_BATCH = 4
# by way: the process, and the times that it wrote
Rounds = dict[str, list[tuple[Run, dict[str, Any]]]]


def measure(root: Path, folder: Path, ways: list[str], arguments: Any) -> Rounds:
    """Run every way once a round."""
    fold = str(arguments.fold)
    epochs = str(arguments.epochs + 2)
    network = [arguments.network, str(arguments.size), arguments.library]
    options = [*arguments.options]
    if arguments.network != "lenet":
        options += [f"model={arguments.library}", f"model.name={arguments.network}"]
        options += [f"data.image_size={arguments.size}"]

    def once(way: str, number: int) -> tuple[Run, dict[str, Any]]:
        out = folder / f"{way.replace(' ', '-')}{number}"
        out.mkdir()
        size = str(ORIGINAL_BATCH if way == "original" else arguments.batch_size)
        if way == "torch":
            return measuring.run("-c", "import torch"), {}
        if way == "ours":
            recipe = [f"fold={fold}", f"data.batch_size={size}", f"trainer.max_epochs={epochs}"]
            return measuring.train(root, out, Path(f"{out}-cache"), *recipe, *options)

        place = (root, fold, size, epochs, out)
        if way == "usual":
            process = measuring.run(HERE / "lightning_usual.py", *place, *network[:2])
        else:
            more = network if way == "limit" else []
            if way.startswith("bare"):
                more = [f"data.cache_dir={folder}/cache", *options]
            if way == "bare torch":
                more += ["model.own_kernels=false"]
            process = measuring.run(HERE / "plain_loops.py", way.split()[0], *place, *more)
        return process, measuring.times_of(out)

    jobs = {way: lambda number, way=way: once(way, number) for way in ("torch", "limit", *ways)}
    return measuring.alternate(jobs, arguments.rounds)


def summarise(rounds: Rounds, epochs: int) -> dict[str, Any]:
    """Return medians and spreads; ratios are taken round by round, to the first way."""
    rounds = dict(rounds)
    torch_mib = spread(run.mib for run, _ in rounds.pop("torch"))
    machine = [times for _, times in rounds.pop("limit")]
    allowed = [1000 * times["gflops"] / times["mflop_a_picture"] for times in machine]
    limit = {
        "gflops": spread(times["gflops"] for times in machine),
        "mflop_a_picture": machine[0]["mflop_a_picture"],
        "pictures_a_second": spread(allowed),
    }

    written = [times for results in rounds.values() for _, times in results]
    seen = {(times["pictures"], times["digest"]) for times in written}
    if len(seen) > 1:
        raise SystemExit(f"The ways did not train on the same pictures: {seen}")
    pictures = seen.pop()[0]
    timed = {
        way: [epochs_of(times)[:epochs] for _, times in results] for way, results in rounds.items()
    }
    first = [statistics.median(seconds) for seconds in next(iter(timed.values()))]

    ways: dict[str, dict[str, Any]] = {}
    for way, results in rounds.items():
        seconds = list(itertools.chain(*timed[way]))
        middle = statistics.median(seconds)
        medians = [statistics.median(values) for values in timed[way]]
        wall = [run.seconds for run, _ in results]
        extrapolated = [value + (50 - epochs - 2) * middle for value in wall]
        ways[way] = {
            "seconds_an_epoch": spread(seconds),
            "pictures_a_second": spread(pictures / value for value in seconds),
            "share_of_limit": round(pictures / middle / limit["pictures_a_second"]["median"], 4),
            "over_first_way": spread(a / b for a, b in zip(medians, first, strict=True)),
            "wall_s": spread(wall),
            "wall_s_50_epochs_extrapolated": spread(extrapolated),
            "peak_mib": spread(run.mib for run, _ in results),
        }
        # of the epoch the training steps alone
        if "steps" in results[0][1]:
            pairs = [zip(times["epochs"], times["steps"], strict=True) for _, times in results]
            steps = [[end - begin for begin, end in epoch][1 : epochs + 1] for epoch in pairs]
            ways[way]["seconds_of_steps"] = spread(itertools.chain(*steps))
    return {"pictures": pictures, "limit": limit, "import_torch_mib": torch_mib, "ways": ways}


def chart(result: dict[str, Any]) -> Figure:
    """Draw pictures a second beside the limit, and the time to the metrics and the memory."""
    conditions = result["conditions"]
    title = f"{conditions['network']}, {result['pictures']:,} {conditions['data']}"
    figure = measuring.new_figure(title, conditions["synthetic"], 11, 3.6)
    names = list(result["ways"])
    limit = result["limit"]["pictures_a_second"]
    torch_mib = result["import_torch_mib"]
    panels = (
        ("pictures_a_second", "training pictures a second", limit, "matrix product"),
        ("wall_s_50_epochs_extrapolated", "s for 50 epochs, from Enter (extrapolated)", None, ""),
        ("peak_mib", "peak memory of the largest process, MiB", torch_mib, "import torch"),
    )
    colours = [COLOURS[0], *[COLOURS[5]] * (len(names) - 1)]
    style = {"xytext": (2, 6), "textcoords": "offset points", "fontsize": 8}
    all_axes = figure.subplots(1, 3, sharey=True)
    for axes, (key, label, line, line_name) in zip(all_axes, panels, strict=True):
        values = [result["ways"][name][key] for name in names]
        middle = [value["median"] for value in values]
        below = [value["median"] - value["min"] for value in values]
        above = [value["max"] - value["median"] for value in values]
        axes.barh(names, middle, xerr=[below, above], color=colours, capsize=3)
        for place, value in enumerate(middle):
            axes.annotate(f" {value:,.0f}", (value, place), **style)
        if line:
            axes.axvline(line["median"], color="black", linestyle="--")
            label += f"\n(dashed: {line_name}, {line['median']:,.0f})"
        axes.locator_params(axis="x", nbins=5)
        largest = max([*middle, line["median"]] if line else middle)
        axes.set(xlabel=label, xlim=(0, 1.25 * largest))
        axes.grid(axis="x", alpha=0.3)
    figure.axes[0].invert_yaxis()
    return figure


def main() -> None:
    parser = measuring.parser(__doc__, "speed.json", rounds=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs a round")
    parser.add_argument(
        "--network", default="lenet", help="or one of the library, such as resnet18"
    )
    parser.add_argument("--library", default="torchvision", choices=("torchvision", "timm"))
    parser.add_argument("--size", type=int, default=32, help="pixels a side that it takes")
    to_first = "ratios are to the first"
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, help=to_first)
    arguments = parser.parse_intermixed_args()
    if arguments.network != "lenet" and {"bare torch", "timm", "original"} & set(arguments.ways):
        parser.error("bare torch, timm and original train LeNet alone: --ways ours usual bare")
    ways = [way for way in arguments.ways if way != "timm" or find_spec("timm")]
    if len(ways) < len(arguments.ways):
        hint = "its loader is left out (uv pip install timm)."
        print(f"timm is not installed: {hint}", file=sys.stderr)

    result = measuring.conditions()
    with tempfile.TemporaryDirectory() as folder:
        root, conditions = measuring.fold_tree(arguments, Path(folder))
        size = f"{arguments.size} x {arguments.size}"
        result["conditions"] = conditions | {
            "network": f"{arguments.network} at {size}",
            "batch_size": {"original": ORIGINAL_BATCH, "others": arguments.batch_size},
            "epochs": {"run": arguments.epochs + 2, "timed": arguments.epochs},
        }
        result |= summarise(measure(root, Path(folder), ways, arguments), arguments.epochs)

    rows = [
        [way, shown(r["seconds_an_epoch"]), f"{r['pictures_a_second']['median']:,.0f}", f"{r['share_of_limit']:.1%}",
         shown(r["over_first_way"]), shown(r["wall_s"], 1), f"{r['wall_s_50_epochs_extrapolated']['median']:,.0f}",
         shown(r["peak_mib"], 0)]
        for way, r in result["ways"].items()
    ]  # fmt: skip
    limit = result["limit"]
    title = (
        f"{result['pictures']:,} {result['conditions']['data']}, batch {arguments.batch_size}: median (smallest-largest). "
        f"Limit: {limit['gflops']['median']:,.0f} GFLOP/s at {limit['mflop_a_picture']:.2f} MFLOP a picture = "
        f"{limit['pictures_a_second']['median']:,.0f} pictures/s. Import torch: {shown(result['import_torch_mib'], 0)} MiB"
    )
    columns = ["way", "s an epoch", "pictures/s", "of limit", f"x {ways[0]}"]
    columns += [f"wall s, {arguments.epochs + 2} epochs", "50 epochs (extrapolated)", "peak MiB"]
    measuring.report(arguments.out, result, title, columns, rows, chart(result))


if __name__ == "__main__":
    main()
