"""Finished and unfinished runs as they lie on disk, and which of them belong together."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mpoxcv.errors import UserError
from mpoxcv.evaluation.predictions import TEXTS, classes_of, read_predictions
from mpoxcv.evaluation.process import why_unfinished
from mpoxcv.storage.files import read_json, read_metrics
from mpoxcv.storage.stored_config import REFERENCE, read_plain

# options that do not make another experiment: where things lie, and what the report tells apart by itself
NEUTRAL = frozenset({
    "fold", "seed", "ckpt_path", "resume", "output_dir", "logger", "data.root", "data.cache_dir", "data.threads", "debug",
    "data.prefetch", "data.gpu_cache_mb", "model.own_kernels", "hydra", "name", *(f"callbacks.{name}" for name in (
        "learning_rate", "progress", "samples", "history", "results", "baselines", "figures", "provenance", "within_epoch",
    )),
})  # fmt: skip
POOLED = "pooled"
FILES = ("predictions.csv", "baselines.csv", "learning_curves.csv", "metrics.json", "provenance.json", "job.json",
         ".hydra/config.yaml", ".hydra/overrides.yaml")  # fmt: skip
KEPT: dict[
    Path, tuple[object, "Run"]
] = {}  # finished runs as read before: a multirun reads them after each job


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path
    overrides: dict[str, str]  # the command line's options by name
    config: dict[str, Any]  # as composed, flat: dotted names to plain values
    fold: int | str  # a number, or ``pooled``
    seed: int
    status: str  # ``finished``, ``failed`` (with the ``cause``) or ``interrupted``
    cause: str | None = None  # what went wrong
    metrics: dict[str, float | None] = field(default_factory=dict)  # metrics.json
    provenance: dict[str, Any] = field(default_factory=dict)  # provenance.json
    predictions: pd.DataFrame | None = None  # predictions.csv; None unless finished
    baselines: pd.DataFrame | None = None  # baselines.csv
    history: pd.DataFrame | None = None  # learning_curves.csv

    @property
    def experiment(self) -> str:
        """All options that make the experiment, as one text: equal for runs that differ in fold and seed alone."""
        kept = {name: value for name, value in self.config.items() if tells_apart(name)}
        return json.dumps([kept, self.pooled], sort_keys=True, default=str)

    @property
    def originals(self) -> dict[str, int]:
        """Number of original pictures of the run's fold by split; empty where provenance.json has none."""
        found = self.provenance.get("data", {}).get("originals")
        sound = isinstance(found, dict) and all(isinstance(n, int) for n in found.values())
        return dict(found) if sound else {}

    @property
    def pooled(self) -> bool:
        """Whether it was trained on all folds together, and so on its test pictures."""
        return self.fold == POOLED


def tells_apart(option: str) -> bool:
    """Return whether an option, or one of its group's, makes another experiment."""
    return not any(option == name or option.startswith(f"{name}.") for name in NEUTRAL)


def find_runs(folders: Iterable[str | os.PathLike[str]]) -> list[Run]:
    """Return the runs in these folders and below them, by folder; UserError where one is not there, or no run in any."""
    found: dict[Path, Run] = {}
    for top in map(Path, folders):
        if not top.is_dir():
            raise UserError(f"There is no folder {top}.")
        for config in sorted(top.rglob(".hydra/config.yaml")):
            folder = config.parent.parent
            if not (folder / ".hydra" / "overrides.yaml").is_file():
                continue
            try:
                found[folder.resolve()] = read_run(folder)
            except UserError as error:  # of another tool, damaged, or hostile: costs no other run
                print(f"{folder} is left out: {error}", file=sys.stderr)
    if not found:
        raise UserError(
            f"There is no run in {', '.join(map(str, folders))}: a run's folder holds .hydra/config.yaml."
        )
    return list(found.values())


