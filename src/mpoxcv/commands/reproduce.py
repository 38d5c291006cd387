"""A finished run run again: what it was made of and what it gave, beside what it gives now."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from mpoxcv.commands import train as experiment
from mpoxcv.commands.run_folder import finished_metrics
from mpoxcv.errors import UserError
from mpoxcv.evaluation.predictions import probabilities_of, read_predictions
from mpoxcv.storage.files import read_json, read_metrics
from mpoxcv.storage.stored_config import instantiable, load_config

OWN_TRAINER = (
    "_target_",
    "plugins",
    "default_root_dir",
    "profiler",
)  # of a stored trainer, what is not taken
EARLY_STOPPING = "lightning.pytorch.callbacks.EarlyStopping"
COMPARED = (  # of provenance.json, in the order of what explains most
    "data.fingerprint", "data.counts", "git.commit", "git.changed", "packages", "python", "platform", "accelerator.type",
    "accelerator.name", "accelerator.processes", "accelerator.precision", "accelerator.threads", "environment",
)  # fmt: skip


def reproduce(cfg: DictConfig) -> None:
    """Train a run's config again and compare.

    Args:
        cfg: ``conf/reproduce.yaml`` as composed.

    Raises:
        UserError: the folder holds no finished run, its config is refused, or the results differ: says by how much, and
            which differences of data, versions or machine go with it.
    """
    run, output = Path(cfg.run), Path(cfg.output_dir)
    if finished_metrics(run) is None:
        raise UserError(
            f"{run} is not the folder of a finished run: its provenance.json does not say that it is."
        )
    before = read_json(run / "provenance.json")
    if threads := read(before, "accelerator.threads"):
        torch.set_num_threads(int(threads))  # the last digits depend on it
    experiment.train(again(cfg, run))
    now = read_json(output / "provenance.json")
    differing = {key: values for key in COMPARED for key, values in _differences(key, before, now)}
    found = compare(run, output)
    _print(differing, found, run, output)
    if any(found.values()):
        because = ", ".join(differing) or "nothing that is recorded"
        raise UserError(
            f"The results differ (predictions by at most {found['predictions']:.3g}, metrics by at most "
            f"{found['metrics']:.3g}). What else differs: {because}."
        )
    print("Identical: every metric and every prediction.")


def again(cfg: DictConfig, run: Path) -> DictConfig:
    """Return the config of ``train`` for a run's stored one: its data, classifier, seed and numbers of the trainer.

    Raises:
        UserError: the stored config is refused (see ``mpoxcv.storage.stored_config``).
    """
    file = run / ".hydra" / "config.yaml"
    stored = load_config(file, cfg.trust)
    OmegaConf.update(stored, "data.cache_dir", cfg.data.cache_dir)
    if cfg.data.root:
        OmegaConf.update(stored, "data.root", cfg.data.root)
    parts: dict[str, Any] = {
        key: instantiable(stored, key, file, cfg.trust) for key in ("data", "classifier")
    }
    trainer = OmegaConf.to_container(stored.trainer, resolve=True)
    kept = {
        k: v
        for k, v in dict(trainer).items()
        if k not in OWN_TRAINER and not isinstance(v, dict | list)
    }  # type: ignore[arg-type]
    parts["trainer"] = {**cfg.trainer, **kept}
    callbacks = {
        name: callback
        for name, callback in cfg.callbacks.items()
        if read(stored, f"callbacks.{name}")
    }
    if "checkpoint" in callbacks:
        chosen = {key: read(stored, f"callbacks.checkpoint.{key}") for key in ("monitor", "mode")}
        callbacks["checkpoint"] = {
            **callbacks["checkpoint"],
            **{k: v for k, v in chosen.items() if v},
        }
    for name, callback in (stored.get("callbacks") or {}).items():
        if read(callback, "_target_") == EARLY_STOPPING:
            callbacks[name] = callback
    named = {
        key: stored.get(key)
        for key in ("fold", "seed", "name", "model", "optimizer", "scheduler", "ckpt_path")
    }
    if named["ckpt_path"] == "last":  # it went on with itself
        named["ckpt_path"] = None
    own = {
        "callbacks": callbacks,
        "logger": cfg.logger,
        "output_dir": cfg.output_dir,
        "resume": False,
    }
    return OmegaConf.create(named | parts | own)


def compare(one: Path, other: Path) -> dict[str, float]:
    """Return the largest difference of two runs' metrics and predictions; infinite where they are of other pictures."""
    before, now = (read_metrics(run / "metrics.json") for run in (one, other))
    gaps = [_gap(before.get(name), now.get(name)) for name in {*before, *now}]
    tables = [
        read_predictions(run / "predictions.csv").sort_values(["split", "image"])
        for run in (one, other)
    ]
    keys = [table[["split", "image", "label"]].to_numpy().tolist() for table in tables]
    same = keys[0] == keys[1] and list(tables[0].columns) == list(tables[1].columns)
    p = (
        float(np.abs(probabilities_of(tables[0]) - probabilities_of(tables[1])).max())
        if same
        else float("inf")
    )
    return {"predictions": p, "metrics": max(gaps, default=0.0)}


def _gap(one: float | None, other: float | None) -> float:
    if one is None or other is None:  # not defined
        return 0.0 if one == other else float("inf")
    return abs(one - other)


def read(content: Any, key: str) -> Any:
    """Return a value by its dotted name, or None."""
    for name in key.split("."):
        content = content.get(name) if isinstance(content, Mapping | DictConfig) else None
    return content


def _differences(key: str, before: Any, now: Any) -> list[tuple[str, tuple[Any, Any]]]:
    old, new = read(before, key), read(now, key)
    if isinstance(old, dict) and isinstance(new, dict) and key != "data.counts":
        return [
            (f"{key}.{k}", (old.get(k), new.get(k)))
            for k in {**old, **new}
            if old.get(k) != new.get(k)
        ]
    return [] if old == new else [(key, (old, new))]


def _print(
    differing: Mapping[str, tuple[Any, Any]], found: Mapping[str, float], run: Path, output: Path
) -> None:
    console = Console(markup=False, highlight=False)
    table = Table(title=f"{run} and {output}", title_justify="left")
    for column in ("", "the run", "now"):
        table.add_column(column, overflow="fold")
    for key, (old, new) in differing.items():
        table.add_row(
            key,
            "changed" if key == "data.counts" else str(old),
            "" if key == "data.counts" else str(new),
        )
    for name, gap in found.items():
        table.add_row(name, "", "identical" if not gap else f"differ by at most {gap:.3g}")
    console.print(table)
