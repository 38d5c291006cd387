"""The Hydra launcher ``lockstep``: all runs of a multirun in this process, their networks trained as one."""

from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class LockstepLauncher(Launcher):
    """Launch the jobs by ``mpoxcv.lockstep.lockstep.run_together``; folders and files are those of Hydra's own launcher."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take over what Hydra gives."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; return how each ended."""
        from mpoxcv.lockstep.lockstep import (
            run_together,
        )  # here, since Hydra imports its plugins for every command

        setup_globals()

        def job(number: int, overrides: Sequence[str]) -> Callable[[], Any]:
            config = self.hydra_context.config_loader.load_sweep_config(
                self.config, list(overrides)
            )
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            return lambda: run_job(
                self.task_function,
                config,
                "hydra.sweep.dir",
                "hydra.sweep.subdir",
                self.hydra_context,
            )

        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return run_together(
            [job(number, own) for number, own in enumerate(job_overrides, initial_job_idx)]
        )
