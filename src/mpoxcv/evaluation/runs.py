"""Finished and unfinished runs as they lie on disk, and which of them belong together."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mpoxcv.errors import UserError
from mpoxcv.evaluation.predictions import TEXTS, classes_of, read_predictions
from mpoxcv.evaluation.process import why_unfinished
from mpoxcv.resolvers import flatten
from mpoxcv.storage.files import StrPath, read_json, read_metrics
from mpoxcv.storage.stored_config import REFERENCE, read_plain

# options that do not make another experiment: where things lie, and what the report tells apart
NEUTRAL = frozenset({
    "fold", "seed", "ckpt_path", "resume", "output_dir", "logger", "debug", "hydra", "name",
    "data.root", "data.cache_dir", "data.threads", "data.prefetch", "data.gpu_cache_mb",
    "model.own_kernels", *(f"callbacks.{name}" for name in (
        "learning_rate", "progress", "samples", "history", "results", "baselines", "figures",
        "provenance", "within_epoch",
    )),
})  # fmt: skip
# trained on all folds together, and so on its test pictures; once called pooled
LEAKING, POOLED = "leaking", "pooled"
# of provenance.json and its data
TEXT_FIELDS = {
    "status", "command", "checkpoint_sha256", "error",
    "fingerprint", "test_fingerprint", "citation", "protocol", "splits",
}  # fmt: skip


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
                runs[folder.resolve()] = read_run(folder)
            except UserError as error:
                # of another tool, damaged, or hostile: costs no other run
                print(f"{folder} is left out: {error}", file=sys.stderr)
    if not runs:
        searched = ", ".join(map(str, folders))
        raise UserError(f"There is no run in {searched}: a run's folder holds .hydra/config.yaml.")
    return list(runs.values())


def read_run(folder: Path) -> Run:
    """Read one run's folder.

    A damaged run is a failed one; UserError where its config is none of a training run.
    """
    config = flat(read_plain(folder / ".hydra" / "config.yaml"))
    fold, seed = config.get("fold"), config.get("seed")
    fold = LEAKING if fold == POOLED else fold
    if not (isinstance(fold, int) or fold == LEAKING) or not isinstance(seed, int):
        raise UserError(f"its config is none of a training run: fold={fold}, seed={seed}.")
    name = str(config.get("name"))
    config["name"] = REFERENCE.sub(lambda match: str(config.get(match[1], match[0])), name)
    lines = read_plain(folder / ".hydra" / "overrides.yaml")
    overrides = plain_options(dict(str(line).lstrip("+~").partition("=")[::2] for line in lines))

    provenance = read_json(folder / "provenance.json")
    data = provenance["data"] = {"originals": {}, "counts": {}} | provenance.get("data", {})
    job = read_json(folder / "job.json")
    status = provenance.get("status", "interrupted")
    cause = job.get("cause") or provenance.get("error")
    predictions = pd.DataFrame()
    if status == "finished":
        try:
            _check_record(provenance, data)
            predictions = _checked(read_predictions(folder / "predictions.csv"))
        except UserError as error:
            status, cause = "failed", str(error)
    elif job.get("status", status) == "failed":
        status = "failed"
    else:
        status, cause = "interrupted", why_unfinished(job)

    try:
        baselines = pd.read_csv(folder / "baselines.csv", dtype=TEXTS, keep_default_na=False)
    except (FileNotFoundError, IsADirectoryError, ValueError):
        baselines = pd.DataFrame()
    return Run(
        folder, overrides, config, fold, seed, status, cause,
        metrics=read_metrics(folder / "metrics.json"),
        provenance=provenance,
        predictions=predictions,
        baselines=baselines if {"model", *predictions} <= {*baselines} else None,
    )  # fmt: skip


def plain_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options with true, false and null in small letters: a multirun writes True."""
    words = ("true", "false", "null")
    return {k: v.lower() if v.lower() in words else v for k, v in options.items()}


def _checked(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the table; UserError for two rows of a picture, a label of no class, an empty Test."""
    repeated = predictions["image"][predictions.duplicated(["split", "image"])]
    if not repeated.empty:
        raise UserError(f"predictions.csv has two rows for {repeated.iloc[0]}.")
    labels = {*predictions["label"], *predictions["prediction"]}
    if unknown := sorted(labels - set(classes_of(predictions))):
        raise UserError(f"predictions.csv has a label without probabilities: {unknown[0]}.")
    if not (predictions["split"] == "test").any():
        raise UserError("predictions.csv has no picture of Test.")
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


def _check_record(provenance: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raise UserError where what a report takes from provenance.json has another type than ours."""
    counts = ("pictures", "copies", "patients")
    try:
        texts = [part.get(name) for part in (provenance, data) for name in TEXT_FIELDS]
        texts += (provenance.get("weights") or {}).values()
        cells = [cell for classes in data["counts"].values() for cell in classes.values()]
        numbers = [
            *data["originals"].values(),
            *(cell[count] for cell in cells for count in counts),
        ]
        sound = all(isinstance(text, str | None) for text in texts)
        sound &= all(isinstance(number, int) for number in numbers)
        sound &= isinstance(provenance.get("durations", {}).get("total_s", 0), int | float)
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError("provenance.json is damaged: it has values of other types than a run's.")
