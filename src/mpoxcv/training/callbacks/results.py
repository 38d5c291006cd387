"""predictions.csv and metrics.json."""

from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd

from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.evaluation.predictions import write_predictions
from mpoxcv.storage.files import StrPath, write_json
from mpoxcv.training.classifier import LesionClassifier, SplitOutputs


class Results(L.Callback):
    """Write what ``trainer.validate`` and ``trainer.test`` give, and nothing of a fit's epochs.

    Args:
        folder: gets predictions.csv (one row a scored picture, val before test; with a column
            ``flips`` where mirror images were scored, too) and metrics.json (name to number, null
            where a metric is not defined).
    """

    def __init__(self, folder: StrPath) -> None:
        self.folder = Path(folder)
        self.predictions: dict[str, pd.DataFrame] = {}
        self.metrics: dict[str, float] = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: D102
        if trainer.state.fn == "validate":
            self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: D102
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: L.Trainer, classifier: L.LightningModule, split: str) -> None:
        assert isinstance(classifier, LesionClassifier)
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        table = predictions_table(datamodule, split, classifier.outputs[split])
        self.predictions[split] = table.assign(flips=True) if classifier.flips else table
        self.metrics |= classifier.metrics[split]
        if trainer.is_global_zero:
            write_predictions(pd.concat(self.predictions.values()), self.folder / "predictions.csv")
            write_json(self.folder / "metrics.json", self.metrics)


def predictions_table(data: MSLDDataModule, split: str, outputs: SplitOutputs) -> pd.DataFrame:
    """Return a split's rows of predictions.csv (see ``mpoxcv.evaluation.predictions``)."""
    table = data.table(split).iloc[outputs.index.numpy()]
    return rows_of(data, table, outputs.logits.softmax(1).numpy())


def rows_of(data: MSLDDataModule, table: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    """Return rows of predictions.csv for rows of a split's table.

    Args:
        data: of the split.
        table: n rows of it.
        probabilities: float32 (n, C).
    """
    keys = {
        "image": table["image"].to_numpy(), "patient": table["patient"].to_numpy(),
        "picture": table["picture"].to_numpy(), "data": data.source,
        "fold": table["fold"].to_numpy(), "split": table["split"].to_numpy(),
        "label": table["class"].to_numpy(),
        "prediction": np.array(data.classes)[probabilities.argmax(1)],
    }  # fmt: skip
    scores = {f"p_{name}": probabilities[:, i] for i, name in enumerate(data.classes)}
    return pd.DataFrame(keys | scores)
