"""Time and memory at full size: 50,000 picture files, and 200 runs in one summary.

The tree has MSLD v2.0's layout and names: 755 originals, split anew by patient in each of five
folds, and the rest copies of each fold's Train, all with pixels of their own. Pictures of 96 x 96
pixels, of nobody's skin. Every part runs in a process of its own; cold means without the decoded
pictures and the audit's records (the system's own cache of the files is warm). Peak memory is the
process's largest resident set, with what it imports and with the mapped cache.

    python benchmarks/load.py --out benchmarks/results/load_2_cores.json
        the sizes above: a few minutes
    python benchmarks/load.py --pictures 2000 --runs 16 --sweep 5
        quick
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
CODES = {
    "Chickenpox": "CHP", "Cowpox": "CWP", "Healthy": "HEALTHY", "HFMD": "HFMD", "Measles": "MSL",
    "Monkeypox": "MKP",
}  # fmt: skip
# of 755 originals
SHARES = (75, 66, 114, 161, 55, 284)
PATTERN = r"(?P<original>(?P<patient>[A-Z]+_\d+)_\d+)(?P<copy>_\w+)?"
TESTS = (
    (9, 7, 9, 16, 6, 27),
    (11, 4, 11, 20, 5, 31),
    (6, 4, 11, 16, 5, 22),
    (9, 13, 9, 15, 8, 27),
    (7, 7, 10, 15, 6, 18),
)
SIZE = 96
METRICS = (
    "loss", "accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "auroc_macro", "ece",
)  # fmt: skip


def patient_and_stem(name: str, i: int) -> tuple[int, str]:
    """Return the patient, and the file name without its suffix, of the class's picture number i."""
    patient = i // 3 * 2 + i % 3 // 2
    return patient, f"{CODES[name]}_{patient:02d}_{i % 3 + 1:02d}"


def write_tree(root: Path, pictures: int) -> int:
    """Write the tree and return the number of its files."""
    import numpy as np
    from PIL import Image

    scale = min(1.0, pictures / 15_000)
    originals = [
        (name, *patient_and_stem(name, i))
        for name, share in zip(CODES, SHARES, strict=True)
        for i in range(max(30, round(share * scale)))
    ]
    # number of the original, path without suffix, whether a copy
    places: list[tuple[int, str, bool]] = []
    for fold in range(1, 6):
        for number, (name, patient, stem) in enumerate(originals):
            turn = (patient + 2 * fold) % 10
            split = ("Test", "Valid", "Valid")[turn] if turn < 3 else "Train"
            places.append((number, f"FOLDS/fold{fold}/{split}/{name}/{stem}", False))
    train = [(number, path) for number, path, _ in places if "/Train/" in path]
    for turn in range(pictures - len(places)):
        number, path = train[turn % len(train)]
        path = path.replace("FOLDS/", "FOLDS_AUG/").replace("/Train/", "_AUG/Train/")
        places.append((number, f"{path}_{turn // len(train) + 1:02d}_1", True))
    for folder in {path.rpartition("/")[0] for _, path, _ in places}:
        (root / folder).mkdir(parents=True)

    def write(item: tuple[int, tuple[int, str, bool]]) -> None:
        seed, (number, path, copy) = item
        coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        if copy:
            shift = np.random.default_rng(seed).integers(-12, 13, 2).tolist()
            matrix = (0.9, 0.1, shift[0], -0.1, 0.9, shift[1])
            image = image.transform(image.size, Image.Transform.AFFINE, matrix)
            image.putpixel((seed % SIZE, seed // SIZE % SIZE), (255, seed % 251, seed % 241))
        image.save(root / f"{path}.jpg", quality=80)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, enumerate(places), chunksize=256))
    return len(places)


