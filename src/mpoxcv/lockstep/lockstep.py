"""Several runs in one process, their networks trained as one: each run stays a run of its own, with its own Trainer.

A run's Trainer lives in a greenlet. For every epoch of training the greenlet stops, the epochs of all runs are computed side
by side, and the greenlets go on, one at a time, with what is left of the epoch: validation, metrics, checkpoints, early
stop. (With threads in their place a step takes a quarter longer: each brings OpenMP workers of its own, and where these are
more than the cores, they sleep between parallel regions.)

Legend: F runs, B batch, C classes.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from greenlet import getcurrent, greenlet
from lightning.pytorch.utilities import GradClipAlgorithmType
from rich.progress import Progress
from torch import Tensor

from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.data.loader import BatchLoader
from mpoxcv.lockstep.cuda_graph import GraphedStep, capturable
from mpoxcv.lockstep.grouped import GroupedLeNet
from mpoxcv.models.lenet import LeNet
from mpoxcv.training.callbacks.within_epoch import WithinEpochCheckpoint
from mpoxcv.training.classifier import LesionClassifier
from mpoxcv.training.memory import keep_freed_memory


def current() -> "Member | None":
    """Return the member that calls this."""
    member = getcurrent()
    return member if isinstance(member, Member) else None


class Member(greenlet):
    """A run that takes part; a run that cannot be grouped goes through without a stop.

    Args:
        job: the whole run; calls ``join_in`` before it fits.
    """

    def __init__(self, job: Callable[[], Any]) -> None:
        super().__init__()
        self.job, self.result, self.waiting = job, None, False
        self.outputs: tuple[Tensor, Tensor, Tensor]  # logits, labels and index of the last epoch

    def run(self) -> None:
        """Run the job; ``switch`` goes on with it until its next epoch of training, or its end, and raises what it raises."""
        self.result = self.job()

    def join_in(
        self, classifier: LesionClassifier, datamodule: MSLDDataModule, trainer: L.Trainer
    ) -> str | None:
        """Let this run's epochs be computed with the others'; return why not, where they cannot be."""
        if reason := why_alone(classifier, datamodule, trainer):
            return reason
        self.classifier, self.trainer = classifier, trainer
        self._own_loader = datamodule.train_dataloader
        datamodule.train_dataloader = self._one_item  # type: ignore[method-assign, assignment]
        classifier.training_step = self._epoch  # type: ignore[method-assign]
        classifier.backward = lambda *args, **kwargs: None  # type: ignore[method-assign]
        classifier.optimizer_step = lambda epoch, batch, optimizer, closure: closure()  # type: ignore
        self._on_save, self._on_end = classifier.on_save_checkpoint, classifier.on_train_epoch_end
        classifier.on_save_checkpoint = self._save  # type: ignore[method-assign]
        classifier.on_train_epoch_end = self._count_batches  # type: ignore[method-assign]
        return None

    def _one_item(self) -> list[dict[str, Tensor]]:
        self.loader: BatchLoader = self._own_loader()
        return [{"label": torch.zeros(1)}]

    def _epoch(self, batch: Any, batch_idx: int) -> Tensor:
        """Stand in for an epoch's steps: wait until they are computed."""
        self.loader.set_epoch(self.trainer.current_epoch)
        self.waiting = True
        try:
            self.parent.switch()
        finally:
            self.waiting = False
        self.classifier._steps.append(self.outputs)
        loop = self.trainer.fit_loop.epoch_loop
        optimizer = loop.automatic_optimization.optim_progress.optimizer
        self._count(optimizer.step, optimizer.zero_grad)
        loop._batches_that_stepped += len(self.loader) - 1
        return torch.zeros((), requires_grad=True)

    def _count_batches(self) -> None:
        """Let checkpoints hold the numbers of batches that the run has seen."""
        self._count(self.trainer.fit_loop.epoch_loop.batch_progress)
        self._on_end()

    def _count(self, *progresses: Any) -> None:
        """Add to Lightning's counters, which have counted one step, the epoch's others."""
        for count in (
            count for progress in progresses for count in (progress.total, progress.current)
        ):
            for name in vars(count):
                setattr(count, name, getattr(count, name) + len(self.loader) - 1)

    def _save(self, checkpoint: dict[str, Any]) -> None:
        # a view would be written with all that it is a view of
        checkpoint["state_dict"] = {
            name: value.clone() for name, value in checkpoint["state_dict"].items()
        }
        self._on_save(checkpoint)


