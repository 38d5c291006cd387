"""Several runs in one process, their networks trained as one; each stays a run with its Trainer.

A run's Trainer lives in a greenlet. For every epoch of training the greenlet stops, the epochs of
all runs are computed side by side, and the greenlets go on, one at a time, with what is left of the
epoch: validation, metrics, checkpoints, early stop. (With threads in their place a step takes a
quarter longer: each brings OpenMP workers of its own, and where these are more than the cores, they
sleep between parallel regions.)

Legend: F runs, B batch, C classes.
"""

import contextlib
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import lightning as L
import torch
from greenlet import getcurrent, greenlet
from rich.progress import Progress
from torch import Tensor

from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.data.loader import Batch, BatchLoader
from mpoxcv.lockstep.alone import why_alone
from mpoxcv.lockstep.counters import count_batches, count_steps
from mpoxcv.lockstep.cuda_graph import GraphedStep, capturable
from mpoxcv.lockstep.grouped import GroupedLeNet
from mpoxcv.models.lenet import LeNet
from mpoxcv.training.classifier import LesionClassifier


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
        self.job = job
        self.result: Any = None
        # logits, labels and index of the last epoch
        self.outputs: list[Tensor]

    def run(self) -> None:
        """Run the job; ``switch`` goes on with it until its next epoch of training, or its end."""
        self.result = self.job()

    def join_in(
        self, classifier: LesionClassifier, datamodule: MSLDDataModule, trainer: L.Trainer
    ) -> str | None:
        """Let this run's epochs be computed with the others'; return why not, where they cannot."""
        if reason := why_alone(classifier, datamodule, trainer):
            return reason
        self.classifier, self.trainer = classifier, trainer
        self._make_loader = datamodule.train_dataloader
        self._on_epoch_end = classifier.on_train_epoch_end

        datamodule.train_dataloader = self._one_item  # type: ignore[method-assign, assignment]
        classifier.training_step = self._epoch  # type: ignore[method-assign]
        classifier.backward = lambda *args, **kwargs: None  # type: ignore[method-assign]
        classifier.optimizer_step = lambda epoch, batch, optimizer, closure: closure()  # type: ignore
        classifier.on_train_epoch_end = self._epoch_ends  # type: ignore[method-assign]
        return None

    def _one_item(self) -> list[dict[str, Tensor]]:
        self.loader: BatchLoader = self._make_loader()
        return [{"label": torch.zeros(1)}]

    def _epoch(self, batch: Any, batch_idx: int) -> Tensor:
        """Stand in for an epoch's steps: wait until they are computed."""
        self.loader.set_epoch(self.trainer.current_epoch)
        self.parent.switch()
        self.classifier.keep_step(*self.outputs)
        # Lightning counts one itself
        count_steps(self.trainer, len(self.loader) - 1)
        return torch.zeros((), requires_grad=True)

    def _epoch_ends(self) -> None:
        count_batches(self.trainer, len(self.loader) - 1)
        self._on_epoch_end()


def run_together(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run all jobs, as if one after another, and return what they return.

    Raises:
        BaseException: what a job raised; the others are stopped as by Ctrl-C.
    """
    members = [Member(job) for job in jobs]
    try:
        for member in members:
            member.switch()
        with Progress(transient=True) as bar:
            _run_epochs(members, bar)
    except BaseException:
        for member in members:
            if not member.dead:
                with contextlib.suppress(SystemExit):
                    member.throw(SystemExit(130))
        raise
    return [member.result for member in members]


def _run_epochs(members: Sequence[Member], bar: Progress) -> None:
    """Compute the epochs that members wait for, until none does."""
    task = bar.add_task("")
    group: Group | None = None
    # a member that has not ended has stopped at an epoch
    while waiting := [member for member in members if not member.dead]:
        # networks of one kind can be one
        kinds: dict[Any, list[Member]] = {}
        for member in waiting:
            kind = len(member.classifier.classes), member.classifier.device
            kinds.setdefault(kind, []).append(member)
        for alike in kinds.values():
            trainer = alike[0].trainer
            epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs
            what = f"{len(alike)} runs, epoch {epoch}/{epochs}"
            bar.update(task, description=what, completed=epoch, total=epochs)
            if group is None or group.members != alike:
                group = Group(alike)
            group.run_epoch()
        for member in waiting:
            member.switch()


class Group:
    """Members whose networks are computed as one."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self.network = GroupedLeNet([member.classifier.network for member in members])
        self.device = members[0].classifier.device
        no_pictures = torch.zeros(0, 3, LeNet.IMAGE_SIZE, LeNet.IMAGE_SIZE)
        nothing = torch.zeros(0).long()
        self.empty_batch: Batch = {"image": no_pictures, "label": nothing, "index": nothing}
        optimizers = [member.trainer.optimizers[0] for member in members]
        self.step = GraphedStep(self._step, optimizers) if capturable(optimizers) else self._step

    def run_epoch(self) -> None:
        """Train all members for one epoch: each on its batches, with its loss and optimizer."""
        loaders = [member.loader for member in self.members]
        outputs: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in self.members]
        for batches in zip_longest(*loaders, fillvalue=self.empty_batch):
            images = [batch["image"].to(self.device) for batch in batches]
            labels = [batch["label"].to(self.device) for batch in batches]
            logits = self.step(*images, *labels)
            for i, batch in enumerate(batches):
                if size := len(labels[i]):
                    outputs[i].append((logits[i, :size], labels[i], batch["index"]))

        for member, steps in zip(self.members, outputs, strict=True):
            member.outputs = [torch.cat(part) for part in zip(*steps, strict=True)]

    def _step(self, *batch: Tensor) -> Tensor:
        """Train on F batches of pictures and F of labels, some empty; return scores (F, B, C)."""
        images, labels = batch[: len(self.members)], batch[len(self.members) :]
        logits = self.network(images)
        training = [i for i, targets in enumerate(labels) if len(targets)]
        losses = [
            self.members[i].classifier.loss(logits[i, : len(labels[i])], labels[i])
            for i in training
        ]
        for i in training:
            self.members[i].trainer.optimizers[0].zero_grad()
        torch.stack(losses).sum().backward()

        for i in training:
            trainer = self.members[i].trainer
            if clip := trainer.gradient_clip_val:
                torch.nn.utils.clip_grad_norm_(self.members[i].classifier.parameters(), clip)
            trainer.optimizers[0].step()
        return logits.detach()
