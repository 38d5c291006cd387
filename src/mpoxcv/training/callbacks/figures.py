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
from mpoxcv.training.tensorboard import tensorboard_writer


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
        size = f"{datamodule.form.size} x {datamodule.form.size} pixels"
        for split in SPLITS:
            table = datamodule.table(split)
            pictures: list[np.ndarray | None] = []
            captions: list[str] = []
            for label, name in enumerate(datamodule.classes):
                of_class = np.flatnonzero(table["label"] == label)
                number = min(self.per_class, len(of_class))
                rows = of_class[np.linspace(0, len(of_class) - 1, number).astype(int)].tolist()
                lacking = self.per_class - number
                pictures += [datamodule.cached_picture(split, row) for row in rows]
                pictures += [None] * lacking
                captions += [f"{name}\n{Path(table['image'][row]).name}" for row in rows]
                captions += [""] * lacking
            title = (
                f"{datamodule.source}, fold {datamodule.fold}, {split}: {len(table)} pictures\n"
                f"as the network gets them, {size}"
            )
            sheet = contact_sheet(pictures, captions, title, datamodule.synthetic, self.per_class)
            publish(trainer, sheet, f"samples/{split}", self.folder / f"samples_{split}.png")


def publish(trainer: L.Trainer, figure: Figure | Image.Image, tag: str, path: Path) -> None:
    """Save a figure as a PNG file and, if the run has a TensorBoard logger, show it there."""
    save_figure(figure, path)
    if writer := tensorboard_writer(trainer):
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        writer.add_image(tag, pixels, trainer.global_step, dataformats="HWC")
