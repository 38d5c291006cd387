"""Lightning's loop over the batches of an epoch, without the hooks that nobody listens to."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy

from mpoxcv.training.classifier import LesionClassifier

BAR_EVERY = 0.1  # s
INNER_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")


class LeanEpochLoop(_TrainingEpochLoop):
    """Trains to the same bits and counts the same, in a quarter of Lightning's time around a step (0.3 ms of a LeNet's 4 ms).

    Progress bars are called ten times a second. An epoch's first and last batch, which open and close its records, are
    Lightning's; so are all where the trainer, a callback or a subclass of the classifier asks for more than plain steps.
    """

    def on_run_start(self, data_fetcher: Any) -> None:
        """See what has to be called in this epoch."""
        super().on_run_start(data_fetcher)
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        self._plain = is_plain(self.trainer) and not any(_hears(c, name) for c in callbacks for name in INNER_HOOKS)
        self._at_start = [c.on_train_batch_start for c in callbacks if _hears(c, "on_train_batch_start")]
        ends = [c for c in callbacks if _hears(c, "on_train_batch_end")]
        self._at_end = [c.on_train_batch_end for c in ends if not isinstance(c, ProgressBar)]
        self._bars = [c.on_train_batch_end for c in ends if isinstance(c, ProgressBar)]
        self._lean, self._drawn = False, 0.0

    def advance(self, data_fetcher: Any) -> None:
        """Train on the next batch."""
        trainer, done = self.trainer, self.batch_progress.current.ready
        self._lean = self._plain and not self.restarting and 0 < done < trainer.num_training_batches - 1
        if not self._lean:
            super().advance(data_fetcher)
            return
        module: Any = trainer.lightning_module
        optimizer = trainer.optimizers[0]
        counts = self.automatic_optimization.optim_progress.optimizer
        batch, _, _ = next(data_fetcher)
        if batch["image"].device != module.device:
            batch = trainer.strategy.batch_to_device(batch)
        self.batch_progress.increment_ready()
        for begin in self._at_start:
            begin(trainer, module, batch, done)
        module.on_train_batch_start(batch, done)
        self.batch_progress.increment_started()
        counts.step.increment_ready()
        loss = module.training_step(batch, done)
        counts.zero_grad.increment_ready()
        counts.zero_grad.increment_started()
        optimizer.zero_grad()
        counts.zero_grad.increment_completed()
        loss.backward()
        optimizer.step()
        counts.step.increment_completed()
        self.batch_progress.increment_processed()
        now = time.monotonic()
        due = now > self._drawn + BAR_EVERY
        self._drawn = now if due else self._drawn
        for end in [*self._at_end, *self._bars] if due else self._at_end:
            end(trainer, module, {"loss": loss.detach()}, batch, done)
        self.batch_progress.increment_completed()

    def on_advance_end(self, data_fetcher: Any) -> None:
        """Count the step; after a whole epoch, validate."""
        if self._lean and not self.trainer.received_sigterm:
            self._batches_that_stepped += 1
        else:
            super().on_advance_end(data_fetcher)


def take_lean_steps(trainer: L.Trainer) -> None:
    """Let a trainer's epochs be run by :class:`LeanEpochLoop`."""
    loop = trainer.fit_loop.epoch_loop
    trainer.fit_loop.epoch_loop = LeanEpochLoop(trainer, loop.min_steps, loop.max_steps)


def is_plain(trainer: L.Trainer) -> bool:
    """Return whether a step is forward, backward and the optimizer, in this process and with float32 throughout."""
    return (
        type(trainer.lightning_module) is LesionClassifier
        and type(trainer.strategy) is SingleDeviceStrategy
        and str(trainer.precision) == "32-true"
        and trainer.accumulate_grad_batches == 1
        and not trainer.gradient_clip_val
        and trainer.val_check_batch == trainer.num_training_batches
        and isinstance(trainer.profiler, PassThroughProfiler)  # type: ignore[attr-defined]
    )


def _hears(callback: Callback, hook: str) -> bool:
    return getattr(type(callback), hook) is not getattr(Callback, hook)
