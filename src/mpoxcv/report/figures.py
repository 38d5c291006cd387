"""The figures of one run, and of several side by side: for print, and for the colour-blind."""

import base64
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from rich.cells import cell_len
from sklearn.metrics import confusion_matrix

from mpoxcv.errors import visible
from mpoxcv.evaluation.groups import PRIMARY, Group
from mpoxcv.evaluation.predictions import classes_of, is_synthetic
from mpoxcv.evaluation.runs import LEAKING
from mpoxcv.evaluation.statistics import CALIBRATION_BINS
from mpoxcv.report.curves import AXES, calibration_error, curve, reliability, weights_of
from mpoxcv.report.fonts import drawable, use_fonts
from mpoxcv.storage.files import replacing

# Okabe and Ito (2008): told apart by the colour-blind; with line styles, in grey print as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
DPI = 150
# Of a title: letters an inch, inches a line.
LETTERS, LINE = 10.5, 0.18
# Of the paper; true: synthetic data.
PAPER = {False: "white", True: "#FFF6E5"}
SYNTHETIC_NOTE = "SYNTHETIC DATA: procedural pictures, not patients"

# A decorator: a name with dollar signs is no formula.
literal_text = matplotlib.rc_context({"text.parse_math": False})


@literal_text
def new_figure(
    title: str, synthetic: bool, width: float, height: float, margins: tuple[float, float, float]
) -> Figure:
    """Return an empty figure with a title that says when its data are synthetic.

    Sizes are inches; the margins are those left of, below and right of the axes, which matplotlib
    would find in three times the time to draw.
    """
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER[synthetic])
    lines = title_lines(title, synthetic, width)
    figure.suptitle("\n".join(lines), fontsize=11, y=1 - 0.07 / height)
    left, bottom, right = margins
    top = LINE * len(lines) + 0.2
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    return figure


def title_lines(title: str, synthetic: bool, width: float) -> list[str]:
    """Return a title's lines for ``width`` inches; they say when the data are synthetic."""
    lines = [*drawable(title)[0].split("\n"), *[SYNTHETIC_NOTE] * synthetic]
    return [part for line in lines for part in textwrap.wrap(line, int(LETTERS * width))]


def save_figure(figure: Figure | Image.Image, file: Path) -> None:
    """Write a PNG file, and its folder; compressed a little, in a third of the usual time."""
    with replacing(file) as stream:
        if isinstance(figure, Figure):
            use_fonts(figure)
            figure.savefig(stream, format="png", pil_kwargs={"compress_level": 1})
            figure.clear()
        else:
            figure.save(stream, "PNG", compress_level=1)


@matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mpoxcv"})
def svg_url(figure: Figure) -> str:
    """Return a figure as a ``data:`` URL of an SVG whose text is text, always the same bytes."""
    stream = io.StringIO()
    use_fonts(figure)
    figure.savefig(stream, format="svg", metadata={"Date": None})
    # XML forbids control characters.
    svg = visible(stream.getvalue()).encode()
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def in_lines(names: list[str], letters: int, lines: int | None = None) -> tuple[list[str], int]:
    """Return names in lines of so many letters, and the letters of the longest line."""
    filled = [textwrap.fill(name, letters, max_lines=lines, placeholder="…") for name in names]
    texts = [drawable(text)[0] for text in filled]
    return texts, max(cell_len(line) for text in texts for line in text.split("\n"))


def describe(predictions: pd.DataFrame) -> str:
    """Return what the rows are: data set, fold, split, number of pictures and patients."""
    first = predictions.iloc[0]
    folds = ", ".join(map(str, sorted(set(predictions["fold"]), key=str)))
    return (
        f"{first['data']}, fold {folds}, {first['split']}: "
        f"{predictions.get('picture', predictions['image']).nunique()} pictures of {predictions['patient'].nunique()} patients"
    )


