"""Finished and unfinished runs as they lie on disk, and which of them belong together."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mpoxcv.errors import UserError
from mpoxcv.evaluation.predictions import classes_of, read_predictions
from mpoxcv.evaluation.process import why_unfinished
from mpoxcv.explain import blaming
from mpoxcv.resolvers import flatten
from mpoxcv.storage.files import NUMBER, StrPath, fault_of, read_json, read_metrics
from mpoxcv.storage.stored_config import REFERENCE, read_plain
from mpoxcv.terminal import warn

# options that do not make another experiment: where things lie, and what the report tells apart
NEUTRAL = frozenset({
    "fold", "seed", "ckpt_path", "resume", "output_dir", "logger", "debug", "hydra", "name",
    "data.root", "data.cache_dir", "data.threads", "data.prefetch", "data.gpu_cache_mb",
    "model.own_kernels", *(f"callbacks.{name}" for name in (
        "learning_rate", "progress", "samples", "history", "reference", "results", "baselines",
        "figures", "provenance", "within_epoch",
    )),
})  # fmt: skip
# trained on all folds together, and so on its test pictures; once called pooled
LEAKING, POOLED = "leaking", "pooled"
# what a report takes from provenance.json and from job.json; see fault_of
CELL = {"pictures": int, "copies": int, "patients": int}
RECORD: dict[str, Any] = {
    "status": str, "command": str, "checkpoint_sha256": str, "error": str,
    "weights": {...: str | None},
    "git": {}, "packages": {}, "accelerator": {}, "durations": {"total_s": NUMBER},
    "data": {
        "fingerprint": str, "test_fingerprint": str, "citation": str, "protocol": str,
        "splits": str, "originals": {...: int}, "counts": {...: {...: CELL}},
        "audit": {"choice": str, "dropped": int, "leaks": {...: int}, "suspected": {...: int}},
    },
}  # fmt: skip
JOB = {"status": str, "cause": str}
# of the config, flat
NAMES = [str | NUMBER]
CONFIG = {"data.exclude": NAMES, "data.ignore_classes": NAMES, "model.train": str | int}
# numpy's generator takes no larger seed
MAX_SEED = 2**32 - 1
# of a name, and of what it interpolates: a stranger's may swell
MAX_NAME = 200


@dataclass(frozen=True)
class Run:
    """One run's folder.

    ``overrides`` are the command line's options, ``config`` all options, flat: dotted names to
    plain values. ``fold`` is a number, or ``leaking``. ``status`` is ``finished``, ``interrupted``
    or ``failed`` (with the ``cause``).
    ``metrics``, ``provenance``, ``predictions`` (empty unless finished) and ``baselines`` are files
    of these names.
    """

    folder: Path
    overrides: dict[str, str]
    config: dict[str, Any]
    fold: int | str
    seed: int
    status: str
    cause: str | None
    metrics: dict[str, float | None]
    provenance: dict[str, Any]
    predictions: pd.DataFrame
    baselines: pd.DataFrame | None

    @property
    def experiment(self) -> str:
        """The options that make the experiment, as one text: equal for all its folds and seeds."""
        options = {name: value for name, value in self.config.items() if tells_apart(name)}
        return json.dumps([options, self.fold == LEAKING], sort_keys=True, default=str)

    def predicted(self, split: str) -> pd.DataFrame:
        """Return the predictions of a split; only of a finished run."""
        return self.predictions[self.predictions["split"] == split]


def tells_apart(option: str) -> bool:
    """Return whether an option, or one of its group's, makes another experiment."""
    return not any(option == name or option.startswith(f"{name}.") for name in NEUTRAL)


def find_runs(folders: Iterable[StrPath]) -> list[Run]:
    """Return the runs in and below these folders; UserError without a folder, or a run in any."""
    runs: dict[Path, Run] = {}
    for top in map(Path, folders):
        if not top.is_dir():
            raise UserError(f"There is no folder {top}.")
        configs = sorted(top.rglob(".hydra/config.yaml"))
        for folder in [c.parents[1] for c in configs if c.with_name("overrides.yaml").is_file()]:
            try:
                with blaming(folder):
                    runs[folder.resolve()] = read_run(folder)
            except UserError as error:
                # of another tool, damaged, or hostile: costs no other run
                warn(f"{folder} is left out: {error}")
    if not runs:
        searched = ", ".join(map(str, folders))
        raise UserError(f"There is no run in {searched}: a run's folder holds .hydra/config.yaml.")
    return list(runs.values())


