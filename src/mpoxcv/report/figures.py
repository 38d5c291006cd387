"""Figures of one table of predictions, as matplotlib figures that are legible in print and for the colour-blind."""

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from sklearn.metrics import confusion_matrix

from mpoxcv.evaluation.predictions import classes_of, is_synthetic
from mpoxcv.evaluation.statistics import CALIBRATION_BINS
from mpoxcv.report.curves import AXES, curve, reliability, weights_of

matplotlib.rcParams["text.parse_math"] = False  # a name with dollar signs is no formula

# Okabe and Ito (2008): told apart by the colour-blind; with line styles, in grey print as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
DPI = 150
LETTERS, LINE = 10.5, 0.18  # of a title: letters an inch, inches a line
PAPER = {False: "white", True: "#FFF6E5"}  # true: synthetic data
SYNTHETIC_NOTE = "SYNTHETIC DATA: procedural pictures, not patients"


def new_figure(
    title: str,
    synthetic: bool,
    width: float,
    height: float,
    margins: tuple[float, float, float] | None = None,
) -> Figure:
    """Return an empty figure with a title that says when its data are synthetic.

    Args:
        title: of one or several lines.
        synthetic: whether the data are.
        width: in inches.
        height: in inches.
        margins: inches left of, below and right of the axes; with None matplotlib finds them, in a third of the time to draw.
    """
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER[synthetic])
    lines = title_lines(title, synthetic, width)
    name = figure.suptitle("\n".join(lines), fontsize=11)
    if margins is None:
        figure.set_layout_engine("constrained")
    else:
        left, bottom, right = margins
        name.set_y(1 - 0.07 / height)
        top = LINE * len(lines) + 0.2
        figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    return figure


def title_lines(title: str, synthetic: bool, width: float) -> list[str]:
    """Return the lines of a title that say when the data are synthetic, for ``width`` inches."""
    lines = [*title.split("\n"), *[SYNTHETIC_NOTE] * synthetic]
    return [part for line in lines for part in textwrap.wrap(line, int(LETTERS * width))]


def save_figure(figure: Figure | Image.Image, file: Path) -> None:
    """Write a PNG file, in folders made where they lack; at the fastest compression, a third of the time for a fifth more."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(figure, Figure):
        figure.savefig(file, pil_kwargs={"compress_level": 1})
        figure.clear()
    else:
        figure.save(file, compress_level=1)


def describe(predictions: pd.DataFrame) -> str:
    """Return what the rows are: data set, fold, split, number of pictures and patients."""
    first = predictions.iloc[0]
    folds = ", ".join(map(str, sorted(set(predictions["fold"]), key=str)))
    return (
        f"{first['data']}, fold {folds}, {first['split']}: "
        f"{predictions['image'].nunique()} pictures of {predictions['patient'].nunique()} patients"
    )


def confusion_figure(predictions: pd.DataFrame, normalise: bool = False) -> Figure:
    """Draw the confusion matrix: counts, or each true class's shares (rows sum to 1)."""
    classes = classes_of(predictions)
    weight = weights_of(predictions)
    counts = confusion_matrix(
        predictions["label"], predictions["prediction"], labels=classes, sample_weight=weight
    )
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1e-12)
    kind = "row-normalised" if normalise else "counts"
    longest = max(map(len, classes))
    side, left, bottom = (
        max(2.0, 0.55 * len(classes)),
        0.9 + 0.09 * longest,
        0.6 + 0.065 * longest,
    )  # inches
    title = f"Confusion matrix ({kind})\n{describe(predictions)}"
    size = left + 1.25 * side + 0.6, bottom + side + 0.9
    figure = new_figure(title, is_synthetic(predictions), *size, margins=(left, bottom, 0.2))
    axes = figure.subplots()
    image = axes.imshow(
        shares if normalise else counts, cmap="Blues", vmin=0, vmax=1 if normalise else None
    )
    label = "share of the true class" if normalise else "pictures"
    figure.colorbar(
        image, ax=axes, shrink=0.8, label=label, ticks=MaxNLocator(integer=not normalise)
    )
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(
        range(len(classes)), [f"{c} ({n:.4g})" for c, n in zip(classes, counts.sum(1), strict=True)]
    )
    axes.set(xlabel="predicted class", ylabel="true class (pictures)")
    shade = np.asarray(image.norm(shares if normalise else counts))
    for row, column in np.ndindex(counts.shape):
        text = f"{shares[row, column]:.2f}" if normalise else f"{counts[row, column]:.4g}"
        colour = "white" if shade[row, column] > 0.55 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    return figure


