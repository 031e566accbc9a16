"""Predictions beside ground truth, as one picture that a person looks at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.images.decode import UnreadableImage, open_image
from tasks.detection.data.dataset import DetectionDataset, Segmentation
from tasks.detection.data.detections import Detections
from tasks.detection.data.masks import binary_mask

_COLORS = ((230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180), (0, 170, 170), (240, 50, 230),
            (128, 128, 0))  # fmt: skip
_HEIGHT, _GAP, _TITLE, _COLUMNS = 300, 6, 16, 2
_SHOWN_SCORE, _BEST = 0.5, 3

# One drawn object: corners, class, what is written beside it, segmentation or None.
Drawn = tuple[Sequence[float], int, str, Segmentation | None]


def write_picture(path: Path, data: DetectionDataset, detections: Sequence[Detections], count: int = 8) -> None:
    """PNG of the first `count` images with boxes (fewer where there are fewer): ground truth left, detections right.

    Shown are detections with a score of .5 and more, where there are none the best three; which of the two it is stands
    above. An image that cannot be read is left out.

    Raises:
        DataError: the file cannot be written.
    """
    pairs: list[Image.Image] = []
    for image, found in zip(data.images, detections, strict=True):
        if len(pairs) == count:
            break
        if not image.annotations:
            continue
        try:
            pixels = Image.fromarray(open_image(image.path).pixels())
        except UnreadableImage:
            continue
        scale = _HEIGHT / pixels.height
        truth = [(one.corners, one.label, data.classes[one.label], one.segmentation) for one in image.annotations]
        masks: Sequence[Any] = found.masks if found.masks is not None else [None] * len(found.scores)
        rows, what = _shown(found)
        guesses: list[Drawn] = [
            (found.boxes[row].tolist(), int(found.labels[row]), _text(data, found, row), masks[row]) for row in rows
        ]
        titles = f"{image.id}: ground truth ({len(truth)})", f"{image.id}: {what}"
        pairs.append(_pair(pixels, scale, truth, guesses, titles))
    with atomic_write(path) as file:
        _grid(pairs).save(file, format="PNG")


def _shown(found: Detections) -> tuple[list[int], str]:
    """Rows of the detections that are drawn, and what is written above them."""
    sure = np.flatnonzero(found.scores >= _SHOWN_SCORE).tolist()
    if sure or not len(found.scores):
        return sure, f"detections of {_SHOWN_SCORE} and more ({len(sure)})" if sure else "no detections"
    best = np.argsort(-found.scores, kind="stable")[:_BEST].tolist()
    return best, f"none of {_SHOWN_SCORE}, best {len(best)} of {len(found.scores)}"


def _text(data: DetectionDataset, found: Detections, row: Any) -> str:
    return f"{data.classes[int(found.labels[row])]} {found.scores[row]:.2f}"


def _pair(pixels: Image.Image, scale: float, truth: list, guesses: list[Drawn], titles: tuple[str, str]) -> Image.Image:
    halves = [_drawn(pixels, scale, objects) for objects in (truth, guesses)]
    width = halves[0].width
    pair = Image.new("RGB", (2 * width + _GAP, _HEIGHT + _TITLE), "white")
    pen = ImageDraw.Draw(pair)
    for place, (half, title) in enumerate(zip(halves, titles, strict=True)):
        left = place * (width + _GAP)
        pair.paste(half, (left, _TITLE))
        pen.text((left + 2, 2), title, fill="black")
    return pair


def _drawn(pixels: Image.Image, scale: float, objects: Iterable[Drawn]) -> Image.Image:
    objects = list(objects)
    canvas = pixels.copy()
    for _, label, _, segmentation in objects:
        if segmentation is not None:
            mask = binary_mask(segmentation, pixels.height, pixels.width)
            canvas.paste(_COLORS[label % len(_COLORS)], (0, 0), Image.fromarray(mask * 90))
    canvas = canvas.resize((max(1, round(pixels.width * scale)), _HEIGHT), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)
    for corners, label, text, _ in objects:
        x1, y1, x2, y2 = (value * scale for value in corners)
        color = _COLORS[label % len(_COLORS)]
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=2)
        at = (min(max(x1 + 2, 0), canvas.width - 10), min(max(y1 - 12, 0), _HEIGHT - 12))
        pen.rectangle(pen.textbbox(at, text), fill="white")
        pen.text(at, text, fill=color)
    return canvas


def _grid(pairs: Sequence[Image.Image]) -> Image.Image:
    rows = [pairs[start : start + _COLUMNS] for start in range(0, len(pairs), _COLUMNS)]
    width = max((sum(one.width + 3 * _GAP for one in row) for row in rows), default=1)
    height = sum(row[0].height + _GAP for row in rows) or 1
    grid = Image.new("RGB", (width, height), "white")
    top = 0
    for row in rows:
        left = 0
        for one in row:
            grid.paste(one, (left, top))
            left += one.width + 3 * _GAP
        top += row[0].height + _GAP
    return grid
