"""A finished run run again: what it was made of and what it gave, beside what it gives now."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from mpoxcv.commands import train as experiment
from mpoxcv.commands.record import differences, finished_metrics, told
from mpoxcv.errors import UserError
from mpoxcv.evaluation.predictions import probabilities_of, read_predictions
from mpoxcv.evaluation.runs import flat
from mpoxcv.explain import blaming
from mpoxcv.storage.files import read_json, read_metrics
from mpoxcv.storage.stored_config import instantiable, resolved
from mpoxcv.terminal import say
from mpoxcv.use.stored_run import stored_parts

# of a stored config, what is taken besides data and classifier
TAKEN = ("fold", "seed", "ckpt_path", "trainer", "callbacks")
# of its trainer, what changes results
OF_TRAINER = frozenset({
    "accelerator", "accumulate_grad_batches", "benchmark", "check_val_every_n_epoch",
    "deterministic", "devices", "gradient_clip_algorithm", "gradient_clip_val",
    "limit_test_batches", "limit_train_batches", "limit_val_batches", "max_epochs", "max_steps",
    "min_epochs", "min_steps", "overfit_batches", "precision", "strategy", "sync_batchnorm",
    "use_distributed_sampler", "val_check_interval",
})  # fmt: skip
# of a stored run's callbacks, those that change its results and read or write nothing
KEPT_CALLBACKS = tuple(f"lightning.pytorch.callbacks.{name}" for name in (
    "BackboneFinetuning", "EMAWeightAveraging", "EarlyStopping", "GradientAccumulationScheduler",
    "WeightAveraging",
))  # fmt: skip
MAX_THREADS = 1024
# of provenance.json, what may explain other results
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
    threads = before.get("accelerator.threads")
    # the last digits depend on it
    if isinstance(threads, int) and 0 < threads <= MAX_THREADS:
        torch.set_num_threads(threads)
    with blaming(run):
        experiment.train(again(cfg, run))

    differing = differences(before, explaining(output))
    gaps = compare(run, output)
    say(f"What was then ({run}), and is now ({output}):\n{told(differing) or '  the same'}")
    if any(gaps.values()):
        because = ", ".join(differing) or "nothing that is recorded"
        most = ", ".join(f"{name} by at most {gap:.3g}" for name, gap in gaps.items())
        raise UserError(f"The results differ ({most}). What else differs: {because}.")
    say("Identical: every metric and every prediction.")


def again(cfg: DictConfig, run: Path) -> DictConfig:
    """Return the config of ``train`` for a run's stored data, classifier, seed and trainer.

    Raises:
        UserError: the stored config is refused (see ``mpoxcv.storage.stored_config``).
    """
    stored, parts = stored_parts(run, cfg.trust, cfg.data, "train")
    file = run / ".hydra" / "config.yaml"
    config = {name: resolved(stored, name, file) for name in TAKEN}
    # of what is called without a check, plain values alone
    trainer = _plain(config["trainer"])
    numbers = {name: value for name, value in trainer.items() if name in OF_TRAINER}
    stored_callbacks = config["callbacks"] if isinstance(config["callbacks"], dict) else {}
    had = {name: _plain(callback) for name, callback in stored_callbacks.items() if callback}
    callbacks = {name: callback for name, callback in cfg.callbacks.items() if name in had}
    if "checkpoint" in callbacks:
        chosen = {k: v for k, v in had["checkpoint"].items() if k in ("monitor", "mode")}
        callbacks["checkpoint"] = {**callbacks["checkpoint"], **chosen}
    for name, callback in had.items():
        if (target := callback.get("_target_")) in KEPT_CALLBACKS or target in cfg.trust:
            part = stored_callbacks[name]
            callbacks[name] = instantiable(part, name, file, cfg.trust, KEPT_CALLBACKS)

    if config["ckpt_path"] == "last":
        # it went on with itself
        config["ckpt_path"] = None
    config |= {**parts, "trainer": {**cfg.trainer, **numbers}, "callbacks": callbacks}
    config |= {"logger": cfg.logger, "output_dir": cfg.output_dir, "resume": False}
    return OmegaConf.create(config)


def _plain(options: Any) -> dict[str, Any]:
    """Return what is neither a mapping nor a list."""
    options = options if isinstance(options, dict) else {}
    return {name: value for name, value in options.items() if not isinstance(value, dict | list)}


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
    return {name: value for name, value in content.items() if name.startswith(COMPARED)}
