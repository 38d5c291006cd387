"""Lightning's counters of batches and steps, which see one step of an epoch in lockstep.

No public name sets them; checkpoints hold them, and a run goes on from there. Seen in Lightning
2.6.6; ``tests/lockstep/test_lockstep.py`` compares them with those of runs one after another.
"""

from typing import Any

import lightning as L


def count_steps(trainer: L.Trainer, steps: int) -> None:
    """Add optimizer steps to those that Lightning has counted."""
    loop: Any = trainer.fit_loop.epoch_loop
    progress = loop.automatic_optimization.optim_progress.optimizer
    _add(progress.step, steps)
    _add(progress.zero_grad, steps)
    # what loggers take for the step
    loop._batches_that_stepped += steps


def count_batches(trainer: L.Trainer, batches: int) -> None:
    """Add batches to those that Lightning has counted."""
    _add(trainer.fit_loop.epoch_loop.batch_progress, batches)


def _add(progress: Any, number: int) -> None:
    for count in (progress.total, progress.current):
        for name in vars(count):
            setattr(count, name, getattr(count, name) + number)
