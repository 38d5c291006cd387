"""Classify new pictures by trained networks, averaged, into a table."""

from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from rich.progress import track
from rich.table import Table

from mpoxcv.command_line import require_given, require_suffix
from mpoxcv.errors import UserError, shorten, visible
from mpoxcv.pictures.tree import find_pictures
from mpoxcv.storage.files import write_csv
from mpoxcv.storage.markup import for_spreadsheets, one_line
from mpoxcv.terminal import console, say, warn
from mpoxcv.use.predictor import NOT_FOR, Prediction, Predictor, table_of
from mpoxcv.use.stored_run import load_runs

SEEN = "every network has seen its patient, or nothing tells whose it is"


def predict(cfg: DictConfig) -> pd.DataFrame:
    """Classify pictures as ``conf/predict.yaml`` says; those left out are named on stderr.

    Returns:
        The table, one row a picture, as of ``mpoxcv.use.predictor.table_of``, with ``data`` (what
        the networks were trained on) before the probabilities, and with ``flips`` a column of that
        name.

    Raises:
        UserError: an option is wrong, there is no run or picture, or the runs do not fit together.
    """
    _check(cfg)
    paths = find_pictures(str(cfg.images))
    runs = load_runs(str(cfg.run), cfg.trust, cfg.data, cfg.model.weights)
    for run in runs:
        run.classifier.flips = cfg.flips
    predictor = Predictor(runs, cfg.temperature)
    sources = "; ".join(predictor.sources)

    # whose networks are averaged for which pictures, (R, N)
    used = ~np.array([run.saw(paths) for run in runs]) if cfg.held_out else None
    kept = np.any(np.ones((1, len(paths)), bool) if used is None else used, axis=0)
    left_out = [(path, SEEN) for path, keep in zip(paths, kept, strict=True) if not keep]
    taken = [path for path, keep in zip(paths, kept, strict=True) if keep]
    steps = predictor.predict(taken, cfg.level, None if used is None else used[:, kept])
    predictions: list[Prediction] = []
    title = f"Classifying {len(taken)} pictures"
    for path, step in zip(taken, track(steps, title, len(taken), transient=True), strict=True):
        if isinstance(step, str):
            left_out.append((path, step))
        else:
            predictions.append(step)
    reasons = shorten([f"{one_line(str(p))}: {visible(why)}" for p, why in sorted(left_out)], 100)
    if not predictions:
        raise UserError(f"None of {len(paths)} picture(s) can be classified:\n{reasons}")

    table = table_of(predictions)
    # what a spreadsheet would take for a formula begins with ./
    table["image"] = [f"./{name}" if name[0] in "=+-@|%" else name for name in table["image"]]
    table.insert(5, "data", sources)
    if cfg.flips:
        table.insert(6, "flips", True)

    write_csv(str(cfg.output), for_spreadsheets(table), float_format="%.9g")
    if left_out:
        warn(f"{len(left_out)} of {len(paths)} picture(s) left out:\n{reasons}")
    mirrored = ", averaged over each picture and its mirror image" if cfg.flips else ""
    say(f"{len(table)} picture(s) by {len(runs)} network(s) trained on {sources}{mirrored}")
    _print(table, predictor)
    say(f"Written to {cfg.output}. {NOT_FOR}")
    return table


def _check(cfg: DictConfig) -> None:
    require_given(cfg, "predict", run="DIR", images="PATH")
    output = Path(str(cfg.output))
    if output.is_dir() or (output.exists() and not cfg.overwrite):
        ways = "give another output=FILE, or overwrite=true"
        raise UserError(f"{output} is there, and nothing is overwritten: {ways}.")
    require_suffix("output", output, ".csv")


def _print(table: pd.DataFrame, predictor: Predictor) -> None:
    out = console()
    shown = table.head(10)
    title = f"{len(shown)} of {len(table)} pictures" if len(table) > len(shown) else None
    grid = Table("picture", "prediction", "probability", "set", "unlike", title=title)
    for _, row in shown.iterrows():
        name, prediction = Path(row["image"]).name, row["prediction"]
        texts = (name, prediction, f"{row[f'p_{prediction}']:.3f}", row["set"])
        grid.add_row(*map(visible, texts), "unlike" if row["distance"] > 1 else "")
    out.print(grid)
    said = table["prediction"].value_counts().reindex(predictor.classes, fill_value=0)
    counts = (f"{visible(name)} {number}" for name, number in said.items())
    out.print(", ".join(counts), soft_wrap=True)
    if predictor.temperature != 1:
        fitted = f"temperature {predictor.temperature:.2f}, fitted on the networks' Valid pictures"
        out.print(f"Probabilities have the {fitted}: temperature=1 takes them as they are.")
    if unlike := int((table["distance"] > 1).sum()):
        out.print(
            f"{unlike} picture(s) are unlike those that the networks learned from; so are "
            f"{predictor.unlike_of_test:.0%} of their own test pictures."
        )
