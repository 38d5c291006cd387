"""The LightningModule: any image classifier with its loss, optimizer and metrics.

Legend: B batch, C classes, N pictures of a split.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mpoxcv.data.loader import Batch, mix
from mpoxcv.errors import UserError
from mpoxcv.training.metrics import classification_metrics

PROGRESS_BAR = ("train/loss", "val/loss", "val/f1_macro")
PLATEAU_MONITOR = "val/loss"
COMPILE_MODES = (
    True, False, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs",
)  # fmt: skip
DEFAULT_OPTIMIZER = functools.partial(torch.optim.AdamW, lr=1e-3)


@dataclass(frozen=True)
class SplitOutputs:
    """What the network said of a whole split, in the order of the split's table, on the CPU.

    ``logits`` is float32 (N, C), ``labels`` int64 (N,), ``index`` int64 (N,), row of the table.
    """

    logits: Tensor
    labels: Tensor
    index: Tensor


class LesionClassifier(L.LightningModule):
    """Train and score a network on batches of ``mpoxcv.data.loader.Batch``.

    A step only keeps its outputs; all metrics are computed once, when the split has been seen
    whole, over all processes. They are logged as ``<split>/<metric>``, those of single classes for
    the test split alone, those of a validation outside a fit as ``val_best/<metric>``. ``history``
    holds one row an epoch of a fit; ``outputs`` and ``metrics`` hold each split's last.

    Args:
        network: maps float (B, 3, S, S) to scores (B, C).
        classes: C names.
        optimizer: makes the optimizer from the parameters.
        scheduler: makes the learning-rate scheduler from the optimizer; stepped once an epoch.
            ``ReduceLROnPlateau`` looks at ``val/loss``.
        class_weights: weight of each class in the cross entropy (C,); ``balanced`` takes
            n / (C * n_class) of the training pictures (King and Zeng 2001, as in scikit-learn);
            None weighs all pictures the same.
        label_smoothing: in [0, 1): share of the target that is spread over all classes.
        compile: run the network through ``torch.compile``; a mode of it, such as
            ``reduce-overhead`` (CUDA graphs), or true.
        seed: of dropout and the like, drawn anew in each step from (seed, epoch, step), so that a
            resumed run goes on alike.

    Raises:
        UserError: an argument has a value that it cannot have.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str],
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = DEFAULT_OPTIMIZER,
        scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
        class_weights: str | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        compile: bool | str = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise UserError(
                f"classifier.class_weights={class_weights} is not one of null, balanced, or a list of numbers."
            )
        if not isinstance(class_weights, str | None) and len(class_weights) != len(classes):
            raise UserError(
                f"classifier.class_weights has {len(class_weights)} numbers for {len(classes)} classes: "
                f"{', '.join(classes)}."
            )
        if not 0 <= label_smoothing < 1:
            raise UserError(
                f"classifier.label_smoothing={label_smoothing} should be at least 0 and below 1."
            )
        if compile not in COMPILE_MODES:
            modes = ", ".join(COMPILE_MODES[2:])
            raise UserError(f"classifier.compile={compile} is not one of true, false, {modes}.")

        self.network = network.to(memory_format=torch.channels_last)
        self.classes = [str(name) for name in classes]
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.class_weights = (
            class_weights if isinstance(class_weights, str | None) else list(class_weights)
        )
        self.label_smoothing = label_smoothing
        self.seed = seed
        self.compiled = bool(compile)
        if compile:
            self.network.compile(mode=compile if isinstance(compile, str) else None)

        self.outputs: dict[str, SplitOutputs] = {}
        self.metrics: dict[str, dict[str, float]] = {}
        self.history: list[dict[str, float]] = []
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self._fitting = False
        self._weight: Tensor | None
        # a buffer, so that it is where the network is
        self.register_buffer("_weight", None, persistent=False)
        # plain values: checkpoints are read with weights_only
        self.save_hyperparameters({"classes": self.classes})

    def forward(self, image: Tensor) -> Tensor:
        """Map float (B, 3, S, S) to scores (B, C)."""
        return self.network(image)

    def setup(self, stage: str) -> None:
        """Fix the class weights; ``balanced`` ones come from the DataModule's training pictures."""
        self._fitting = stage == "fit"
        if self.class_weights == "balanced":
            datamodule = getattr(self.trainer, "datamodule", None)
            if datamodule is None or not hasattr(datamodule, "class_counts"):
                raise UserError(
                    "classifier.class_weights=balanced needs a DataModule with class_counts()."
                )
            counts = torch.tensor(datamodule.class_counts(), dtype=torch.float32)
            self._weight = counts.sum() / (len(counts) * counts)
        elif self.class_weights is not None:
            self._weight = torch.tensor(self.class_weights, dtype=torch.float32)

    def loss(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """Cross entropy with class weights and label smoothing, as torch's ``CrossEntropyLoss``."""
        weight = None if self._weight is None else self._weight.to(logits)
        smoothing = self.label_smoothing
        return F.cross_entropy(
            logits, labels, weight, reduction=reduction, label_smoothing=smoothing
        )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:  # noqa: D102
        seed = mix(self.seed, self.current_epoch, batch_idx, 1 + self.global_rank)
        # torch.manual_seed takes ten times as long
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            getattr(torch, self.device.type).manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the batch's loss."""
        logits, labels = self._step(batch), batch["label"]
        if self.trainer.world_size == 1:
            return self.loss(logits, labels)

        # Shares of a batch may differ in size: divide by the whole batch's weight; DDP then
        # averages over processes.
        total = logits.new_tensor(len(labels))
        if self._weight is not None:
            total = self._weight.to(logits)[labels].sum()
        torch.distributed.all_reduce(total)
        return self.loss(logits, labels, "sum") * self.trainer.world_size / total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the batch's outputs."""
        self._step(batch)

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return probabilities (B, C)."""
        return self(batch["image"]).softmax(1)

    def on_train_epoch_start(self) -> None:  # noqa: D102
        self._steps.clear()

    def on_validation_epoch_start(self) -> None:  # noqa: D102
        self._train_steps, self._steps = self._steps, []

    on_test_epoch_start = on_train_epoch_start

    def on_train_epoch_end(self) -> None:  # noqa: D102
        self._finish("train")
        # before the epoch's checkpoint, which a run that goes on from it would otherwise lack
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau) and PLATEAU_MONITOR in self.history[-1]:
            scheduler.step(self.history[-1][PLATEAU_MONITOR])

    def on_validation_epoch_end(self) -> None:  # noqa: D102
        self._finish("val")
        self._steps = self._train_steps

    def on_test_epoch_end(self) -> None:  # noqa: D102
        self._finish("test")

    def _step(self, batch: Batch) -> Tensor:
        logits = self(batch["image"])
        # the next step's CUDA graph may write over a compiled network's
        scores = logits.detach().clone() if self.compiled else logits.detach()
        self.keep_step(scores, batch["label"], batch["index"])
        return logits

    def keep_step(self, scores: Tensor, labels: Tensor, index: Tensor) -> None:
        """Keep a step's outputs: (B, C) without gradients, int64 (B,), and rows of the table."""
        self._steps.append((scores, labels, index))

    def _finish(self, split: str) -> None:
        """Compute, keep and log the metrics of a split that has been seen whole."""
        logits, labels, index = self._all_steps()
        self._steps.clear()
        order = index.argsort(stable=True)
        outputs = SplitOutputs(logits[order].float(), labels[order], index[order])
        self.outputs[split] = outputs

        values = {"loss": self.loss(outputs.logits, outputs.labels).item()}
        values |= classification_metrics(outputs.logits.softmax(1), outputs.labels, self.classes)
        if split != "test":
            values = {name: value for name, value in values.items() if "/" not in name}
        self.metrics[split] = {f"{split}/{name}": value for name, value in values.items()}
        if self._fitting:
            if not self.history or self.history[-1]["epoch"] != self.current_epoch:
                rate = self.trainer.optimizers[0].param_groups[0]["lr"]
                self.history.append({"epoch": self.current_epoch, "lr": rate})
            self.history[-1] |= self.metrics[split]

        # Scoring the best checkpoint after the fit must not add a point to the curve of the fit.
        logged_as = "val_best" if split == "val" and not self._fitting else split
        for name, value in values.items():
            self.log(f"{logged_as}/{name}", value, prog_bar=f"{split}/{name}" in PROGRESS_BAR)

    def _all_steps(self) -> list[Tensor]:
        """Return logits, labels and index of all steps and processes."""
        tensors = [torch.cat(parts).cpu() for parts in zip(*self._steps, strict=True)]
        if self.trainer.world_size == 1:
            return tensors
        shares: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(shares, tensors)
        return [torch.cat(parts) for parts in zip(*shares, strict=True)]

    def configure_optimizers(self) -> Any:
        """Build what the arguments ask for, in Lightning's form."""
        optimizer = self.optimizer(self.network.parameters())
        closure = inspect.signature(optimizer.step).parameters["closure"]
        if closure.default is inspect.Parameter.empty:
            raise UserError(
                f"{type(optimizer).__name__} computes a step's loss several times, which is not supported."
            )
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        config: dict[str, Any] = {"scheduler": scheduler, "interval": "epoch"}
        if isinstance(scheduler, ReduceLROnPlateau):
            # never by Lightning, which looks after the epoch's checkpoint: see on_train_epoch_end
            config |= {"monitor": PLATEAU_MONITOR, "frequency": sys.maxsize}
        return {"optimizer": optimizer, "lr_scheduler": config}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take along what a run that goes on needs: history, half an epoch, an early end."""
        checkpoint["history"] = self.history
        checkpoint["should_stop"] = self.trainer.should_stop
        checkpoint["steps"] = self._all_steps() if self._steps else []

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other classes or of another network, with the first differences.

        Raises:
            UserError: they do not fit.
        """
        # a fit that was over, by early stopping or by time, stays over
        if self._fitting and checkpoint.get("should_stop"):
            self.trainer.should_stop = True
        self.history = [dict(row) for row in checkpoint.get("history", [])]
        steps = checkpoint.get("steps", [])
        self._steps = [(steps[0], steps[1], steps[2])] if steps and self.global_rank == 0 else []

        classes = checkpoint.get("hyper_parameters", {}).get("classes")
        if classes is not None and list(classes) != self.classes:
            raise UserError(
                f"The checkpoint was trained on the classes [{', '.join(classes)}], "
                f"and these are [{', '.join(self.classes)}]."
            )
        ours, theirs = (
            {name: tuple(value.shape) for name, value in weights.items()}
            for weights in (self.state_dict(), checkpoint.get("state_dict", {}))
        )
        if ours == theirs:
            return
        names = [n for n in dict.fromkeys([*ours, *theirs]) if ours.get(n) != theirs.get(n)]
        rows = "".join(
            f"  {n}: {theirs.get(n, 'absent')} in the checkpoint, {ours.get(n, 'absent')} here\n"
            for n in names[:5]
        )
        raise UserError(
            f"The checkpoint holds another network than {type(self.network).__name__} ({len(names)} differences):\n"
            f"{rows}Choose the network that it was trained with: model=… model.name=…"
        )
