"""Which classes are taken for which: the confusion matrix, what follows from it, and its picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.files.atomic import atomic_write

_NUMBERED = 40  # classes up to which the cells bear their numbers and the axes the names
_SIDE, _LEAST_SIDE = 1200, 480  # pixels of the matrix
_FONT = 13
_LONGEST = 24  # characters of a name


def distinct_names(names: Sequence[str]) -> list[str]:
    """The classes' names, those that several have with their number (ImageNet has two cranes).

    >>> distinct_names(["crane", "owl", "crane"])
    ['crane (0)', 'owl', 'crane (2)']
    """
    times = Counter(names)
    return [name if times[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)]


def confusion_matrix(labels: NDArray[np.int64], guesses: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """How many images of class i were taken for class j: (classes,classes) int64.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return np.bincount(labels * classes + guesses, minlength=classes * classes).reshape(classes, classes)


def per_class_accuracy(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each class's images that was recognized: (C,), NaN for a class without images."""
    total = matrix.sum(axis=1)
    return np.divide(matrix.diagonal(), total, out=np.full(len(matrix), np.nan), where=total > 0)


def draw_confusion(path: Path, matrix: NDArray[np.int64], names: Sequence[str], title: str) -> None:
    """Write the matrix as a PNG: rows are the classes, columns what they were taken for, shades shares of the row.

    Raises:
        DataError: the file cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    count = len(matrix)
    numbered = count <= _NUMBERED
    cell = max(_SIDE // count, 1) if not numbered else min(max(_LEAST_SIDE // count, 30), 64)
    font = ImageFont.load_default(_FONT)
    words = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in names] if numbered else []
    margin = 20 + max((int(font.getlength(word)) for word in words), default=0)
    left, top, side = margin + 24, margin + 44, cell * count
    image = Image.new("RGB", (max(left + side + 20, 24 + int(font.getlength(title))), top + side + 20), "white")
    draw = ImageDraw.Draw(image)
    draw.text((12, 10), title, "black", font)
    total = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shares = matrix / total
    shaded = Image.fromarray(_shades(shares)).resize((side, side), Image.Resampling.NEAREST)
    image.paste(shaded, (left, top))
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=(150, 150, 150))
    _sideways(image, "class", (6, top + side // 2), font)
    draw.text((left + side // 2, 34), "taken for", (90, 90, 90), font, anchor="mm")
    for place, word in enumerate(words):
        middle = place * cell + cell // 2
        draw.text((left - 8, top + middle), word, "black", font, anchor="rm")
        _sideways(image, word, (left + middle - _FONT // 2 - 1, top - 8), font, foot=True)
    if numbered:
        small = ImageFont.load_default(min(_FONT, cell // 3 + 1))
        for i, j in zip(*np.nonzero(matrix), strict=True):
            ink = "white" if shares[i, j] > 0.5 else "black"
            at = (left + int(j) * cell + cell // 2, top + int(i) * cell + cell // 2)
            draw.text(at, str(matrix[i, j]), ink, small, anchor="mm")
    with atomic_write(path) as file:
        image.save(file, "PNG")


def _shades(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(C,C) in [0,1] -> (C,C,3): white to dark blue, the diagonal; white to dark red, the errors.

    The square root makes one image in a hundred visible.
    """
    strength = np.sqrt(shares)[:, :, None]
    ends = np.where(np.eye(len(shares), dtype=bool)[:, :, None], (16, 62, 122), (158, 26, 26))
    return np.rint(255 + strength * (ends - 255)).astype(np.uint8)


def _sideways(image: Any, text: str, at: tuple[int, int], font: Any, foot: bool = False) -> None:
    """Text that reads upwards, its left edge at x and its middle, or its foot, at y."""
    from PIL import Image, ImageDraw

    left, _, right, bottom = font.getbbox(text)
    strip = Image.new("L", (int(right - left) + 2, int(bottom) + 2))
    ImageDraw.Draw(strip).text((-left, 0), text, 255, font)
    strip = strip.rotate(90, expand=True)
    x, y = at[0], at[1] - (strip.height if foot else strip.height // 2)
    image.paste((0, 0, 0), (x, y), strip)
