"""On a GPU: the time of five folds' training, and how fast a large network is trained.

    python benchmarks/gpu.py
        generated folds of MSLD v2.0's size
    python benchmarks/gpu.py --trainer cpu --network resnet18 --size 64
        tries the command where there is no GPU

Each in a new process, alternating. Folds are trained one after another and in lockstep, where a
step of all networks is a CUDA graph; their time, from the first training step to the end of the
last, holds validation, metrics, TensorBoard and checkpoints. Of the large network, ``steps`` are
the training steps of an epoch of scripts/train.py, ``epoch`` is all of it; ``card`` is the same
network, optimizer and precision in a bare loop on one batch of random numbers that never leaves
the GPU: what this card allows.
"""

import argparse
import statistics
import subprocess
import tempfile
from pathlib import Path

import measuring
from measuring import HERE, epochs_of, shown, spread

# of the large network, of which the first and the last are left out
EPOCHS = 5


def folds(root: Path, out: Path, arguments: argparse.Namespace, launcher: str) -> dict[str, float]:
    """Return the seconds of a multirun: of its training, and from Enter to the summary."""
    options = [f"fold={','.join(map(str, arguments.folds))}", f"hydra/launcher={launcher}"]
    options += ["+callbacks.timer._target_=epoch_timer.EpochTimer"]
    options += ["+callbacks.timer.file=${output_dir}/times.json"]
    options += [f"trainer={arguments.trainer}", f"trainer.max_epochs={arguments.epochs}"]
    options += arguments.options
    run, _ = measuring.train(root, out, out.parent / "cache", *options, timed=False)
    times = [measuring.times_of(folder) for folder in out.glob("fold=*")]
    training = max(t["end"] for t in times) - min(t["first_step"] for t in times)
    return {"training s": training, "from Enter s": run.seconds}


def network(root: Path, out: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Return pictures a second of our training of the large network."""
    options = [f"fold={arguments.folds[0]}", "model=torchvision", f"model.name={arguments.network}"]
    options += [f"data.image_size={arguments.size}", f"data.batch_size={arguments.batch_size}"]
    options += [f"trainer={arguments.trainer}", f"trainer.max_epochs={EPOCHS}"]
    options += [f"trainer.precision={arguments.precision}", "trainer.deterministic=false"]
    options += ["+trainer.benchmark=true", *arguments.options]
    _, times = measuring.train(root, out, out.parent / "cache", *options)
    steps = [end - begin for begin, end in zip(times["epochs"], times["steps"], strict=True)]
    return {
        "steps, pictures/s": times["pictures"] / statistics.median(steps[1:-1]),
        "epoch, pictures/s": times["pictures"] / statistics.median(epochs_of(times)),
    }


def card(root: Path, out: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Return pictures a second of the bare loop."""
    out.mkdir()
    numbers = ("1", str(arguments.batch_size), str(EPOCHS))
    which = (arguments.network, str(arguments.size), arguments.trainer, arguments.precision)
    measuring.run(HERE / "plain_loops.py", "card", root, *numbers, out, *which)
    return {"pictures/s": measuring.times_of(out)["pictures_a_second"]}


def main() -> None:
    parser = measuring.parser(__doc__, "gpu.json", rounds=3)
    parser.add_argument("--folds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--epochs", type=int, default=50)
    of_torchvision = "of torchvision, trained on the first of the folds"
    parser.add_argument("--network", default="resnet50", help=of_torchvision)
    parser.add_argument("--size", type=int, default=224, help="pixels a side that it takes")
    parser.add_argument("--batch-size", type=int, default=256, help="of the large network")
    parser.add_argument("--precision", default="bf16-mixed", help="of the large network")
    parser.add_argument("--trainer", default="gpu", choices=("gpu", "cpu"))
    arguments = parser.parse_intermixed_args()

    result = measuring.conditions()
    if arguments.trainer == "gpu":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, check=True)
        result["machine"]["gpu"] = answer.stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        root, conditions = measuring.fold_tree(arguments, Path(folder), arguments.folds)
        elsewhere = ("data", "out", "options", "fold")
        chosen = {key: value for key, value in vars(arguments).items() if key not in elsewhere}
        result["conditions"] = conditions | chosen

        title = f"{len(arguments.folds)} folds x {arguments.epochs} epochs"
        ways = {
            f"{title}, basic": lambda out: folds(root, out, arguments, "basic"),
            f"{title}, lockstep": lambda out: folds(root, out, arguments, "lockstep"),
            arguments.network: lambda out: network(root, out, arguments),
            "card": lambda out: card(root, out, arguments),
        }
        jobs = {
            name: lambda number, place=place, way=way: way(Path(folder) / f"{place}-{number}")
            for place, (name, way) in enumerate(ways.items())
        }
        rounds_of = measuring.alternate(jobs, arguments.rounds)

    result["ways"] = {
        name: {key: spread(numbers[key] for numbers in rounds) for key in rounds[0]}
        for name, rounds in rounds_of.items()
    }
    rows = [
        [name, key, shown(value, 1)]
        for name, way in result["ways"].items()
        for key, value in way.items()
    ]
    title = "On one GPU: median (smallest-largest)"
    measuring.report(arguments.out, result, title, ["", "what", "value"], rows, None)


if __name__ == "__main__":
    main()