@literal_text
def confusion_figure(predictions: pd.DataFrame, note: str = "") -> Figure:
    """Draw the confusion matrix: counts, and each true class's shares (rows sum to 1)."""
    classes = classes_of(predictions)
    counts = confusion_matrix(predictions["label"], predictions["prediction"], labels=classes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1e-12)

    # All in inches.
    names, longest = in_lines(classes, 32, lines=2)
    side = max(2.0, 0.55 * len(classes))
    left, bottom = 0.9 + 0.09 * longest, 0.6 + 0.065 * longest
    size = left + 1.25 * side + 0.6, bottom + side + 0.9
    title = f"Confusion matrix (counts and row-normalised){note}\n{describe(predictions)}"
    figure = new_figure(title, is_synthetic(predictions), *size, margins=(left, bottom, 0.2))
    axes = figure.subplots()

    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    totals = [f"{name} ({n})" for name, n in zip(names, counts.sum(1), strict=True)]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), totals)
    axes.set(xlabel="predicted class", ylabel="true class (pictures)")

    for row, column in np.ndindex(counts.shape):
        text = f"{counts[row, column]}\n{shares[row, column]:.2f}"
        colour = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    return figure


@literal_text
def curves_figure(predictions: pd.DataFrame, kind: str) -> Figure:
    """Draw each class's curve of a ``kind`` (see ``AXES``) against the rest, with its area."""
    title, x_name, y_name, area_name = AXES[kind]
    names = classes_of(predictions)
    texts, longest = in_lines(names, 64)
    columns = 2 if longest <= 16 else 1
    # Inches of the legend.
    rows = 0.19 * -(-sum(text.count("\n") + 1 for text in texts) // columns)
    title, margins = f"{title}\n{describe(predictions)}", (0.7, 0.6 + rows, 0.2)
    figure = new_figure(title, is_synthetic(predictions), 6.4, 6.3 + rows, margins)
    axes = figure.subplots()

    for number, (name, text) in enumerate(zip(names, texts, strict=True)):
        colour, style = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
        n = f"{weights_of(predictions)[predictions['label'] == name].sum():.4g}"
        x, y, area = curve(predictions, name, kind) or ([], [], None)
        label = f"{text} (n={n}): {area_name} " + ("not defined" if area is None else f"{area:.3f}")
        steps = "default" if kind == "roc" else "steps-post"
        axes.plot(x, y, color=colour, linestyle=style, drawstyle=steps, label=label)

    if kind == "roc":
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    axes.set(xlabel=x_name, ylabel=y_name, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="lower center", ncols=columns)
    return figure


def reliability_figure(predictions: pd.DataFrame) -> Figure:
    """Draw accuracy against confidence in equal bins, with their pictures and calibration error."""
    bins = reliability(predictions)
    title = f"Reliability: ECE {calibration_error(predictions):.3f}\n{describe(predictions)}"
    figure = new_figure(title, is_synthetic(predictions), 6.0, 6.4, (0.7, 0.6, 0.2))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))

    upper.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, label="perfectly calibrated")
    upper.plot(bins["confidence"], bins["right"], "o-", color=COLOURS[0], label="this network")
    upper.set(ylabel="share of correct predictions", ylim=(-0.02, 1.02))
    upper.legend(fontsize=8, loc="upper left")
    upper.grid(alpha=0.3)

    width = 1 / CALIBRATION_BINS
    # A probability of 1 is drawn with its neighbours.
    n = bins["n"].groupby(np.minimum(bins.index, CALIBRATION_BINS - 1)).sum()
    edge = {"edgecolor": "black", "linewidth": 0.5}
    lower.bar(n.index * width, n, width, align="edge", color=COLOURS[5], **edge)
    lower.set(xlabel="confidence (largest probability)", ylabel="pictures", xlim=(0, 1))
    return figure


