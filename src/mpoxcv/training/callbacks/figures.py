"""Pictures and figures, as PNG files and in TensorBoard."""

from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.pictures.tree import SPLITS
from mpoxcv.report.contact_sheet import contact_sheet, mistakes_sheet
from mpoxcv.report.figures import draw_all, save_figure
from mpoxcv.storage.files import StrPath
from mpoxcv.training.callbacks.results import predictions_table
from mpoxcv.training.classifier import LesionClassifier
from mpoxcv.training.memory import return_freed_memory
from mpoxcv.training.tensorboard import add_png, tensorboard_writer


class Figures(L.Callback):
    """Draw the test predictions: confusion matrices, curves, reliability, surest mistakes.

    Args:
        folder: gets one PNG a figure.
    """

    def __init__(self, folder: StrPath) -> None:
        self.folder = Path(folder)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: D102
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, LesionClassifier)
        datamodule: MSLDDataModule = trainer.datamodule  # type: ignore[attr-defined]
        outputs = pl_module.outputs["test"]
        predictions = predictions_table(datamodule, "test", outputs)

        def picture_of(row: pd.Series) -> np.ndarray:
            return datamodule.original_picture("test", int(outputs.index[row.name]))

        figures: dict[str, Figure | Image.Image] = {**draw_all(predictions)}
        figures["mistakes"] = mistakes_sheet(predictions, picture_of)
        for name, figure in figures.items():
            publish(trainer, figure, f"test/{name}", self.folder / f"{name}.png")


class SamplePictures(L.Callback):
    """Show pictures of each split as the network gets them, some of every class.

    Args:
        folder: gets one PNG a split.
        per_class: pictures of each class.
    """

    def __init__(self, folder: StrPath, per_class: int = 5) -> None:
        self.folder, self.per_class = Path(folder), per_class

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: D102
        if not trainer.is_global_zero:
            return
        datamodule: MSLDDataModule = trainer.datamodule  # type: ignore[attr-defined]
        for split in SPLITS:
            table = datamodule.table(split)
            rows: list[int | None] = []
            for label in range(len(datamodule.classes)):
                of_class = np.flatnonzero(table["label"] == label)
                chosen = np.linspace(
                    0, len(of_class) - 1, min(self.per_class, len(of_class))
                ).astype(int)
                rows += [*of_class[chosen].tolist(), *[None] * (self.per_class - len(chosen))]
            sheet = contact_sheet(
                [None if row is None else datamodule.cached_picture(split, row) for row in rows],
                [
                    ""
                    if row is None
                    else f"{table['class'][row]}\n{Path(table['image'][row]).name}"
                    for row in rows
                ],
                f"{datamodule.source}, fold {datamodule.fold}, {split}: {len(table)} pictures\n"
                f"as the network gets them, {datamodule.image_size} x {datamodule.image_size} pixels",
                datamodule.synthetic,
                columns=self.per_class,
            )
            publish(trainer, sheet, f"samples/{split}", self.folder / f"samples_{split}.png")


def publish(trainer: L.Trainer, figure: Figure | Image.Image, tag: str, path: Path) -> None:
    """Save a figure as a PNG file and, if the run has a TensorBoard logger, show it there."""
    save_figure(figure, path)
    return_freed_memory()  # a canvas has tens of MB, and training would come on top
    if writer := tensorboard_writer(trainer):
        add_png(writer, tag, path, trainer.global_step)