def read_run(folder: Path) -> Run:
    """Read one run's folder, if it changed since it was read before; a run that is damaged counts as failed.

    Raises:
        UserError: its config is none of a training run.
    """
    stats = [(folder / name).stat() for name in FILES if (folder / name).is_file()]
    state = [(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]
    if KEPT.get(folder, (None,))[0] != state:
        run = _read_run(folder)
        if run.status != "finished":
            return run
        KEPT[folder] = state, run
    return KEPT[folder][1]


def _read_run(folder: Path) -> Run:
    config = _flat(read_plain(folder / ".hydra" / "config.yaml"))
    fold, seed = config.get("fold"), config.get("seed")
    if not (isinstance(fold, int) or fold == POOLED) or not isinstance(seed, int):
        raise UserError(f"its config is none of a training run: fold={fold}, seed={seed}.")
    config["name"] = REFERENCE.sub(
        lambda name: str(config.get(name[1], name[0])), str(config.get("name"))
    )
    lines = read_plain(folder / ".hydra" / "overrides.yaml")
    overrides = plain_options(dict(str(line).lstrip("+~").partition("=")[::2] for line in lines))
    provenance, metrics, job = (
        _sound(read_json(folder / "provenance.json")),
        read_metrics(folder / "metrics.json"),
        read_json(folder / "job.json"),
    )
    status, cause = (
        provenance.get("status", "interrupted"),
        job.get("cause") or provenance.get("error"),
    )
    predictions = baselines = history = None
    if status == "finished":
        try:
            predictions = checked(read_predictions(folder / "predictions.csv"))
        except UserError as error:
            status, cause = "failed", str(error)
    elif job.get("status", status) == "failed":
        status = "failed"
    else:
        status, cause = "interrupted", why_unfinished(job)
    if predictions is not None and (folder / "baselines.csv").is_file():
        baselines = _table(folder / "baselines.csv", ["model", *predictions.columns])
    if (folder / "learning_curves.csv").is_file():
        history = _table(folder / "learning_curves.csv", ["epoch", "train/loss", "val/loss"])
    return Run(
        folder, overrides, config, fold, seed, status, cause, metrics, provenance, predictions,
        baselines, history,
    )  # fmt: skip


def plain_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options with true, false and null in small letters: a multirun writes True where a person types true."""
    words = ("true", "false", "null")
    return {
        name: value.lower() if value.lower() in words else value for name, value in options.items()
    }


def checked(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the table if every picture has one row a split, and every label is a class; UserError where not."""
    if (twice := predictions.duplicated(["split", "image"])).any():
        raise UserError(f"predictions.csv has two rows for {predictions['image'][twice].iloc[0]}.")
    classes = classes_of(predictions)
    if unknown := sorted({*predictions["label"], *predictions["prediction"]} - set(classes)):
        raise UserError(f"predictions.csv has a label without probabilities: {unknown[0]}.")
    if not (predictions["split"] == "test").any():
        raise UserError("predictions.csv has no picture of Test.")
    return predictions


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of each experiment under a short name: the options that set it apart from the others.

    Raises:
        UserError: two finished runs of an experiment have the same fold and seed.
    """
    experiments: dict[str, list[Run]] = {}
    for run in runs:
        experiments.setdefault(run.experiment, []).append(run)
    for members in experiments.values():
        taken: dict[tuple[int | str, int], Run] = {}
        for run in members:
            other = taken.setdefault((run.fold, run.seed), run)
            if other is not run and other.status == run.status == "finished":
                raise UserError(
                    f"Two runs of the same experiment have fold {run.fold} and seed {run.seed}, and one picture would "
                    f"count twice:\n  {other.folder}\n  {run.folder}\nTake one of them away."
                )
    own = [
        {k: v for k, v in members[0].overrides.items() if tells_apart(k)}
        for members in experiments.values()
    ]
    shared = {item for item in own[0].items() if all(item in options.items() for options in own)}
    names = []
    for options, members in zip(own, experiments.values(), strict=True):
        parts = [f"{k}={v}" for k, v in options.items() if (k, v) not in shared]
        name = ", ".join(parts) or str(members[0].config.get("name", "runs"))
        names.append(f"{name}, fold=pooled" if members[0].pooled else name)
    names = [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]
    return dict(zip(names, experiments.values(), strict=True))


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    items: dict[str, Any] = {}
    for key, value in node.items():
        items |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return items


def _sound(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return provenance.json without what has another type than ours."""
    data, texts = provenance.get("data", {}), ("status", "command", "checkpoint_sha256", "error")
    for part, names in (
        (provenance, texts),
        (data, ("name", "fingerprint", "citation", "protocol")),
    ):
        for name in names:
            if not isinstance(part.get(name), str):
                part.pop(name, None)
    if not isinstance(provenance.get("durations", {}).get("total_s"), int | float):
        provenance.pop("durations", None)
    try:
        cells = [cell for classes in data["counts"].values() for cell in classes.values()]
        sound = all(
            isinstance(cell[name], int)
            for cell in cells
            for name in ("pictures", "copies", "patients")
        )
    except (KeyError, TypeError, AttributeError):
        sound = False
    return (
        provenance
        if sound
        else provenance | {"data": {k: v for k, v in data.items() if k != "counts"}}
    )


def _table(file: Path, columns: Iterable[str]) -> pd.DataFrame | None:
    try:
        table = pd.read_csv(
            file, dtype=TEXTS, keep_default_na=False, na_values={"train/loss": "", "val/loss": ""}
        )
    except ValueError:
        return None
    return table if set(columns) <= set(table.columns) else None
