"""The launcher ``lockstep``, where Hydra looks for plugins: all runs in one process, as one."""

from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class LockstepLauncher(Launcher):
    """Launch the jobs by ``run_together``; folders and files are those of Hydra's launcher."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take over what Hydra gives."""
        self.hydra_context, self.config = hydra_context, config
        self.task_function = task_function

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; return how each ended."""
        # here, since Hydra imports its plugins for every command
        from mpoxcv.lockstep.lockstep import run_together

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs = [self._job(*job) for job in enumerate(job_overrides, initial_job_idx)]
        return run_together(jobs)

    def _job(self, number: int, overrides: Sequence[str]) -> Callable[[], Any]:
        loader = self.hydra_context.config_loader
        config = loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        folders = ("hydra.sweep.dir", "hydra.sweep.subdir")
        return lambda: run_job(self.task_function, config, *folders, self.hydra_context)