def read_run(folder: Path) -> Run:
    """Read one run's folder.

    A damaged run is a failed one; UserError where its config is none of a training run.
    """
    config = flat(read_plain(folder / ".hydra" / "config.yaml"))
    fold: Any = config.get("fold")
    fold = LEAKING if fold == POOLED else fold
    seed: Any = config.get("seed")
    numbers = [seed] if fold == LEAKING else [fold, seed]
    if not all(isinstance(number, int) and 0 <= number <= MAX_SEED for number in numbers):
        raise UserError("its config is none of a training run: it has another fold or seed.")
    if fault := fault_of(config, CONFIG):
        raise UserError(f"its config is none of a training run: it has another {fault}.")

    def referred(match: re.Match[str]) -> str:
        return str(config.get(match[1], match[0]))[:MAX_NAME]

    config["name"] = REFERENCE.sub(referred, str(config.get("name"))[:MAX_NAME])
    lines = read_plain(folder / ".hydra" / "overrides.yaml")
    overrides = plain_options(dict(str(line).lstrip("+~").partition("=")[::2] for line in lines))

    provenance, job = _record(folder / "provenance.json"), _record(folder / "job.json")
    status = provenance.get("status", "interrupted")
    cause = job.get("cause") or provenance.get("error")
    predictions, baselines = pd.DataFrame(), None
    if fault := fault_of(provenance, RECORD):
        status, cause, provenance = "failed", f"provenance.json is damaged: {fault}.", {}
    elif fault := fault_of(job, JOB):
        status, cause = "failed", f"job.json is damaged: {fault}."
    elif status == "finished":
        try:
            predictions = _checked(read_predictions(folder / "predictions.csv"), fold)
            baselines = _baselines(folder / "baselines.csv", predictions, fold)
        except UserError as error:
            status, cause = "failed", str(error)
    elif job.get("status", status) == "failed":
        status = "failed"
    else:
        status, cause = "interrupted", why_unfinished(job)

    data = provenance["data"] = {"originals": {}, "counts": {}} | _present(provenance.get("data"))
    if "audit" in data:
        data["audit"] = {"choice": "", "dropped": 0, "leaks": {}} | _present(data["audit"])
    return Run(
        folder, overrides, config, fold, seed, status, cause,
        metrics=read_metrics(folder / "metrics.json"),
        provenance=provenance,
        predictions=predictions,
        baselines=baselines,
    )  # fmt: skip


def plain_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options with true, false and null in small letters: a multirun writes True."""
    words = ("true", "false", "null")
    return {k: v.lower() if v.lower() in words else v for k, v in options.items()}


def _record(file: Path) -> dict[str, Any]:
    return _present(read_json(file))


def _present(record: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (record or {}).items() if value is not None}


def _baselines(file: Path, predictions: pd.DataFrame, fold: int | str) -> pd.DataFrame | None:
    """Return the table of baselines; None where there is none of these classes, or no sound one."""
    try:
        table = read_predictions(file)
        if not {"model", *predictions} <= {*table}:
            return None
        return _checked(table, fold, ["model", "split", "image"])
    except UserError as error:
        if file.exists():
            warn(f"{file} is left out: {error}")
        return None


def _checked(
    predictions: pd.DataFrame, fold: int | str, keys: Sequence[str] = ("split", "image")
) -> pd.DataFrame:
    """Return the table of a run.

    UserError for another fold, two rows of a picture, a label of no class, or an empty Test.
    """
    repeated = predictions["image"][predictions.duplicated(list(keys))]
    if not repeated.empty:
        raise UserError(f"predictions.csv has two rows for {repeated.iloc[0]}.")
    labels = {*predictions["label"], *predictions["prediction"]}
    if unknown := sorted(labels - set(classes_of(predictions))):
        raise UserError(f"predictions.csv has a label without probabilities: {unknown[0]}.")
    if not (predictions["split"] == "test").any():
        raise UserError("predictions.csv has no picture of Test.")
    if set(predictions["fold"].map(str).replace(POOLED, LEAKING)) != {str(fold)}:
        raise UserError(f"predictions.csv is of another fold than {fold}.")
    return predictions


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of each experiment under its ``name=``, or the options that set it apart.

    UserError where two finished runs of an experiment have the same fold and seed.
    """
    experiments: dict[str, list[Run]] = {}
    for run in runs:
        experiments.setdefault(run.experiment, []).append(run)

    for members in experiments.values():
        finished: dict[tuple[int | str, int], Run] = {}
        for run in (run for run in members if run.status == "finished"):
            other = finished.setdefault((run.fold, run.seed), run)
            if other is not run:
                raise UserError(
                    f"Two runs of the same experiment have fold {run.fold} and seed {run.seed}, and one picture would "
                    f"count twice:\n  {other.folder}\n  {run.folder}\nTake one of them away."
                )

    firsts = [members[0] for members in experiments.values()]
    options = [[item for item in run.overrides.items() if tells_apart(item[0])] for run in firsts]
    shared = set(options[0]).intersection(*options)
    titles = [str(run.config.get("name", "runs")) for run in firsts]
    names = []
    for run, title, items in zip(firsts, titles, options, strict=True):
        parts = [f"{option}={value}" for option, value in items if (option, value) not in shared]
        # what somebody called it; the model's name, the default, would hide what else differs
        named = titles.count(title) == 1 and title != run.config.get("model.name")
        name = title if named or not parts else ", ".join(parts)
        names.append(f"{name}, fold=leaking" if run.fold == LEAKING else name)
    names = [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]
    return dict(zip(names, experiments.values(), strict=True))


def flat(node: Any) -> dict[str, Any]:
    """Return the values of nested mappings by their dotted names."""
    return {name: value for name, value in flatten(node) if not isinstance(value, dict)}