def learning_curves_figure(history: pd.DataFrame, title: str, synthetic: bool) -> Figure:
    """Draw loss, accuracy and macro F1 of train and val; marks the best epoch by val macro F1.

    ``history`` has one row an epoch with the columns ``epoch`` and ``<split>/<metric>``, if only of
    one split.
    """
    figure = new_figure(title, synthetic, 10.5, 4.0, (0.7, 0.6, 0.2))
    figure.subplots_adjust(wspace=0.25)
    epoch, f1 = history["epoch"], history.get("val/f1_macro")
    best = epoch[f1.idxmax()] if f1 is not None and f1.notna().any() else None
    names = {"loss": "loss (cross entropy)", "accuracy": "accuracy", "f1_macro": "macro F1"}

    for axes, (metric, label) in zip(figure.subplots(1, 3), names.items(), strict=True):
        for split, colour, style in (("train", COLOURS[0], "-"), ("val", COLOURS[1], "--")):
            if (values := history.get(f"{split}/{metric}")) is not None:
                axes.plot(epoch, values, style, color=colour, label=split)
        if best is not None:
            dotted = {"color": "0.5", "linewidth": 0.8, "linestyle": ":"}
            axes.axvline(best, label=f"best epoch ({best:.0f})", **dotted)
        axes.set(xlabel="epoch", ylabel=label)
        axes.set_ylim(bottom=0) if metric == "loss" else axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    return figure


def draw_all(predictions: pd.DataFrame, averaged: pd.DataFrame | None = None) -> dict[str, Figure]:
    """Return every figure of one split's predictions, of one or more runs, by name.

    ``averaged`` has one row a picture where several networks scored it (``Group.averaged``).
    """
    if averaged is None or len(averaged) == len(predictions):
        matrix = confusion_figure(predictions)
    else:
        matrix = confusion_figure(averaged, note=": each picture by the average of its networks")
    return {
        "confusion_matrix": matrix,
        **{kind: curves_figure(predictions, kind) for kind in AXES},
        "reliability": reliability_figure(predictions),
    }


@literal_text
def folds_figure(groups: Sequence[Group]) -> Figure:
    """Draw the primary metric of every run, and each group's pooled value with its interval.

    Baselines among the groups are drawn in grey.
    """
    names, longest = in_lines([group.name for group in groups], 34)
    # Inches: of each group's row, and of its middle below the axes' upper edge.
    heights = np.array([0.45 + 0.17 * name.count("\n") for name in names])
    middles = heights.cumsum() - heights / 2
    left, height = 0.3 + 0.09 * longest, heights.sum()
    leaks = " (LEAKING)" if groups[0].content["protocol"] == LEAKING else ""
    title = f"{PRIMARY.replace('_', ' ').capitalize()} of every run, and over all pictures{leaks}"
    synthetic = any(group.content["synthetic"] for group in groups)
    figure = new_figure(title, synthetic, left + 5, height + 1.1, margins=(left, 0.65, 0.3))
    axes = figure.subplots()

    for number, (group, y) in enumerate(zip(groups, middles, strict=True)):
        colour = "0.4" if "of" in group.content else COLOURS[number % len(COLOURS)]
        values = group.by_run[PRIMARY]
        axes.plot(values, [y - 0.13] * len(values), "o", color=colour, fillstyle="none")
        value, low, high = group.content["pooled"][PRIMARY]
        axes.plot([low, high], [y, y], "-|", color=colour)
        axes.plot(value, y, "D", color=colour, markersize=8)
        anew = group.content.get("procedure", {PRIMARY: [np.nan] * 3})[PRIMARY][1:]
        axes.plot(anew, [y + 0.13] * 2, "-|", color=colour, alpha=0.5)
    # What lies at 1 is drawn whole, over the frame.
    for line in axes.lines:
        line.set(clip_on=False, zorder=3)

    chance = 1 / len(groups[0].content["classes"])
    line = axes.axvline(chance, color="0.5", linewidth=1, linestyle=":")
    axes.set_yticks(middles, names)
    axes.set(xlim=(0, 1), ylim=(height, 0))
    axes.grid(axis="x", alpha=0.3)
    run = Line2D([], [], color="0.4", marker="o", fillstyle="none", linestyle="")
    pooled = Line2D([], [], color="0.4", marker="D")
    paler = Line2D([], [], color="0.4", marker="|", alpha=0.5)
    legend = {"one run": run, "all pictures, 95 % over patients": pooled, "trained anew": paler}
    legend["chance"] = line
    figure.legend(legend.values(), legend.keys(), fontsize=8, loc="lower center", ncols=4)
    return figure
