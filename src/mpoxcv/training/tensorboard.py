"""TensorBoard: one run a fold, with train and val on the same axes."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from mpoxcv.storage.files import StrPath

# of these train and val are drawn on the same axes, in the tab CUSTOM SCALARS
CURVES = ("loss", "f1_macro", "balanced_accuracy", "accuracy", "auroc_macro", "ece")


class SplitTensorBoardLogger(TensorBoardLogger):
    """One TensorBoard run a run: ``<split>/<metric>`` gets a tag beside those of other splits.

    An epoch's metrics are ``curves/<metric>/<split>``, final scores ``scores/<metric>/<split>``,
    those of single classes ``per_class/<metric>/<class>``.

    Args:
        save_dir: the run's folder.
    """

    def __init__(self, save_dir: StrPath) -> None:
        super().__init__(str(save_dir), name="", version="", default_hp_metric=False)
        # of what was logged last
        self._step: int | None = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log each metric under its tag; Lightning's count of epochs is left out."""
        if self._step is None:
            charts = {name: ["Multiline", [rf"curves/{name}/(train|val)$"]] for name in CURVES}
            self.experiment.add_custom_scalars({"train and val": charts})
        self._step = step or 0
        tagged = {tag_of(name): value for name, value in metrics.items() if name != "epoch"}
        super().log_metrics(tagged, step)

    @rank_zero_only
    def log_final(self, options: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Fill the HPARAMS page.

        Args:
            options: numbers, booleans and text by name.
            metrics: by ``<split>/<metric>``; the page names them by their tags.
        """
        tagged = {tag_of(name): value for name, value in metrics.items()}
        self.log_hyperparams(dict(options), tagged, self._step)
        self.experiment.close()


def tag_of(name: str) -> str:
    """Return the tag of a logged name; TensorBoard's sections are the tags' first parts."""
    split, _, metric = name.partition("/")
    if split in ("train", "val"):
        return f"curves/{metric}/{split}"
    if split in ("val_best", "test"):
        return f"per_class/{metric}" if "/" in metric else f"scores/{metric}/{split}"
    return name


def tensorboard_writer(trainer: L.Trainer) -> SummaryWriter | None:
    """Return the first TensorBoard logger's writer, in the process that writes, or None."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return loggers[0].experiment if loggers and trainer.is_global_zero else None
