"""The metrics of every epoch: learning_curves.csv and the figure drawn from it."""

from pathlib import Path

import lightning as L
import pandas as pd

from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.report.figures import learning_curves_figure
from mpoxcv.storage.files import StrPath, write_csv
from mpoxcv.training.callbacks.figures import publish
from mpoxcv.training.classifier import LesionClassifier


class History(L.Callback):
    """Write the history that ``LesionClassifier`` keeps.

    Args:
        folder: gets learning_curves.csv, one row an epoch, and learning_curves.png.
    """

    def __init__(self, folder: StrPath) -> None:
        self.folder = Path(folder)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: D102
        assert isinstance(pl_module, LesionClassifier)
        if not trainer.is_global_zero or not pl_module.history:
            return
        history = pd.DataFrame(pl_module.history)
        write_csv(self.folder / "learning_curves.csv", history)
        datamodule: MSLDDataModule = trainer.datamodule  # type: ignore[attr-defined]
        title = f"Learning curves: {datamodule.source}, fold {datamodule.fold}"
        figure = learning_curves_figure(history, title, datamodule.synthetic)
        publish(trainer, figure, "learning_curves", self.folder / "learning_curves.png")
