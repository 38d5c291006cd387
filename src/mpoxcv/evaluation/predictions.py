"""predictions.csv, the table between training and evaluation: one row a scored picture."""

from pathlib import Path

import numpy as np
import pandas as pd

from mpoxcv.errors import UserError
from mpoxcv.storage.files import StrPath, opened, write_csv

KEYS = ["image", "patient", "data", "fold", "split", "label", "prediction"]
# also where a class or patient is called 1
TEXTS = {name: str for name in (*KEYS, "picture") if name != "fold"}


def classes_of(predictions: pd.DataFrame) -> list[str]:
    """Return the class names in the order of their labels, from the columns ``p_<class>``."""
    return [name.removeprefix("p_") for name in predictions.columns if name.startswith("p_")]


def probabilities_of(predictions: pd.DataFrame) -> np.ndarray:
    """Return the probabilities, float (n, number of classes)."""
    return predictions[[f"p_{name}" for name in classes_of(predictions)]].to_numpy(float)


def codes(predictions: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column's class names as numbers, int (n,)."""
    number = {name: label for label, name in enumerate(classes_of(predictions))}
    return predictions[column].map(number).to_numpy()


def is_synthetic(predictions: pd.DataFrame) -> bool:
    """Tell whether any row comes from synthetic data."""
    return bool(predictions["data"].str.startswith("synthetic").any())


def write_predictions(predictions: pd.DataFrame, path: StrPath) -> None:
    """Write predictions.csv in one piece.

    The columns are ``image`` (``<class>/<file name>``), ``patient``, ``picture`` (equal for files
    of one photograph), ``data`` (the data set's name), ``fold``, ``split``, ``label`` and
    ``prediction`` (class names), and float32 ``p_<class>`` for each class. Nine digits bring back
    every float32 exactly.
    """
    write_csv(path, predictions, float_format="%.9g")


def read_predictions(path: StrPath) -> pd.DataFrame:
    """Read predictions.csv; UserError where the file is not there or is no table of predictions."""
    if not Path(path).is_file():
        when = "They are written when a run's test has ended."
        raise UserError(f"There are no predictions in {path}. {when}")

    no_table = f"{path} is no table of predictions:"
    # keep_default_na: a class or patient may be called "NA"
    try:
        with opened(path) as stream:
            table = pd.read_csv(stream, dtype=TEXTS | {"model": str}, keep_default_na=False)
    except (ValueError, OSError) as error:
        # also of pandas' parser and of the encoding
        raise UserError(f"{no_table} {error}") from None
    if missing := [name for name in KEYS if name not in table.columns]:
        raise UserError(f"{no_table} it lacks the column(s) {', '.join(missing)}.")

    try:
        probabilities = probabilities_of(table)
    except ValueError:
        probabilities = np.array(-1.0)
    if not classes_of(table) or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise UserError(f"{no_table} its columns p_<class> are no probabilities.")
    # a column of zeros and ones is read as whole numbers
    return table.astype({f"p_{name}": float for name in classes_of(table)})


def most_confident_mistakes(predictions: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the wrong predictions with their ``confidence``, the most confident first."""
    wrong = predictions[predictions["label"] != predictions["prediction"]]
    confidence = probabilities_of(wrong).max(1)
    return wrong.assign(confidence=confidence).iloc[np.argsort(-confidence, kind="stable")[:most]]