def why_alone(
    classifier: LesionClassifier, datamodule: MSLDDataModule, trainer: L.Trainer
) -> str | None:
    """Return why a run's epochs cannot be computed with others', or None."""
    if type(classifier) is not LesionClassifier:
        return "its classifier is a subclass of LesionClassifier"
    if type(classifier.network) is not LeNet:
        return f"the network is {type(classifier.network).__name__}, and only LeNets are grouped"
    if datamodule.image_size != LeNet.IMAGE_SIZE:
        return f"data.image_size={datamodule.image_size}"
    if classifier.network._compiled_call_impl is not None:
        return "classifier.compile=true"
    if (
        trainer.world_size > 1
        or str(trainer.precision) != "32-true"
        or trainer.accumulate_grad_batches != 1
    ):
        return "trainer.strategy, trainer.precision or trainer.accumulate_grad_batches is not the default"
    if (
        trainer.max_steps != -1
        or trainer.limit_train_batches != 1.0
        or getattr(trainer, "overfit_batches", False)
    ):
        return "trainer.max_steps, trainer.limit_train_batches or trainer.overfit_batches is set"
    if trainer.gradient_clip_algorithm not in (None, GradClipAlgorithmType.NORM):
        return "trainer.gradient_clip_algorithm is not norm"
    if any(isinstance(callback, WithinEpochCheckpoint) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        return "callbacks=frequent writes within epochs"
    return None


def run_together(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run all jobs, as if one after another, and return what they return.

    Raises:
        BaseException: what a job raised; the others are stopped as by Ctrl-C.
    """
    keep_freed_memory()
    members = [Member(job) for job in jobs]
    try:
        for member in members:
            member.switch()
        with Progress(transient=True) as bar:
            task = bar.add_task("")
            group: Group | None = None
            while waiting := [member for member in members if member.waiting]:
                kinds: dict[Any, list[Member]] = {}  # those whose networks can be one
                for member in waiting:
                    kinds.setdefault(
                        (len(member.classifier.classes), member.classifier.device), []
                    ).append(member)
                for own in kinds.values():
                    epoch, last = own[0].trainer.current_epoch + 1, own[0].trainer.max_epochs
                    bar.update(
                        task,
                        description=f"{len(own)} runs, epoch {epoch}/{last}",
                        completed=epoch,
                        total=last,
                    )
                    if group is None or group.members != own:
                        group = Group(own)
                    group.run_epoch()
                for member in waiting:
                    member.switch()
    except BaseException:
        for member in members:
            if member.waiting:
                with contextlib.suppress(SystemExit):
                    member.throw(SystemExit(130))
        raise
    return [member.result for member in members]


class Group:
    """Members whose networks are computed as one."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self.network = GroupedLeNet([member.classifier.network for member in members])
        self.gradients = [[p.grad for p in member.classifier.parameters()] for member in members]
        self.device = members[0].classifier.device
        self.none = {
            "image": torch.zeros(0, 3, LeNet.IMAGE_SIZE, LeNet.IMAGE_SIZE),
            "label": torch.zeros(0).long(),
        }
        optimizers = [member.trainer.optimizers[0] for member in members]
        self.step = GraphedStep(self._step, optimizers) if capturable(optimizers) else self._step

    def run_epoch(self) -> None:
        """Train all members for one epoch: each on its own batches, with its own loss and optimizer."""
        for member, gradients in zip(self.members, self.gradients, strict=True):
            for parameter, gradient in zip(member.classifier.parameters(), gradients, strict=True):
                parameter.grad = gradient  # Lightning takes them away
        batches = [iter(member.loader) for member in self.members]
        outputs: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in self.members]
        for _ in range(max(len(member.loader) for member in self.members)):
            step = [next(own, None) for own in batches]
            given = [self.none if batch is None else batch for batch in step]
            images, labels = (
                [batch[key].to(self.device) for batch in given] for key in ("image", "label")
            )
            logits = self.step(*images, *labels)
            for kept, own, batch, scores in zip(outputs, labels, step, logits, strict=True):
                if batch is not None:
                    kept.append((scores[: len(own)], own, batch["index"]))
        for member, parts in zip(self.members, outputs, strict=True):
            scores, own, index = (torch.cat(part) for part in zip(*parts, strict=True))
            member.outputs = (scores, own, index)

    def _step(self, *batch: Tensor) -> Tensor:
        """Train on F batches of pictures and F of labels, of members that are done empty ones; return scores (F, B, C)."""
        images, labels = batch[: len(self.members)], batch[len(self.members) :]
        logits = self.network(images)
        training = [
            (member, own, i)
            for i, (member, own) in enumerate(zip(self.members, labels, strict=True))
            if len(own)
        ]
        losses = [member.classifier.loss(logits[i, : len(own)], own) for member, own, i in training]
        self.network.clear_gradients()
        torch.stack(losses).sum().backward()
        for member, _, _ in training:
            if clip := member.trainer.gradient_clip_val:
                torch.nn.utils.clip_grad_norm_(member.classifier.parameters(), clip)
            member.trainer.optimizers[0].step()
        return logits.detach()
