"""A finished run run again: what it was made of and what it gave, beside what it gives now."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Column, Table

from mpoxcv.commands import train as experiment
from mpoxcv.commands.record import differences, finished_metrics
from mpoxcv.commands.run_folder import stored_parts
from mpoxcv.errors import UserError
from mpoxcv.evaluation.predictions import probabilities_of, read_predictions
from mpoxcv.storage.files import read_json, read_metrics

# of a stored trainer, what is not taken
OWN_TRAINER = ("_target_", "plugins", "default_root_dir", "profiler")
# of provenance.json, in the order of what explains most
COMPARED = (
    "data.fingerprint", "data.counts", "git.commit", "git.changed", "sources", "packages", "python", "platform",
    "accelerator.type", "accelerator.name", "accelerator.processes", "accelerator.precision",
    "accelerator.threads", "environment",
)  # fmt: skip


def reproduce(cfg: DictConfig) -> None:
    """Train a run's config again and compare, as ``conf/reproduce.yaml`` says.

    Raises:
        UserError: the folder holds no finished run, its config is refused, or the results differ:
            says by how much, and which differences of data, versions or machine go with it.
    """
    run, output = Path(cfg.run), Path(cfg.output_dir)
    if finished_metrics(run) is None:
        reason = "its provenance.json does not say that it is"
        raise UserError(f"{run} is not the folder of a finished run: {reason}.")
    before = read_json(run / "provenance.json")
    if threads := read(before, "accelerator.threads"):
        # the last digits depend on it
        torch.set_num_threads(int(threads))
    experiment.train(again(cfg, run))

    after = read_json(output / "provenance.json")
    differing = {name: pair for key in COMPARED for name, pair in _differences(key, before, after)}
    gaps = compare(run, output)
    _print(f"{run} and {output}", differing, gaps)
    if any(gaps.values()):
        because = ", ".join(differing) or "nothing that is recorded"
        most = ", ".join(f"{name} by at most {gap:.3g}" for name, gap in gaps.items())
        raise UserError(f"The results differ ({most}). What else differs: {because}.")
    print("Identical: every metric and every prediction.")


def again(cfg: DictConfig, run: Path) -> DictConfig:
    """Return the config of ``train`` for a run's stored data, classifier, seed and trainer.

    Raises:
        UserError: the stored config is refused (see ``mpoxcv.storage.stored_config``).
    """
    stored, parts = stored_parts(run, cfg.trust, cfg.data)
    trainer: Any = OmegaConf.to_container(stored.trainer, resolve=True)
    plain = {name: v for name, v in dict(trainer).items() if not isinstance(v, dict | list)}
    numbers = {name: value for name, value in plain.items() if name not in OWN_TRAINER}

    callbacks = {k: v for k, v in cfg.callbacks.items() if read(stored, f"callbacks.{k}")}
    for key in ("monitor", "mode"):
        choice = read(stored, f"callbacks.checkpoint.{key}")
        if choice and "checkpoint" in callbacks:
            callbacks["checkpoint"] = {**callbacks["checkpoint"], key: choice}
    for name, callback in (stored.get("callbacks") or {}).items():
        if read(callback, "_target_") == "lightning.pytorch.callbacks.EarlyStopping":
            callbacks[name] = callback

    names = ("fold", "seed", "name", "model", "optimizer", "scheduler", "ckpt_path")
    config = {name: stored.get(name) for name in names} | parts
    if config["ckpt_path"] == "last":
        # it went on with itself
        config["ckpt_path"] = None
    config |= {"trainer": {**cfg.trainer, **numbers}, "callbacks": callbacks, "logger": cfg.logger}
    return OmegaConf.create(config | {"output_dir": cfg.output_dir, "resume": False})


def compare(one: Path, other: Path) -> dict[str, float]:
    """Return the largest gaps of two runs' predictions, inf for other pictures, and metrics."""
    metrics, others = (read_metrics(run / "metrics.json") for run in (one, other))
    gaps = [_gap(metrics.get(name), others.get(name)) for name in {*metrics, *others}]

    tables = [read_predictions(run / "predictions.csv") for run in (one, other)]
    left, right = (table.sort_values(["split", "image"]) for table in tables)
    keys = ["split", "image", "label"]
    gap = float("inf")
    if list(left) == list(right) and np.array_equal(left[keys], right[keys]):
        gap = float(np.abs(probabilities_of(left) - probabilities_of(right)).max())
    return {"predictions": gap, "metrics": max(gaps, default=0.0)}


def _gap(value: float | None, other: float | None) -> float:
    # None: not defined
    if value is None or other is None:
        return 0.0 if value == other else float("inf")
    return abs(value - other)


def read(content: Any, key: str) -> Any:
    """Return a value by its dotted name, or None."""
    for name in key.split("."):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def _differences(key: str, before: Any, after: Any) -> list[tuple[str, tuple[Any, Any]]]:
    old, new = read(before, key), read(after, key)
    if isinstance(old, dict) and isinstance(new, dict) and key != "data.counts":
        return [(f"{key}.{name}", pair) for name, pair in differences(old, new).items()]
    return list(differences({key: old}, {key: new}).items())


def _print(title: str, differing: dict[str, tuple[Any, Any]], gaps: dict[str, float]) -> None:
    console = Console(markup=False, highlight=False)
    columns = (Column(name, overflow="fold") for name in ("", "the run", "now"))
    table = Table(*columns, title=title, title_justify="left")
    for key, pair in differing.items():
        table.add_row(key, *(("changed", "") if key == "data.counts" else map(str, pair)))
    for name, gap in gaps.items():
        table.add_row(name, "", f"differ by at most {gap:.3g}" if gap else "identical")
    console.print(table)
