"""From Enter to the answer of scripts/train.py, and to its first training step.

What Python and its imports take stands beside it.

    python benchmarks/startup.py [--data DIR --fold 3]

Without ``--data`` on a generated fold of MSLD v2.0's size. The pictures are in the cache already,
and the files in memory. Each time is that of a new process; they alternate.
"""

import tempfile
from pathlib import Path

import measuring
from measuring import TRAIN, shown, spread


def main() -> None:
    arguments = measuring.parser(__doc__, "startup.json", rounds=7).parse_intermixed_args()
    result = measuring.conditions()
    with tempfile.TemporaryDirectory() as folder:
        root, result["conditions"] = measuring.fold_tree(arguments, Path(folder))
        cache = Path(folder) / "cache"

        def first_step(number: int) -> float:
            options = [f"fold={arguments.fold}", "trainer.max_epochs=1", *arguments.options]
            run, times = measuring.train(root, Path(folder) / f"run{number}", cache, *options)
            return times["first_step"] - run.begin

        # fills the cache
        first_step(-1)
        commands: dict[str, tuple[str | Path, ...]] = {
            "python -c pass": ("-c", "pass"),
            "import torch, torchvision, lightning": ("-c", "import torch, torchvision, lightning"),
            "train.py --help": (TRAIN, "--help"),
            "train.py --cfg job": (TRAIN, "--cfg", "job"),
        }
        jobs = {
            name: lambda _, command=command: measuring.run(*command).seconds
            for name, command in commands.items()
        }
        jobs["train.py, to its first step"] = first_step
        seconds = measuring.alternate(jobs, arguments.rounds)

    result["seconds"] = {name: spread(values) for name, values in seconds.items()}
    rows = [[name, shown(value)] for name, value in result["seconds"].items()]
    title = "Start-up: median (smallest-largest)"
    measuring.report(arguments.out, result, title, ["command", "s"], rows, None)


if __name__ == "__main__":
    main()
