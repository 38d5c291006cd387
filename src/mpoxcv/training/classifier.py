"""The LightningModule: any image classifier with its loss, optimizer and metrics.

Legend: B batch, C classes, N pictures of a split.
"""

import functools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import lightning as L
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from lightning.pytorch import callbacks as theirs
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mpoxcv.data.loader import Batch, mix, seed_generators
from mpoxcv.errors import Diverged, UserError, check_choice, shorten
from mpoxcv.models.network import Network, Weights, set_frozen_to_eval
from mpoxcv.storage.checkpoint_io import AtomicCheckpointIO
from mpoxcv.storage.stored_config import instantiable, load_config, resolved
from mpoxcv.training.metrics import classification_metrics
from mpoxcv.training.schedules import make_scheduler, refusal_explained

PROGRESS_BAR = ("train/loss", "val/loss", "val/f1_macro")
PLATEAU_MONITOR = "val/loss"
COMPILE_MODES = (
    "true", "false", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs",
)  # fmt: skip
INTERVALS = ("epoch", "step")
# of Lightning's callbacks those that would have no effect here, or one that no record names
REFUSED = {
    theirs.BatchSizeFinder: "Set data.batch_size; where memory lacks, the error names a size.",
    theirs.LearningRateFinder: "Set optimizer.lr, or search it: scripts/search.py.",
    theirs.ModelPruning: "Its masks are no weights of the network that checkpoints are read into.",
    theirs.StochasticWeightAveraging: "Take lightning.pytorch.callbacks.WeightAveraging.",
}
BACKBONE = "network.backbone."
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
        scheduler: makes the learning-rate scheduler from the optimizer; a ``functools.partial`` may
            have lengths such as ``5 epochs``, and ``schedulers`` that are partials themselves.
            ``ReduceLROnPlateau`` looks at ``val/loss``.
        scheduler_interval: ``epoch`` or ``step``: after which the learning rate is updated.
        class_weights: weight of each class in the cross entropy (C,); ``balanced`` takes
            n / (C * n_class) of the training pictures (King and Zeng 2001, as in scikit-learn);
            None weighs all pictures the same.
        label_smoothing: in [0, 1): share of the target that is spread over all classes.
        layer_decay: in (0, 1]: the head is trained at the optimizer's learning rate, the last of
            the network's ``parts()`` at this share of it, and each earlier one at this share of the
            next one's.
        mix: maps (pictures, labels) of a training batch to mixed pictures and float targets (B, C),
            as torchvision's v2 ``MixUp`` and ``CutMix`` do; of several processes each mixes its
            share. The train metrics take the class of a mixed picture's larger share for its label,
            and their loss is that without mixing.
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
        scheduler_interval: str = "epoch",
        class_weights: str | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        layer_decay: float = 1.0,
        mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
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
        if not 0 < layer_decay <= 1:
            raise UserError(
                f"classifier.layer_decay={layer_decay} should be above 0 and at most 1."
            )
        if layer_decay < 1 and not isinstance(network, Network):
            raise UserError(
                f"classifier.layer_decay={layer_decay} needs a network of a backbone's parts and a head, and "
                f"{type(network).__name__} has none: set classifier.layer_decay=1.0, or take another model=…"
            )
        if mix is not None and getattr(network, "stem", None) is not None:
            raise UserError(
                "classifier.mix mixes pictures, and what a frozen backbone (model.train=head, or a number) makes of them is "
                "kept: set mix=none, or model.train=all."
            )
        if len(set(classes)) < len(classes):
            raise UserError(f"data.classes names a class twice: {', '.join(map(str, classes))}.")
        mode = str(compile).lower() if isinstance(compile, bool) else compile
        check_choice("classifier.compile", mode, COMPILE_MODES)
        check_choice("classifier.scheduler_interval", scheduler_interval, INTERVALS)

        self.network = network.to(memory_format=torch.channels_last)
        self.classes = [str(name) for name in classes]
        self.optimizer = optimizer
        self.scheduler, self.scheduler_interval = scheduler, scheduler_interval
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing
        self.layer_decay, self.mix = layer_decay, mix
        self._trains_all = all(parameter.requires_grad for parameter in network.parameters())
        self.seed = seed
        # score pictures together with their mirror images
        self.flips = False
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
        """Map float (B, 3, S, S), or a frozen backbone's features (B, D), to scores (B, C)."""
        return self.network(image)

    def train(self, mode: bool = True) -> Self:
        """Put the network into training, but what of it is frozen; as ``nn.Module.train``."""
        super().train(mode)
        if mode:
            set_frozen_to_eval(self.network)
        return self

    @property
    def backbone(self) -> nn.ModuleList:
        """The network's parts but the last, its head: what ``BackboneFinetuning`` freezes.

        Raises:
            UserError: the network is of one part.
        """
        parts = [
            part for part in self.network.children() if next(part.parameters(), None) is not None
        ]
        if len(parts) < 2:
            name = type(self.network).__name__
            raise UserError(f"{name} is of one part: no backbone can be told from its head.")
        return nn.ModuleList(parts[:-1])

    def setup(self, stage: str) -> None:
        """Fix the class weights; ``balanced`` ones come from the DataModule's training pictures."""
        self._fitting = stage == "fit"
        self._steps.clear()
        for callback in self.trainer.callbacks if self._fitting else []:  # type: ignore[attr-defined]
            for kind, hint in REFUSED.items():
                if isinstance(callback, kind):
                    raise UserError(f"The callback {kind.__name__} is not taken. {hint}")
            if isinstance(callback, theirs.BaseFinetuning):
                self._begin_frozen(callback)
        if self.class_weights == "balanced":
            datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
            if not hasattr(datamodule, "class_counts"):
                raise UserError(
                    "classifier.class_weights=balanced needs a DataModule with class_counts()."
                )
            counts = torch.tensor(datamodule.class_counts(), dtype=torch.float32)
            self._weight = counts.sum() / (len(counts) * counts)
        elif self.class_weights is not None:
            self._weight = torch.tensor(list(self.class_weights), dtype=torch.float32)

    def _begin_frozen(self, callback: theirs.BaseFinetuning) -> None:
        """Freeze the batch norm, too, of a backbone that a callback has frozen and thaws later."""
        name = type(callback).__name__
        if self.trainer.world_size > 1:
            # DDP looks once at what has gradients: each process would train a thawed part alone
            raise UserError(f"{name} trains in one process alone: trainer.devices=1.")
        if not self._trains_all:
            raise UserError(f"{name} thaws the whole backbone: it needs model.train=all.")
        if self.layer_decay < 1:
            raise UserError(
                f"{name} gives all that it thaws one learning rate: set classifier.layer_decay=1.0, or leave it out."
            )
        if not getattr(callback, "train_bn", True):
            self.backbone.requires_grad_(False)

    def loss(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """Cross entropy with class weights and label smoothing, as torch's ``CrossEntropyLoss``.

        ``labels`` are int64 (B,), or float (B, C): for those torch's mean is over pictures.
        """
        weight = None if self._weight is None else self._weight.to(logits)
        options: Any = {"reduction": reduction, "label_smoothing": self.label_smoothing}
        return F.cross_entropy(logits, labels, weight, **options)

    def on_train_start(self) -> None:  # noqa: D102
        for optimizer in self.trainer.optimizers:
            require_sound_state(optimizer)
        # where a run goes on within an epoch, its beginning is not told again
        self._follow_optimizer()

    def _follow_optimizer(self) -> None:
        """Freeze what the optimizer does not have, and thaw what it has.

        BackboneFinetuning thaws at its epoch alone, batch norm that it does not train as well, and
        has frozen all again where a run goes on.
        """
        groups = self.trainer.optimizers[0].param_groups
        trained = {id(parameter) for group in groups for parameter in group["params"]}
        for parameter in self.network.parameters():
            parameter.requires_grad = id(parameter) in trained
        self.train()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:  # noqa: D102
        seed = mix(self.seed, self.current_epoch, batch_idx, 1 + self.global_rank)
        seed_generators(seed, self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the batch's loss."""
        targets = batch["label"]
        if self.mix is not None:
            image, targets = self.mix(batch["image"], targets)
            batch = {**batch, "image": image, "label": targets.argmax(1)}
        logits = self._step(batch)
        is_mixed, world_size = targets.is_floating_point(), self.trainer.world_size
        if world_size == 1 and not is_mixed:
            return self.loss(logits, targets)

        # Divide by the whole batch's weight, which torch does of labels alone; shares of a batch
        # may differ in size, and DDP averages over processes. Float targets need float scores.
        logits = logits.float()
        total = logits.new_tensor(len(targets))
        if self._weight is not None:
            weight = self._weight.to(logits)
            total = (targets * weight if is_mixed else weight[targets]).sum()
        if world_size > 1:
            torch.distributed.all_reduce(total)
        return self.loss(logits, targets, "sum") * world_size / total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the batch's outputs."""
        self._step(batch)

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return probabilities (B, C)."""
        return self.scores(batch["image"]).softmax(1)

    def scores(self, image: Tensor) -> Tensor:
        """Return scores (B, C) as ``forward`` does.

        With ``flips`` their softmax is the mean of those of the pictures and of their mirror
        images, left for right; ``image`` must hold pictures then.
        """
        scores = self(image)
        if not self.flips:
            return scores
        # a compiled network's may lie where the next ones come
        first = scores.log_softmax(1)
        return torch.logaddexp(first, self(image.flip(-1)).log_softmax(1))

    def on_train_epoch_start(self) -> None:  # noqa: D102
        self._follow_optimizer()
        self._steps.clear()
        self._row()

    def on_validation_epoch_start(self) -> None:  # noqa: D102
        self._train_steps, self._steps = self._steps, []

    def on_train_epoch_end(self) -> None:  # noqa: D102
        self._finish("train")
        # before the epoch's checkpoint, which a run that goes on from it would otherwise lack
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau) and PLATEAU_MONITOR in self.history[-1]:
            scheduler.step(self.history[-1][PLATEAU_MONITOR])

    def on_validation_epoch_end(self) -> None:  # noqa: D102
        # Lightning's sanity check is no epoch
        if not self.trainer.sanity_checking:
            self._finish("val")
        self._steps = self._train_steps

    def on_test_epoch_end(self) -> None:  # noqa: D102
        self._finish("test")

    def _step(self, batch: Batch) -> Tensor:
        logits = self.scores(batch["image"])
        # the next step's CUDA graph may write over a compiled network's
        scores = logits.detach().clone() if self.compiled else logits.detach()
        self.keep_step(scores, batch["label"], batch["index"])
        return logits

    def keep_step(self, scores: Tensor, labels: Tensor, index: Tensor) -> None:
        """Keep a step's outputs: (B, C) without gradients, int64 (B,), and rows of the table."""
        self._steps.append((scores, labels, index))

    def _finish(self, split: str) -> None:
        """Compute, keep and log the metrics of a split that has been seen whole."""
        if not self._steps:
            raise UserError(
                f"No picture of {split} was seen: does the checkpoint lack an epoch's half?"
            )
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
            self._row().update(self.metrics[split])
        if not math.isfinite(values["loss"]):
            when = f", in epoch {self.current_epoch} (the first is 0)" if self._fitting else ""
            hint = "Try a smaller optimizer.lr, trainer.gradient_clip_val=1.0, or trainer.precision=32-true."
            raise Diverged(
                f"The loss on {split} is {values['loss']}{when}: training has diverged. {hint}"
            )

        # Scoring the best checkpoint after the fit must not add a point to the curve of the fit.
        logged_as = "val_best" if split == "val" and not self._fitting else split
        for name, value in values.items():
            self.log(f"{logged_as}/{name}", value, prog_bar=f"{split}/{name}" in PROGRESS_BAR)

    def _row(self) -> dict[str, float]:
        """Return this epoch's row of the history, begun with the rate that the epoch begins at."""
        if not self.history or self.history[-1]["epoch"] != self.current_epoch:
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            self.history.append({"epoch": self.current_epoch, "lr": rate})
        return self.history[-1]

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
        (_, first), *others = self._trained_by_rate()
        with refusal_explained("optimizer"):
            optimizer = self.optimizer(first)
            for share, parameters in others:
                rate = optimizer.defaults["lr"] * share
                optimizer.add_param_group({"params": parameters, "lr": rate})
        if isinstance(optimizer, torch.optim.LBFGS):
            raise UserError("LBFGS computes a step's loss several times, which is not supported.")
        if self.scheduler is None:
            return optimizer
        with refusal_explained("scheduler"):
            scheduler = make_scheduler(self.scheduler, optimizer, self._updates)
        config: dict[str, Any] = {"scheduler": scheduler, "interval": self.scheduler_interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            if not self.trainer.limit_val_batches:
                raise UserError("ReduceLROnPlateau needs val/loss: no trainer.limit_val_batches=0.")
            # never by Lightning, which looks after the epoch's checkpoint: see on_train_epoch_end
            config |= {"monitor": PLATEAU_MONITOR, "interval": "epoch", "frequency": sys.maxsize}
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _trained_by_rate(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Return what is trained, the head first, with its share of the learning rate."""
        parts = [self.network]
        if self.layer_decay < 1:
            network = cast(Network, self.network)
            # at last what lies between parts, such as a class token, as their first
            parts = [network.head, *reversed(network.parts().values()), network]
        groups, seen = [], set[int]()
        for depth, part in enumerate(parts):
            trained = [p for p in part.parameters() if p.requires_grad and id(p) not in seen]
            seen.update(map(id, trained))
            if trained:
                groups.append((self.layer_decay ** min(depth, len(parts) - 2), trained))
        return groups

    def _updates(self) -> int:
        """Return how often the learning rate is updated in an epoch."""
        if self.scheduler_interval == "epoch":
            return 1
        trainer, batches = self.trainer, len(self.trainer.datamodule.batch_sizes())  # type: ignore[attr-defined]
        if any(isinstance(c, theirs.GradientAccumulationScheduler) for c in trainer.callbacks):  # type: ignore[attr-defined]
            raise UserError(
                "Steps of an epoch cannot be told under GradientAccumulationScheduler: give the scheduler's lengths in "
                "steps, or classifier.scheduler_interval=epoch."
            )
        limit = trainer.limit_train_batches
        batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
        return math.ceil(batches / trainer.accumulate_grad_batches)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:  # noqa: D102
        with refusal_explained("scheduler"):
            super().lr_scheduler_step(scheduler, metric)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, *args: Any, **options: Any
    ) -> Self:
        """Load a checkpoint as Lightning does; without ``network`` its run's config tells which.

        Raises:
            UserError: the file is damaged, in no run's folder, or the run's config is refused.
        """
        if "network" not in options:
            config = Path(checkpoint_path).absolute().parent.parent / ".hydra" / "config.yaml"
            if not config.is_file():
                hint = "in no run's folder, so that its network must be given: network=LeNet(6)"
                raise UserError(f"{checkpoint_path} is {hint}.")
            part = resolved(load_config(config), "classifier", config)
            network = part.get("network") if isinstance(part, dict) else None
            options["network"] = instantiate(instantiable(network, "network", config))
        # reads tensors and plain values alone, and says so of a damaged file
        AtomicCheckpointIO().load_checkpoint(checkpoint_path, "cpu")
        return super().load_from_checkpoint(Path(checkpoint_path), *args, **options)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take along what a run that goes on needs: history, half an epoch, an early end."""
        checkpoint["history"] = self.history
        checkpoint["should_stop"] = self.trainer.should_stop
        checkpoint["steps"] = self._all_steps() if self._steps else []
        if weights := self._kept_weights():
            checkpoint["weights"] = weights.sha256
            state = checkpoint["state_dict"] if self.network.frozen else {}
            # in place, since modules' versions are an attribute of it
            for name in [name for name in state if name.startswith(BACKBONE)]:
                del state[name]

    def _kept_weights(self) -> Weights | None:
        """Return the weights that a backbone, or its stem, keeps to the end."""
        network = self.network
        keeps = isinstance(network, Network) and network.stem is not None
        return network.weights if keeps else None  # type: ignore[return-value]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other classes or of another network, with the first differences.

        Raises:
            UserError: they do not fit.
        """
        # a fit that was over, by early stopping or by time, stays over
        if self._fitting and checkpoint.get("should_stop"):
            self.trainer.should_stop = True
        self.history = [dict(row) for row in checkpoint.get("history", []) if "epoch" in row]
        steps = checkpoint.get("steps", [])
        goes_on = self._fitting and len(steps) == 3 and self.global_rank == 0
        self._steps = [(steps[0], steps[1], steps[2])] if goes_on else []

        classes = checkpoint.get("hyper_parameters", {}).get("classes")
        if classes is not None and list(classes) != self.classes:
            raise UserError(
                f"The checkpoint was trained on the classes [{', '.join(classes)}], "
                f"and these are [{', '.join(self.classes)}]."
            )
        if weights := self._kept_weights():
            if (sha256 := checkpoint.get("weights")) not in (None, weights.sha256):
                raise UserError(
                    f"The checkpoint's head was trained on other weights of the backbone: SHA-256 {sha256}, and "
                    f"{weights.source} has {weights.sha256}. Give those: model.weights=…"
                )
            if self.network.frozen:
                kept = {n: t for n, t in self.state_dict().items() if n.startswith(BACKBONE)}
                checkpoint.setdefault("state_dict", {}).update(kept)
        ours, theirs = (
            {name: tuple(value.shape) for name, value in weights.items()}
            for weights in (self.state_dict(), checkpoint.get("state_dict", {}))
        )
        differences = [
            f"{n}: {theirs.get(n, 'absent')} in the checkpoint, {ours.get(n, 'absent')} here"
            for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)
        ]  # fmt: skip
        if differences:
            raise UserError(
                f"The checkpoint holds another network than {type(self.network).__name__}:\n{shorten(differences, 5)}\n"
                "Choose the network that it was trained with: model=… model.name=…"
            )


def require_sound_state(optimizer: torch.optim.Optimizer) -> None:
    """Refuse a checkpoint's state of other shapes or types, which fused kernels do not notice."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("fused") else ():
            for name, value in optimizer.state.get(parameter, {}).items():
                like = (
                    (torch.Size(), torch.float32)
                    if name == "step"
                    else (parameter.shape, parameter.dtype)
                )
                if value is not None and (
                    not isinstance(value, Tensor) or (value.shape, value.dtype) != like
                ):
                    raise UserError(f"The checkpoint's state of the optimizer is damaged: {name}.")
