"""A frozen backbone computed once, against the usual way, which computes it in every epoch.

    python benchmarks/frozen.py
        one generated fold of MSLD v2.0's size
    python benchmarks/frozen.py --data DIR --folds 1 2 3 4 5 --seeds 42 0 1 data=msld_v1
        a tree made by scripts/make_folds.py

Timed: ``experiment=frozen`` on all folds and seeds, from Enter to the summary, with an empty cache
(cold) and again (warm); one epoch of the usual way on the first fold (ImageFolder, DataLoader with
a worker a core, torch, channels_last), extrapolated to all epochs, folds and seeds, without its
start, tests and figures. And the pass alone, alternating with onnxruntime on normalised pictures in
memory.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import measuring
from measuring import HERE, shown, spread

EPOCHS = 50
BATCH = 32
# pictures of a round of the pass
PASS = 1024


def usual(root: Path, fold: int) -> dict[str, float]:
    """Return the seconds of one epoch of training a head on a backbone that is computed again."""
    import os

    import timm
    import torch
    from timm.data import create_transform, resolve_model_data_config
    from torch.utils.data import ConcatDataset, DataLoader
    from torchvision.datasets import ImageFolder

    network = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    network = network.to(memory_format=torch.channels_last)
    transform = create_transform(**resolve_model_data_config(network))
    folders = [p for pattern in (f"FOLDS/fold{fold}/Train", f"FOLDS_AUG/fold{fold}_AUG/Train")
               for p in root.rglob(pattern)]  # fmt: skip
    trees = [ImageFolder(folder, transform) for folder in folders]
    data = ConcatDataset(trees)
    loader = DataLoader(data, 64, shuffle=True, num_workers=os.cpu_count() or 1)
    head = torch.nn.Linear(1280, len(trees[0].classes))
    optimizer = torch.optim.AdamW(head.parameters())

    begin = time.perf_counter()
    for images, labels in loader:
        with torch.no_grad():
            features = network(images.contiguous(memory_format=torch.channels_last))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(features), labels).backward()
        optimizer.step()
    return {"epoch_s": time.perf_counter() - begin, "pictures": len(data)}


def one_pass(root: Path, rounds: int) -> dict[str, Any]:
    """Return pictures a second of the pass and of bare onnxruntime, a round each."""
    import numpy as np
    import torch

    from mpoxcv import create_model
    from mpoxcv.data import features
    from mpoxcv.pictures.cache import digest_files, open_cache
    from mpoxcv.pictures.pixels import Form

    files = sorted(root.rglob("*.jpg"))[:PASS]
    paths = [file.relative_to(root).as_posix() for file in files]
    network = create_model("tf_efficientnet_lite0", 2, "timm", "package", "head")
    form, half = Form(224, interpolation="bicubic", crop=0.875), [0.5, 0.5, 0.5]
    result: dict[str, list[float]] = {"pass": [], "bare": []}
    bare: features.Compute | None = None
    with tempfile.TemporaryDirectory() as folder:
        digests = digest_files(root, paths)
        cache = open_cache(root, paths, form, folder, digests=digests)
        names = np.empty(len(cache.pixels), "U32")
        names[cache.rows] = digests
        for number in range(rounds + 1):
            begin = time.perf_counter()
            features.cached_features(
                network.backbone, cache.pixels, names + str(number), form, half, half, folder,
                torch.device("cpu"),
            )  # fmt: skip
            between = time.perf_counter()
            pictures = torch.from_numpy(cache.pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)
            pictures = pictures.contiguous()
            bare = bare or features._by_onnxruntime(network.backbone, pictures[:BATCH])
            assert bare is not None, "onnxruntime is not there"
            middle = time.perf_counter()
            for batch in pictures.split(BATCH):
                bare(batch)
            end = time.perf_counter()
            # the first exports the network
            if number:
                result["pass"].append(len(names) / (between - begin))
                result["bare"].append(len(names) / (end - middle))
    return result


def main() -> None:
    """Measure, write the result and print it."""
    parser = measuring.parser(__doc__, "frozen.json", 3)
    parser.add_argument("--folds", type=int, nargs="+", default=[3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--part", choices=("usual", "pass"), help="what a process of its own does")
    arguments = parser.parse_args()
    if arguments.part:
        of_part = usual(arguments.data, arguments.folds[0]) if arguments.part == "usual" else None
        of_part = of_part or one_pass(arguments.data, arguments.rounds)
        arguments.out.write_text(json.dumps(of_part))
        return

    result = measuring.conditions()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root, about = measuring.fold_tree(arguments, folder, arguments.folds)
        folds = ",".join(map(str, arguments.folds))
        options = [f"fold={folds}", f"seed={','.join(map(str, arguments.seeds))}"]
        options += ["experiment=frozen", f"trainer.max_epochs={EPOCHS}", *arguments.options]
        ours = {}
        for kind in ("cold", "warm"):
            run, _ = measuring.train(root, folder / kind, folder / "cache", *options, timed=False)
            ours[kind] = {"wall_s": run.seconds, "peak_mib": run.mib}

        def part(kind: str) -> dict[str, Any]:
            out = folder / f"{kind}.json"
            command = [HERE / "frozen.py", "--part", kind, "--data", root, "--out", out]
            measuring.run(*command, "--rounds", str(arguments.rounds), "--folds", folds[0])
            return json.loads(out.read_text())

        epoch, passes = part("usual"), part("pass")
    total = epoch["epoch_s"] * EPOCHS * len(arguments.folds) * len(arguments.seeds)
    ratios = [a / b for a, b in zip(passes["pass"], passes["bare"], strict=True)]
    result |= about | {
        "folds": arguments.folds, "seeds": arguments.seeds, "epochs": EPOCHS, "ours": ours,
        "usual": epoch | {"extrapolated_s": total}, "times_less": {
            kind: total / run["wall_s"] for kind, run in ours.items()
        },
        "pass": {name: spread(values) for name, values in passes.items()},
        "pass_of_bare": spread(ratios),
    }  # fmt: skip
    rows = [[kind, f"{run['wall_s']:.0f} s", f"{total / run['wall_s']:.0f} times less"]
            for kind, run in ours.items()]  # fmt: skip
    rows.append(["usual, extrapolated", f"{total:.0f} s", ""])
    for name, values in result["pass"].items():
        rows.append([name, f"{shown(values, 0)} pictures/s", ""])
    rows.append(["pass of bare", shown(result["pass_of_bare"]), ""])
    title = "A frozen backbone" + (" (generated pictures)" if about["synthetic"] else "")
    measuring.report(arguments.out, result, title, ["way", "time", "against usual"], rows, None)


if __name__ == "__main__":
    main()
