"""Hyper-parameter search with optuna: cross-validated on Valid, the test sets never read."""

import copy
import logging
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mpoxcv.cli import as_given
from mpoxcv.command_line import command_for, setting
from mpoxcv.commands import train
from mpoxcv.commands.record import begin, options_of
from mpoxcv.errors import Diverged, UserError, check_choice
from mpoxcv.evaluation.runs import flat
from mpoxcv.explain import blaming
from mpoxcv.storage.files import write_csv
from mpoxcv.storage.markup import for_spreadsheets
from mpoxcv.terminal import say
from mpoxcv.training.callbacks.provenance import versions
from mpoxcv.training.loggers import ended

# of a space, by which optuna suggests values
KINDS = ("float", "int", "categorical")


def search(cfg: DictConfig) -> dict[str, Any]:
    """Run trials until the study has ``cfg.hparams_search.trials``; return the best one's options.

    A trial trains every fold in turn; its value is the mean over folds of the metric, averaged over
    a fit's last epochs (the best epoch's value would reward luck). After each fold a trial that is
    worse than the median of the earlier ones ends. The study lies in ``study.db`` of the output
    folder: the same command on the same folder goes on with it, more trials too.

    Raises:
        UserError: optuna is missing, the search space is not as it must be, or the folder holds a
            search with other options or data.
    """
    import optuna

    plan = cfg.hparams_search
    folder = Path(cfg.output_dir)
    spaces: dict[str, dict[str, Any]] = {}
    # options by dotted names, or as they are nested
    for key, value in flat(OmegaConf.to_container(plan.space, resolve=True)).items():
        name, _, argument = key.rpartition(".")
        spaces.setdefault(name, {})[argument] = value
    for name, space in spaces.items():
        check_choice(f"hparams_search.space.{name}.type", space.get("type"), KINDS)
        if OmegaConf.select(cfg, name, default=KINDS) is KINDS:
            reason = f"names {name}, which is no option. All options: --cfg job"
            raise UserError(f"hparams_search.space {reason}")
    begin(folder, beginning(cfg))

    optuna.logging.set_verbosity(logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=plan.startup_trials, n_warmup_steps=1)
    settings = {"study_name": str(plan.name), "direction": plan.direction, "load_if_exists": True}
    # a URL would take a folder's ? and # for its own
    database = {"creator": lambda: sqlite3.connect(folder / "study.db")}
    storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs=database)
    with blaming(folder):
        study = optuna.create_study(storage=storage, pruner=pruner, **settings)
        finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        trials = max(0, plan.trials - len(study.get_trials(states=finished)))
    # with the seed alone, a search that goes on would try the first trials' options again
    study.sampler = optuna.samplers.TPESampler(seed=cfg.seed + len(study.trials))

    def objective(trial: Any) -> float:
        options = {}
        for name, space in spaces.items():
            arguments = {key: value for key, value in space.items() if key != "type"}
            options[name] = getattr(trial, f"suggest_{space['type']}")(name, **arguments)

        values: list[float] = []
        for fold in plan.folds:
            run = folder / f"trial={trial.number}" / f"fold={fold}"
            values.append(validated(cfg, options | {"fold": fold, "output_dir": str(run)}))
            trial.report(float(np.mean(values)), step=len(values))
            say(f"trial {trial.number}, fold {fold}: {plan.metric} {values[-1]:.4f}")
            if trial.should_prune() and len(values) < len(plan.folds):
                raise optuna.TrialPruned
        return float(np.mean(values))

    # a trial that diverges has failed
    study.optimize(objective, trials, catch=(Diverged,))
    write_csv(folder / "trials.csv", for_spreadsheets(study.trials_dataframe()))

    best = {name: value for name, value in study.best_params.items() if name in spaces}
    where = f"mean over folds on Valid, trial {study.best_trial.number}"
    say(f"Best of {len(study.trials)} trials: {plan.metric} {study.best_value:.4f}, {where}")

    search_only = ("hparams_search", "callbacks", "logger")
    given = HydraConfig.get().overrides
    searched = [o for o in as_given(given.hydra) if o.startswith("hydra.searchpath")]
    typed = [*as_given(given.task), *searched]
    overrides = [f"fold={','.join(map(str, plan.folds))}"]
    overrides += [option for option in typed if not option.startswith(search_only)]
    overrides += [setting(name, value) for name, value in best.items()]
    say(f"Now test it, once:\n  {command_for('train', '-m', *overrides)}")
    return best


def beginning(cfg: DictConfig) -> dict[str, Any]:
    """Return what a search is made of: of the data Train and Valid, since it never reads Test."""
    data: dict[str, str] = {}
    for fold in cfg.hparams_search.folds:
        began = train.beginning(instantiate(OmegaConf.merge(cfg, {"fold": fold}).data))
        data |= {f"fold {fold}, {split}": began["data"][split] for split in ("train", "val")}
    return {"options": options_of(cfg), "data": data, "versions": versions()}


def validated(cfg: DictConfig, options: dict[str, Any]) -> float:
    """Train one fold and return the metric on Valid, averaged over the last epochs."""
    plan = cfg.hparams_search
    cfg = copy.deepcopy(cfg)
    for name, value in options.items():
        OmegaConf.update(cfg, name, value, force_add=True)
    datamodule, classifier, trainer = train.build(cfg)
    with ended(trainer.loggers):
        trainer.fit(classifier, datamodule)
    return float(np.mean([row[plan.metric] for row in classifier.history[-plan.average_last :]]))
