"""The report's figures, to hover over and zoom into: plotly, with the script bundled in the page."""

import numpy as np
import plotly.graph_objects as go

from mpoxcv.evaluation.groups import PRIMARY, Group
from mpoxcv.evaluation.statistics import CALIBRATION_BINS
from mpoxcv.report.curves import AXES, curve, reliability
from mpoxcv.report.figures import COLOURS

DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot")
GRID = np.linspace(0, 1, 101)


def figures_of(group: Group) -> dict[str, go.Figure]:
    """Return a group's figures by title."""
    figures = {
        "Confusion matrix": confusion(group),
        **{AXES[kind][0]: curves(group, kind) for kind in AXES},
        "Reliability": reliability_bars(group),
    }
    if any(run.history is not None for run in group.finished):
        figures["Training curves of all folds"] = histories(group)
    return figures


def confusion(group: Group) -> go.Figure:
    """Draw the summed confusion matrix: counts as text, each true class's shares as colour."""
    classes, counts = (
        group.content["classes"],
        np.array(group.content["confusion"]) / len(group.content["seeds"]),
    )
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1e-12)
    text = [
        [f"{c:.4g}<br>{s:.0%}" for c, s in zip(*row, strict=True)]
        for row in zip(counts, shares, strict=True)
    ]
    heatmap = go.Heatmap(
        z=shares, x=classes, y=classes, text=text, texttemplate="%{text}", colorscale="Blues", zmin=0, zmax=1,
        colorbar={"title": "share of<br>true class", "thickness": 12},
        hovertemplate="true %{y}, called %{x}: %{text}<extra></extra>",
    )  # fmt: skip
    figure = _figure("predicted class", "true class", 420)
    figure.add_trace(heatmap)
    figure.update_yaxes(autorange="reversed")
    return figure


def curves(group: Group, kind: str) -> go.Figure:
    """Draw each class's pooled ROC or precision-recall curve; of the positive class also the runs' mean ± SD as a band."""
    _, x_name, y_name, _ = AXES[kind]
    figure = _figure(x_name, y_name, 460)
    figure.update_xaxes(range=[0, 1]).update_yaxes(range=[0, 1.01])
    positive = (group.content["mpox"] or {}).get("class", group.content["classes"][0])
    for number, name in enumerate(group.content["classes"]):
        if (found := curve(group.rows, name, kind)) is None:
            continue
        colour = COLOURS[number % len(COLOURS)]
        by_run = (
            [curve(part, name, kind) for _, part in group.rows.groupby("run")]
            if name == positive
            else []
        )
        if len(bands := [_on_grid(*points[:2]) for points in by_run if points is not None]) > 1:
            mean, sd = np.mean(bands, axis=0), np.std(bands, axis=0, ddof=1)
            figure.add_trace(go.Scatter(
                x=[*GRID, *GRID[::-1]], y=[*np.clip(mean + sd, 0, 1), *np.clip(mean - sd, 0, 1)[::-1]],
                fill="toself", fillcolor=colour, opacity=0.2, line={"width": 0}, hoverinfo="skip",
                name=f"{name}: mean ± SD of {len(bands)} runs",
            ))  # fmt: skip
        x, y, area = found
        line = {"color": colour, "dash": DASHES[number % len(DASHES)], "width": 2}
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, name=f"{name}: {area:.3f}"))
    return _diagonal(figure, "chance: 0.500") if kind == "roc" else figure


def _on_grid(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    order = np.argsort(x, kind="stable")
    return np.interp(GRID, x[order], y[order])


def reliability_bars(group: Group) -> go.Figure:
    """Draw the share of right predictions against the confidence, in equal bins."""
    bins = reliability(group.rows)
    figure = _figure("confidence", "share of right predictions", 420)
    figure.update_xaxes(range=[0, 1.03]).update_yaxes(range=[0, 1.06])
    figure.add_trace(go.Bar(
        x=bins["confidence"], y=bins["right"], width=0.8 / CALIBRATION_BINS, marker_color=COLOURS[5],
        text=bins["n"].map("{:.4g}".format),
        textposition="outside", name="pictures in the bin", hovertemplate="%{y:.2f} right of %{text}<extra></extra>",
    ))  # fmt: skip
    return _diagonal(figure, "perfect")


def _diagonal(figure: go.Figure, name: str) -> go.Figure:
    grey = {"color": "#888", "width": 1}
    return figure.add_trace(
        go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line=grey, name=name, hoverinfo="skip")
    )


def histories(group: Group) -> go.Figure:
    """Draw the loss of every run over its epochs, train and val."""
    figure, folds = _figure("epoch", "loss (cross entropy)", 420), group.content["folds"]
    for run in group.finished:
        if run.history is None:
            continue
        for split, dash in (("train", "dot"), ("val", "solid")):
            line = {
                "color": COLOURS[folds.index(run.fold) % len(COLOURS)],
                "dash": dash,
                "width": 1.5,
            }
            name = f"{split}, fold {run.fold}"
            figure.add_trace(go.Scatter(
                x=run.history["epoch"], y=run.history[f"{split}/loss"], mode="lines", line=line, name=name,
                legendgroup=name, showlegend=run.seed == group.content["seeds"][0], text=f"seed {run.seed}",
            ))  # fmt: skip
    return figure.update_yaxes(rangemode="tozero")


def folds_figure(groups: list[Group]) -> go.Figure:
    """Draw the primary metric of every run, and each group's pooled value with its interval."""
    figure = _figure(PRIMARY.replace("_", " "), "", 140 + 60 * len(groups))
    for number, group in enumerate(groups):
        colour = COLOURS[number % len(COLOURS)]
        runs = [
            (f"fold {r.fold}, seed {r.seed}", r.metrics.get(f"test/{PRIMARY}"))
            for r in group.finished
        ]
        figure.add_trace(go.Scatter(
            x=[value for _, value in runs], y=[group.name] * len(runs), mode="markers", text=[name for name, _ in runs],
            marker={"color": colour, "symbol": "circle-open", "size": 9}, showlegend=False, cliponaxis=False,
            hovertemplate="%{text}: %{x:.3f}<extra></extra>",
        ))  # fmt: skip
        value, low, high = group.content["pooled"][PRIMARY]
        figure.add_trace(go.Scatter(
            x=[value], y=[group.name], mode="markers", marker={"color": colour, "symbol": "diamond", "size": 13},
            error_x={"type": "data", "symmetric": False, "array": [high - value], "arrayminus": [value - low]},
            showlegend=False, cliponaxis=False, hovertemplate="pooled: %{x:.3f}<extra></extra>",
        ))  # fmt: skip
    chance = 1 / len(groups[0].content["classes"])
    figure.add_vline(chance, line={"color": "#888", "dash": "dot"}, annotation_text="chance")
    return figure.update_xaxes(range=[0, 1])


def _figure(x: str, y: str, height: int) -> go.Figure:
    return go.Figure(layout={
        "template": "plotly_white", "height": height, "margin": {"l": 10, "r": 10, "t": 20, "b": 10},
        "xaxis": {"title": x, "automargin": True}, "yaxis": {"title": y, "automargin": True},
        "legend": {"orientation": "h", "y": -0.25, "yanchor": "top"}, "font": {"size": 13},
    })  # fmt: skip
