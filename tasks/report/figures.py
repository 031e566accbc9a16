"""The charts of the page, as plotly figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.wording import printable

Figure = Any  # of plotly, which has no types
BLUE, ORANGE, GREEN, GRAY = "#0072b2", "#e69f00", "#009e73", "#8a8a8a"  # Okabe and Ito's, and gray
MAX_CONFUSED = 60  # classes that the confusion matrix shows


@dataclass(frozen=True)
class Score:
    """One number of the scoreboard: a fraction with its 95 % interval; `published` ones are gray."""

    name: str
    value: float
    interval: Sequence[float] | None = None
    published: bool = False


def plain(text: str) -> str:
    """A name for plotly, which takes some HTML for markup."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _figure(height: int, **layout: Any) -> Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    # Colors of text, lines and background are the page's, which has a light and a dark version.
    figure.update_layout(
        template="none", height=height, margin={"l": 60, "r": 20, "t": 20, "b": 50}, showlegend=False, **layout
    )
    return figure


def scores(rows: Sequence[Score]) -> Figure:
    """Points with intervals, one row for each score."""
    figure = _figure(60 + 28 * len(rows))
    for published, color, symbol in ((True, GRAY, "diamond"), (False, BLUE, "circle")):
        chosen = [row for row in rows if row.published == published]
        if not chosen:
            continue
        bars = [row.interval or (row.value, row.value) for row in chosen]
        figure.add_scatter(
            x=[100 * row.value for row in chosen],
            y=[plain(row.name) for row in chosen],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [100 * (high - row.value) for row, (_, high) in zip(chosen, bars, strict=True)],
                "arrayminus": [100 * (row.value - low) for row, (low, _) in zip(chosen, bars, strict=True)],
                "color": color,
            },
            mode="markers",
            marker={"color": color, "size": 9, "symbol": symbol},
            hovertemplate="%{y}: %{x:.2f} %<extra></extra>",
        )
    names = [plain(row.name) for row in rows]
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True)
    figure.update_xaxes(title="%")
    return figure


def knn_heat_map(grid: Mapping[tuple[int, float], tuple[float, Sequence[float]]]) -> Figure:
    """(k, T) -> accuracy and interval."""
    ks, temperatures = sorted({k for k, _ in grid}), sorted({t for _, t in grid})
    cells = [[grid[k, t] for k in ks] for t in temperatures]
    text = [[f"{100 * value:.1f}" for value, _ in row] for row in cells]
    hover = [
        [f"k {k}, T {t:g}: {100 * v:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
         for k, (v, (low, high)) in zip(ks, row, strict=True)]
        for t, row in zip(temperatures, cells, strict=True)
    ]  # fmt: skip
    figure = _figure(90 + 44 * len(temperatures))
    figure.add_heatmap(
        x=[str(k) for k in ks],
        y=[f"{t:g}" for t in temperatures],
        z=[[100 * value for value, _ in row] for row in cells],
        text=text,
        texttemplate="%{text}",
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        colorscale="Viridis",
        colorbar={"title": "%"},
    )
    figure.update_xaxes(title="k", type="category")
    figure.update_yaxes(title="T", type="category")
    return figure


def few_shot(points: Sequence[tuple[float, float, float, float]], x_title: str) -> Figure:
    """(x, accuracy, low, high): the accuracy of linear evaluation by the number of training images."""
    x, values, low, high = np.array(sorted(points)).T
    figure = _figure(300)
    figure.add_scatter(
        x=x,
        y=100 * values,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": 100 * (high - values),
            "arrayminus": 100 * (values - low),
        },
        mode="lines+markers",
        line={"color": BLUE},
        hovertemplate="%{x}: %{y:.2f} %<extra></extra>",
    )
    figure.update_xaxes(title=x_title, type="log", tickvals=x, ticktext=[f"{value:g}" for value in x])
    figure.update_yaxes(title="top-1 %")
    return figure


def confusion(counts: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Counts (K,K) by true class (row) and predicted class (column); colored by the share of the true class.

    The page's script sets the colors, from white or black.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(760, 220 + 24 * len(names))
    figure = _figure(side)
    shown = [plain(name)[:24] for name in names]
    ticks = {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": shown, "automargin": True}
    figure.add_heatmap(
        z=shares.tolist(),
        customdata=counts.tolist(),
        text=[[str(count) if count else "" for count in row] for row in counts.tolist()],
        texttemplate="%{text}" if len(names) <= 24 else None,
        hovertemplate="true %{y}, predicted %{x}: %{customdata} images<extra></extra>",
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=1,
        ygap=1,
    )
    figure.update_xaxes(title={"text": "predicted", "standoff": 8}, tickangle=-60, **ticks)
    figure.update_yaxes(title={"text": "true", "standoff": 8}, autorange="reversed", **ticks)
    return figure


def curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], marks: Sequence[float], meaning: str
) -> Figure:
    """Panels below each other by epoch.

    Args:
        panels: title -> name of a line -> its points (epoch, value).
        marks: epochs of vertical lines.
        meaning: of these lines, for the legend.
    """
    from plotly.subplots import make_subplots

    figure = make_subplots(len(panels), 1, shared_xaxes=True, vertical_spacing=0.05)
    for row, (title, lines) in enumerate(panels.items(), 1):
        for color, (name, points) in zip((BLUE, ORANGE, GREEN), lines.items(), strict=False):
            x, y = zip(*points, strict=True) if points else ((), ())
            figure.add_scatter(
                x=x, y=y, name=name, line={"color": color}, mode="lines+markers" if len(x) < 40 else "lines",
                showlegend=len(lines) > 1,
                hovertemplate=f"{name}, epoch %{{x:.4g}}: %{{y:.4g}}<extra></extra>", row=row, col=1,
            )  # fmt: skip
        # The loss is between -1 and 1; of the others, zero is what matters.
        mode = "normal" if title == "loss" else "tozero"
        figure.update_yaxes(title={"text": title, "standoff": 8}, automargin=True, rangemode=mode, row=row, col=1)
    mark_line = {"color": "#d55e00", "dash": "dash"}
    for epoch in marks:
        figure.add_vline(epoch, line=mark_line)
    if marks:
        figure.add_scatter(x=[None], y=[None], mode="lines", line=mark_line, name=meaning, row=1, col=1)
    figure.update_xaxes(title="epoch", row=len(panels), col=1)
    figure.update_layout(
        template="none",
        height=60 + 170 * len(panels),
        margin={"l": 70, "r": 20, "t": 30, "b": 50},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom"},
    )
    return figure
