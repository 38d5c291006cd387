"""What a network must beat: the majority vote, and a classifier that sees nothing but colours."""

from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd

from mpoxcv.data.datamodule import MSLDDataModule
from mpoxcv.evaluation.predictions import write_predictions
from mpoxcv.storage.files import StrPath
from mpoxcv.training.callbacks.results import rows_of

# a channel
COLOUR_BINS = 8
MAJORITY = "majority class"
# logistic regression on a colour histogram
COLOURS = "colours alone"


class Baselines(L.Callback):
    """Write the baselines' predictions on Valid and Test, learnt from Train's original pictures.

    Args:
        folder: gets baselines.csv, the columns of predictions.csv after ``model``.
    """

    def __init__(self, folder: StrPath) -> None:
        self.folder = Path(folder)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: D102
        if trainer.is_global_zero:
            datamodule: MSLDDataModule = trainer.datamodule  # type: ignore[attr-defined]
            write_predictions(baseline_predictions(datamodule), self.folder / "baselines.csv")


def baseline_predictions(datamodule: MSLDDataModule) -> pd.DataFrame:
    """Return the rows of baselines.csv; ``datamodule`` has been set up."""
    # here, since it takes a second
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    models = {
        MAJORITY: DummyClassifier(strategy="prior"),
        COLOURS: make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)),
    }
    train = datamodule.table("train")
    originals = ~train["augmented"].to_numpy()
    if not originals.any():
        originals[:] = True
    histograms = colour_histograms(datamodule.pictures("train")[originals])
    for model in models.values():
        model.fit(histograms, train["label"].to_numpy()[originals])

    parts = []
    for split in ("val", "test"):
        table, histograms = datamodule.table(split), colour_histograms(datamodule.pictures(split))
        for name, model in models.items():
            probabilities = np.zeros((len(table), len(datamodule.classes)), np.float32)
            probabilities[:, model.classes_] = model.predict_proba(histograms)
            rows = rows_of(datamodule, table, probabilities)
            rows.insert(0, "model", name)
            parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def colour_histograms(pictures: np.ndarray) -> np.ndarray:
    """Return histograms of red, green and blue: float (N, 3 * 8) from uint8 (N, S, S, 3)."""
    bins = pictures.reshape(len(pictures), -1, 3) // (256 // COLOUR_BINS)
    shares = [(bins == level).mean(1) for level in range(COLOUR_BINS)]
    return np.stack(shares, axis=1).reshape(len(pictures), -1)
