"""Charts drawn by matplotlib: curves by epoch, lines, confusion matrices; PNG, SVG or PDF by extension."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.wording import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_NAMED = 40  # classes up to which the cells of a confusion matrix show their counts, and the axes the names
_MAX_NAME = 24  # characters
_CORRECT, _WRONG = (16, 62, 122), (158, 26, 26)  # RGB of a full cell on and off the diagonal
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito


def draw_curves(path: Path, curves: Mapping[str, Sequence[float]], x_label: str, title: str) -> None:
    """Write one panel per curve, side by side; values that are not finite leave a gap.

    Args:
        curves: name -> its value at 0, 1, ... of `x_label`.

    Raises:
        DataError: the file cannot be written.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _figure(4.6 * len(curves), 3.4, title)
    for panel, (name, values) in zip(_panels(figure, len(curves)), curves.items(), strict=True):
        shown = [value if math.isfinite(value) else math.nan for value in values]
        panel.plot(shown, color=_COLORS[0], marker="o", markevery=[len(shown) - 1])
        panel.set_title(name, parse_math=False)
        panel.set_xlabel(x_label)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.grid(color="#e0e0e0")
    _write(path, figure)


def draw_lines(
    path: Path, title: str, x_label: str, y_label: str, lines: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
    """Write lines of points (x, y), y > 0 on a logarithmic axis, one color and marker per line.

    Raises:
        DataError: the file cannot be written.
    """
    figure = _figure(8, 4.8, title)
    (panel,) = _panels(figure, 1)
    for number, (name, points) in enumerate(lines.items()):
        x, y = zip(*sorted(points), strict=True)
        panel.plot(x, y, marker="osD^vPX"[number % 7], color=_COLORS[number % len(_COLORS)], label=printable(name))
    panel.set_yscale("log")
    panel.set_xlabel(x_label, parse_math=False)
    panel.set_ylabel(y_label, parse_math=False)
    panel.grid(color="#e0e0e0")
    for text in panel.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False).get_texts():
        text.set_parse_math(False)
    _write(path, figure)


def draw_confusion(path: Path, matrix: NDArray[np.int64], names: Sequence[str], title: str) -> None:
    """Write a confusion matrix (C,C): rows are the true classes, columns the predicted, shades shares of the row.

    Up to 40 classes the cells show their counts and the axes the names.

    Raises:
        DataError: the file cannot be written.
    """
    count = len(matrix)
    named = count <= _MAX_NAMED
    side = min(max(3.2, 0.42 * count), 9) if named else 8
    margin = 0.075 * min(max(map(len, names)), _MAX_NAME) if named else 0.4
    figure = _figure(side + margin + 0.6, side + margin + 0.6, title)
    (panel,) = _panels(figure, 1)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    panel.imshow(_shades(shares), interpolation="nearest")
    panel.set_xlabel("predicted class")
    panel.set_ylabel("true class")
    if named:
        labels = [printable(name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…") for name in names]
        size = 9 if count <= 20 else 6
        panel.set_xticks(range(count), labels, rotation=90, fontsize=size, parse_math=False)
        panel.set_yticks(range(count), labels, fontsize=size, parse_math=False)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            ink = "white" if shares[row, column] > 0.35 else "black"
            panel.text(column, row, str(matrix[row, column]), color=ink, fontsize=size, ha="center", va="center")
    # At least one pixel per class.
    _write(path, figure, dpi=max(110, math.ceil(1.3 * count / side)))


def _shades(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(C,C) in [0,1] -> (C,C,3): white to dark blue on the diagonal, white to dark red off it.

    The square root makes one image in a hundred visible.
    """
    strength = np.sqrt(shares)[:, :, None]
    ends = np.where(np.eye(len(shares), dtype=bool)[:, :, None], _CORRECT, _WRONG)
    return np.rint(255 + strength * (ends - 255)).astype(np.uint8)


def _figure(width: float, height: float, title: str) -> Figure:
    """An empty figure of that size in inches, apart from pyplot's global state."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it announces its font cache on standard error
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(printable(title), fontsize=11, parse_math=False, wrap=True)
    return figure


def _panels(figure: Figure, count: int) -> Sequence[Axes]:
    panels: Any = figure.subplots(1, count, squeeze=False)
    return tuple(panels[0])


def _write(path: Path, figure: Figure, dpi: int = 110) -> None:
    kind = path.suffix.lower().removeprefix(".")
    # The same chart is the same file.
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with atomic_write(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
