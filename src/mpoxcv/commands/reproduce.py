"""A finished run run again: what it was made of and what it gave, beside what it gives now."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Column, Table

from mpoxcv.commands import train as experiment
from mpoxcv.commands.record import differences, finished_metrics
from mpoxcv.commands.run_folder import stored_parts
from mpoxcv.errors import UserError
from mpoxcv.evaluation.predictions import probabilities_of, read_predictions
from mpoxcv.evaluation.runs import flat
from mpoxcv.storage.files import read_json, read_metrics
from mpoxcv.storage.stored_config import instantiable

# of a stored trainer, what is not taken
OWN_TRAINER = ("_target_", "plugins", "default_root_dir", "profiler")
# of a stored run's callbacks, those that change its results and read or write nothing
KEPT_CALLBACKS = tuple(f"lightning.pytorch.callbacks.{name}" for name in (
    "BackboneFinetuning", "EMAWeightAveraging", "EarlyStopping", "GradientAccumulationScheduler",
    "WeightAveraging",
))  # fmt: skip
# of provenance.json, in the order of what explains most
COMPARED = (
    "data.fingerprint", "data.counts", "git", "sources", "packages", "python", "platform",
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
    before = explaining(run)
    if threads := before.get("accelerator.threads"):
        # the last digits depend on it
        torch.set_num_threads(int(threads))
    experiment.train(again(cfg, run))

    differing = differences(before, explaining(output))
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
    stored, parts = stored_parts(run, cfg.trust, cfg.data, with_weights=True)
    trainer: Any = OmegaConf.to_container(stored.trainer, resolve=True)
    plain = {name: v for name, v in dict(trainer).items() if not isinstance(v, dict | list)}
    numbers = {name: value for name, value in plain.items() if name not in OWN_TRAINER}

    stored_callbacks = (stored.get("callbacks") or {}).items()
    had = {name: c for name, c in stored_callbacks if isinstance(c, DictConfig)}
    callbacks = {name: callback for name, callback in cfg.callbacks.items() if name in had}
    if "checkpoint" in callbacks:
        chosen = {k: v for k, v in had["checkpoint"].items() if k in ("monitor", "mode")}
        callbacks["checkpoint"] = {**callbacks["checkpoint"], **chosen}
    for name, callback in had.items():
        if (target := callback.get("_target_")) in KEPT_CALLBACKS or target in cfg.trust:
            file, trusted = run / ".hydra" / "config.yaml", [*KEPT_CALLBACKS, *cfg.trust]
            callbacks[name] = instantiable(stored.callbacks, name, file, trusted)

    names = ("fold", "seed", "name", "model", "optimizer", "scheduler", "ckpt_path")
    config = {name: stored.get(name) for name in names} | parts
    if config["ckpt_path"] == "last":
        # it went on with itself
        config["ckpt_path"] = None
    config |= {"trainer": {**cfg.trainer, **numbers}, "callbacks": callbacks, "logger": cfg.logger}
    return OmegaConf.create(config | {"output_dir": cfg.output_dir, "resume": False})


def compare(one: Path, other: Path) -> dict[str, float]:
    """Return the largest gaps of two runs' predictions, inf for other pictures, and metrics."""
    metrics = (pd.Series(read_metrics(run / "metrics.json"), dtype=float) for run in (one, other))
    then, now = next(metrics).align(next(metrics))
    undefined = then.isna() & now.isna()
    gaps = (then - now).abs().mask(undefined, 0.0).fillna(float("inf"))

    tables = [read_predictions(run / "predictions.csv") for run in (one, other)]
    left, right = (table.sort_values(["split", "image"]) for table in tables)
    keys = ["split", "image", "label"]
    gap = float("inf")
    if list(left) == list(right) and np.array_equal(left[keys], right[keys]):
        gap = float(np.abs(probabilities_of(left) - probabilities_of(right)).max())
    return {"predictions": gap, "metrics": max(gaps, default=0.0)}


def explaining(run: Path) -> dict[str, Any]:
    """Return what a run was made of, by dotted names, as far as it may explain its results."""
    content = flat(read_json(run / "provenance.json"))
    return {
        name: content[name]
        for part in COMPARED for name in content if f"{name}.".startswith(f"{part}.")
    }  # fmt: skip


def _print(title: str, differing: dict[str, tuple[Any, Any]], gaps: dict[str, float]) -> None:
    console = Console(markup=False, highlight=False)
    columns = (Column(name, overflow="fold") for name in ("", "the run", "now"))
    table = Table(*columns, title=title, title_justify="left")
    for key, pair in differing.items():
        table.add_row(key, *map(str, pair))
    for name, gap in gaps.items():
        table.add_row(name, "", f"differ by at most {gap:.3g}" if gap else "identical")
    console.print(table)
