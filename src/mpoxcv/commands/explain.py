"""Where trained networks looked in pictures, with the checks that a user of such maps must see."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from omegaconf import DictConfig
from rich.progress import track

from mpoxcv.command_line import require_given
from mpoxcv.errors import UserError
from mpoxcv.pictures.cache import read_file
from mpoxcv.pictures.images import decode
from mpoxcv.pictures.pixels import resize
from mpoxcv.pictures.tree import find_pictures
from mpoxcv.report.contact_sheet import contact_sheet
from mpoxcv.report.figures import save_figure
from mpoxcv.storage.files import write_csv
from mpoxcv.storage.markup import for_spreadsheets
from mpoxcv.terminal import say
from mpoxcv.use.predictor import NOT_FOR, Prediction, Predictor
from mpoxcv.use.saliency import explain_by_all
from mpoxcv.use.stored_run import load_runs

# above which a map shows the picture more than what was learned
ALIKE = 0.5


def explain(cfg: DictConfig) -> pd.DataFrame:
    """Write maps.png and explanations.csv as ``conf/explain.yaml`` says.

    Returns:
        A row a picture: ``image``, ``prediction``, ``probability``, ``likeness_to_random``,
        ``fall_marked`` and ``fall_elsewhere`` (see ``mpoxcv.use.saliency.Explanation``), means over
        the networks.

    Raises:
        UserError: an option is wrong, or there is no run or picture.
    """
    require_given(cfg, "explain", run="DIR", images="PATH")
    folder = Path(str(cfg.output))
    if folder.exists() and any(folder.iterdir()) and not cfg.overwrite:
        ways = "give another output=DIR, or overwrite=true"
        raise UserError(f"{folder} is there, and nothing is overwritten: {ways}.")
    paths = find_pictures(str(cfg.images))
    if len(paths) > cfg.most:
        say(f"{cfg.most} of {len(paths)} pictures are explained: most={len(paths)} takes all.")
    runs = load_runs(str(cfg.run), cfg.trust, cfg.data, cfg.model.weights)
    predictor = Predictor(runs)
    rows, pictures, captions = [], [], []
    for path in track(paths[: cfg.most], "Explaining", transient=True):
        [prediction] = predictor.predict([path])
        if not isinstance(prediction, Prediction):
            raise UserError(f"{path} {prediction}.")
        label = predictor.classes.index(prediction.label)
        decoded = decode(read_file(path))
        explained = explain_by_all(runs, decoded, label, cfg.seed)
        row: dict[str, Any] = {
            "image": str(path), "prediction": prediction.label,
            "probability": float(prediction.probabilities.max()),
            "likeness_to_random": explained.likeness, "fall_marked": explained.fall,
            "fall_elsewhere": explained.fall_elsewhere,
        }  # fmt: skip
        rows.append(row)
        pixels = resize(decoded, runs[0].form)
        maps = explained.map, explained.random
        pictures += [pixels, *(overlaid(pixels, one) for one in maps)]
        captions += [
            f"{path.name}\n{prediction.label} {row['probability']:.3f}",
            f"blurring the marked tenth: {-row['fall_marked']:+.3f}\nas much elsewhere: {-row['fall_elsewhere']:+.3f}",
            f"with random weights\nlikeness {row['likeness_to_random']:.2f}",
        ]

    table = pd.DataFrame(rows)
    synthetic = any(source.startswith("synthetic") for source in predictor.sources)
    title = f"Where {len(runs)} network(s) looked, trained on {'; '.join(predictor.sources)}"
    save_figure(contact_sheet(pictures, captions, title, synthetic, 3), folder / "maps.png")
    write_csv(folder / "explanations.csv", for_spreadsheets(table), float_format="%.6g")
    say("\n".join([*_verdict(table), f"Written to {folder}. {NOT_FOR}"]))
    return table


def _verdict(table: pd.DataFrame) -> list[str]:
    """Return what the checks say of the maps."""
    likeness, n = table["likeness_to_random"], len(table)
    alike = int((likeness > ALIKE).sum())
    falls = int((table["fall_marked"] > table["fall_elsewhere"]).sum())
    return [
        f"Likeness to the maps of random weights: {likeness.mean():.2f} on average; in {alike} of {n} picture(s) above "
        f"{ALIKE}, where a map shows the picture rather than what was learned (Adebayo et al. 2018).",
        f"Blurring the marked tenth lowers the probability by {table['fall_marked'].mean():.3f}, as much elsewhere by "
        f"{table['fall_elsewhere'].mean():.3f}, on average; by more in {falls} of {n} picture(s).",
        "A map says where a score comes from, not that it is right, and not why.",
    ]


def overlaid(pixels: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Return a picture, uint8 (S, S, 3), under a map, float (S, S) from 0 to 1, in colours."""
    colours = matplotlib.colormaps["inferno"](marked)[..., :3] * 255
    share = 0.65 * np.sqrt(marked)[..., None]
    return ((1 - share) * pixels + share * colours).round().astype(np.uint8)