def curves_figure(predictions: pd.DataFrame, kind: str) -> Figure:
    """Draw each class's ROC or precision-recall curve against the rest, with its area; ``kind`` as in ``curves.AXES``."""
    title, x_name, y_name, area_name = AXES[kind]
    names = classes_of(predictions)
    columns = 2 if max(map(len, names)) <= 16 else 1
    rows = 0.19 * -(-len(names) // columns)  # inches of the legend
    figure = new_figure(
        f"{title}\n{describe(predictions)}",
        is_synthetic(predictions),
        6.4,
        6.3 + rows,
        (0.7, 0.6 + rows, 0.2),
    )
    axes = figure.subplots()
    for label, name in enumerate(names):
        line: dict[str, Any] = {
            "color": COLOURS[label % len(COLOURS)],
            "linestyle": STYLES[label % len(STYLES)],
        }
        n = f"{weights_of(predictions)[predictions['label'] == name].sum():.4g}"
        found = curve(predictions, name, kind)
        if found is None:
            axes.plot([], [], label=f"{name}: not defined (n={n})", **line)
        else:
            x, y, area = found
            axes.plot(
                x,
                y,
                drawstyle="default" if kind == "roc" else "steps-post",
                label=f"{name} (n={n}): {area_name} {area:.3f}",
                **line,
            )
    if kind == "roc":
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    axes.set(xlabel=x_name, ylabel=y_name, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="lower center", ncols=columns)
    return figure


def reliability_figure(predictions: pd.DataFrame) -> Figure:
    """Draw accuracy against confidence in equal bins, the number of pictures in each, and the expected calibration error."""
    bins = reliability(predictions)
    ece = float((bins["n"] * (bins["right"] - bins["confidence"]).abs()).sum() / bins["n"].sum())
    figure = new_figure(
        f"Reliability: ECE {ece:.3f}\n{describe(predictions)}",
        is_synthetic(predictions),
        6.0,
        6.4,
        (0.7, 0.6, 0.2),
    )
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, label="perfectly calibrated")
    upper.plot(bins["confidence"], bins["right"], "o-", color=COLOURS[0], label="this network")
    upper.set(ylabel="share of correct predictions", ylim=(-0.02, 1.02))
    upper.legend(fontsize=8, loc="upper left")
    upper.grid(alpha=0.3)
    width = 1 / CALIBRATION_BINS
    drawn = (
        bins["n"].groupby(np.minimum(bins.index, CALIBRATION_BINS - 1)).sum()
    )  # a probability of 1 with its neighbours
    lower.bar(
        drawn.index * width,
        drawn,
        width,
        align="edge",
        color=COLOURS[5],
        edgecolor="black",
        linewidth=0.5,
    )
    lower.set(xlabel="confidence (largest probability)", ylabel="pictures", xlim=(0, 1))
    return figure


def learning_curves_figure(history: pd.DataFrame, title: str, synthetic: bool) -> Figure:
    """Draw train and val on shared axes over epochs: loss, accuracy and macro F1; marks the best epoch by val macro F1.

    Args:
        history: one row an epoch with the columns ``epoch`` and ``<split>/<metric>``.
        title: of the figure.
        synthetic: whether the data are.
    """
    figure = new_figure(title, synthetic, 10.5, 4.0, (0.7, 0.6, 0.2))
    best = (
        history.loc[history["val/f1_macro"].idxmax(), "epoch"]
        if history["val/f1_macro"].notna().any()
        else None
    )
    figure.subplots_adjust(wspace=0.25)
    names = {"loss": "loss (cross entropy)", "accuracy": "accuracy", "f1_macro": "macro F1"}
    for axes, (metric, label) in zip(figure.subplots(1, 3), names.items(), strict=True):
        for split, colour, style in (("train", COLOURS[0], "-"), ("val", COLOURS[1], "--")):
            axes.plot(
                history["epoch"], history[f"{split}/{metric}"], style, color=colour, label=split
            )
        if best is not None:
            axes.axvline(
                best, color="0.5", linewidth=0.8, linestyle=":", label=f"best epoch ({best:.0f})"
            )
        axes.set(xlabel="epoch", ylabel=label)
        axes.set_ylim(bottom=0) if metric == "loss" else axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    return figure


def draw_all(predictions: pd.DataFrame) -> dict[str, Figure]:
    """Return every figure of one split's predictions by name."""
    return {
        "confusion_matrix": confusion_figure(predictions),
        "confusion_matrix_normalised": confusion_figure(predictions, normalise=True),
        **{kind: curves_figure(predictions, kind) for kind in AXES},
        "reliability": reliability_figure(predictions),
    }