def write_runs(folder: Path, numbers: range, most: int = 150) -> None:
    """Write what the runs with these numbers leave: five folds of each seed.

    The test sets are as large as MSLD v2.0's; ``most`` pictures are in Valid.
    """
    import numpy as np
    import pandas as pd
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    import mpoxcv.cli  # noqa: F401  registers what the configs need
    from mpoxcv.evaluation.predictions import write_predictions
    from mpoxcv.storage.files import write_json

    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", ["output_dir=runs"]), resolve=False)
    classes = list(CODES)
    rng = np.random.default_rng(0)
    names = [
        f"{name}/{patient_and_stem(name, i)[1]}.jpg"
        for name, share in zip(classes, SHARES, strict=True)
        for i in range(share)
    ]
    by_class = {
        c: rng.permutation([n for n in names if n.startswith(f"{c}/")]).tolist() for c in classes
    }
    for number in numbers:
        fold = number % 5 + 1
        seed = number // 5
        run = folder / f"fold={fold},seed={seed}"
        (run / ".hydra").mkdir(parents=True)
        text = OmegaConf.to_yaml(OmegaConf.create(config | {"fold": fold, "seed": seed}))
        (run / ".hydra/config.yaml").write_text(text)
        (run / ".hydra/overrides.yaml").write_text(f"- fold={fold}\n- seed={seed}\n")

        begins = [sum(sizes[label] for sizes in TESTS[: fold - 1]) for label in range(6)]
        parts_tested = zip(classes, begins, TESTS[fold - 1], strict=True)
        tested = [
            name for c, begin, size in parts_tested for name in by_class[c][begin : begin + size]
        ]
        in_test = set(tested)
        others = [name for name in names if name not in in_test]
        drawn = np.random.default_rng([fold, seed])
        parts = []
        for split, images in (("val", others[:: 755 // most]), ("test", tested)):
            labels = [name.partition("/")[0] for name in images]
            truth = np.eye(6)[[classes.index(label) for label in labels]]
            logits = drawn.normal(size=(len(images), 6)) + 1.5 * truth
            p = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
            keys = {
                "image": images,
                "patient": [name.partition("/")[2].rpartition("_")[0] for name in images],
                "data": "msld_v2",
                "fold": fold,
                "split": split,
                "label": labels,
                "prediction": [classes[i] for i in p.argmax(1)],
            }
            scores = pd.DataFrame(p, columns=[f"p_{c}" for c in classes])
            parts.append(pd.concat([pd.DataFrame(keys), scores], axis=1))
        table = pd.concat(parts, ignore_index=True)
        write_predictions(table, run / "predictions.csv")
        models = [table.assign(model=model) for model in ("majority class", "colour histogram")]
        pd.concat(models)[["model", *table.columns]].to_csv(run / "baselines.csv", index=False)

        losses = drawn.random((50, 2))
        curves = {"epoch": range(50), "train/loss": losses[:, 0], "val/loss": losses[:, 1]}
        pd.DataFrame(curves).to_csv(run / "learning_curves.csv", index=False)
        right = float((parts[1]["label"] == parts[1]["prediction"]).mean())
        metrics = {
            f"{s}/{m}": right + drawn.normal() / 50 for s in ("val", "test") for m in METRICS
        }
        write_json(run / "metrics.json", metrics)

        cell = {"pictures": 90, "copies": 1260, "patients": 70}
        data = {"name": "msld_v2", "synthetic": False, "protocol": "published", "permuted_labels": False, "fold": fold,
                "fingerprint": f"print{fold}", "counts": {s: dict.fromkeys(classes, cell) for s in ("train", "val", "test")},
                "audit": {"choice": "stop", "leaks": {}, "dropped": 0}}  # fmt: skip
        packages = dict.fromkeys(("torch", "torchvision", "lightning", "numpy", "pandas"), "1.0")
        provenance = {"status": "finished", "data": data, "packages": packages}
        provenance |= {"command": "python train.py", "durations": {"total_s": 15.0}}
        provenance |= {"accelerator": {"type": "cpu"}}
        write_json(run / "provenance.json", provenance)
        write_json(run / "job.json", {"status": "completed"})


def index(root: Path) -> Any:
    from mpoxcv.pictures.tree import index_folds

    return index_folds(root, list(CODES), PATTERN)


def part_index(root: Path) -> Iterator[str]:
    import mpoxcv.pictures.tree  # noqa: F401

    yield "imported"
    yield f"{len(index(root))} files"


def part_audit(root: Path) -> Iterator[str]:
    from mpoxcv.audit.audit import audit

    table = index(root)
    yield "imported"
    findings = audit(table, root, root.parent / "work/cache")
    leaks = sum(finding.severity == "leak" for finding in findings)
    yield f"{len(findings)} findings, {leaks} leaks"


def part_data(root: Path, fold: int | str, cache: str) -> Iterator[str]:
    from mpoxcv import MSLDDataModule

    data = MSLDDataModule(root, list(CODES), PATTERN, fold, cache_dir=root.parent / "work" / cache)
    yield "imported"
    data.setup()
    yield f"{len(data.table('train'))} to train on"


def part_changes(root: Path) -> Iterator[str]:
    from mpoxcv import MSLDDataModule

    cache = root.parent / "work/cache"
    data = MSLDDataModule(root, list(CODES), PATTERN, "pooled", cache_dir=cache)
    data.setup()
    yield "imported"
    yield f"{len(data.changes())} changes"


def part_epoch(root: Path) -> Iterator[str]:
    import logging

    import lightning as L
    from hydra import compose, initialize_config_dir

    import mpoxcv.cli  # noqa: F401  registers what the configs need
    from mpoxcv.commands.train import build

    class Mark(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.begin = time.perf_counter()

        def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.seconds = time.perf_counter() - self.begin

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    overrides = ["fold=pooled", f"data.root={root}", f"data.cache_dir={root.parent / 'work/cache'}", "trainer=cpu",
                 f"output_dir={root.parent / 'work/run'}", "trainer.max_epochs=1", "callbacks.provenance=null",
                 "callbacks.progress=null", "+trainer.enable_progress_bar=false", f"data.name_pattern='{PATTERN}'"]  # fmt: skip
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        datamodule, classifier, trainer = build(compose("train", overrides))
    trainer.callbacks.append(mark := Mark())
    datamodule.setup()
    yield "imported"
    trainer.fit(classifier, datamodule)
    yield f"the epoch itself {mark.seconds:.2f} s, {len(datamodule.table('train'))} pictures"


def part_summary(folder: Path, count: int) -> Iterator[str]:
    from mpoxcv.evaluation.summary import summarise
    from mpoxcv.report.report import write_report

    write_runs(folder, range(count))
    # what is imported late
    write_report(summarise([folder], replicates=10), folder / "warm")
    yield "imported"
    begin = time.perf_counter()
    summary = summarise([folder])
    middle = time.perf_counter()
    write_report(summary, folder / "summary")
    end = time.perf_counter()
    page = (folder / "summary/report.html").stat().st_size / 2**20
    yield f"numbers {middle - begin:.2f} s, files {end - middle:.2f} s, page {page:.1f} MiB"


def part_sweep(folder: Path, count: int) -> Iterator[str]:
    from mpoxcv.commands.summarize import write_summary_of

    (folder / "summary").mkdir(parents=True)
    yield "imported"
    spent = []
    for number in range(count):
        write_runs(folder, range(number, number + 1))
        begin = time.perf_counter()
        write_summary_of(folder)
        spent.append(time.perf_counter() - begin)
    yield f"all {sum(spent):.1f} s, the last {spent[-1]:.2f} s"


def work(part: Callable[..., Iterator[str]], *arguments: Any) -> dict[str, Any]:
    steps = part(*arguments)
    next(steps)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    note = next(steps)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": round(seconds, 2),
        "peak_mib": peak // 1024,
        "before_mib": before // 1024,
        "note": note,
    }


def alone(name: str, part: Callable[..., Iterator[str]], *arguments: Any) -> dict[str, Any]:
    """Run a part in a process of its own; print and return its time and peak memory."""
    load = os.getloadavg()[0]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        result = pool.submit(work, part, *arguments).result()
    row = {"part": name, **result, "load_average": round(load, 2)}
    memory = f"{row['before_mib']:>6} -> {row['peak_mib']:>6} MiB"
    line = f"{name:44}{row['seconds']:>9.2f} s {memory}  load {load:4.1f}  {row['note']}"
    print(line, flush=True)
    return row


def part_tree(root: Path, pictures: int) -> Iterator[str]:
    yield "imported"
    yield f"{write_tree(root, pictures)} files"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pictures = "files in the tree; 0 leaves these parts out"
    runs = "in one summary; 0 leaves these parts out"
    sweep = "jobs of a multirun, the summary written after each"
    keep = "folder that keeps the tree (in set/, made where it is not there); work/ is made anew"
    parser.add_argument("--pictures", type=int, default=50_000, help=pictures)
    parser.add_argument("--runs", type=int, default=200, help=runs)
    parser.add_argument("--sweep", type=int, default=0, help=sweep)
    parser.add_argument("--keep", type=Path, help=keep)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    chosen = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        base = (chosen.keep or Path(temporary)).resolve()
        root = base / "set"
        folder = base / "work"
        rows = []
        # of a run before: nothing is warm
        shutil.rmtree(folder, ignore_errors=True)
        if chosen.pictures:
            if not root.is_dir():
                alone("(the tree is made)", part_tree, root, chosen.pictures)
            rows += [
                alone("index of all folds", part_index, root),
                alone("audit, cold", part_audit, root),
                alone("audit, warm", part_audit, root),
                alone("data of fold 3 with its leaks, cold", part_data, root, 3, "cache3"),
                alone("data of fold 3 with its leaks, warm", part_data, root, 3, "cache3"),
                alone("data of fold=pooled, cold", part_data, root, "pooled", "cache"),
                alone("data of fold=pooled, warm", part_data, root, "pooled", "cache"),
                alone("what changed since the start, fold=pooled", part_changes, root),
                alone("fit of one epoch, fold=pooled, batch 64", part_epoch, root),
            ]
        counts = [chosen.runs // parts for parts in (8, 4, 2, 1)]
        rows += [
            alone(f"summary of {n} runs", part_summary, folder / f"runs{n}", n) for n in counts if n
        ]
        if chosen.sweep:
            name = f"summaries of a multirun of {chosen.sweep} jobs"
            rows.append(alone(name, part_sweep, folder / "sweep", chosen.sweep))

    if chosen.out:
        machine = {
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "python": platform.python_version(),
        }
        sizes = {"pictures": chosen.pictures, "runs": chosen.runs, "pixels": SIZE}
        content = {**sizes, "machine": machine, "parts": rows}
        chosen.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
