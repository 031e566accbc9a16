"""A picture of ground truth and detections side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.images.decode import open_image
from simsiam_eval.images.opened import UnreadableImage
from tasks.detection.data.dataset import DetectionDataset, LabeledImage, Segmentation
from tasks.detection.data.detections import Detections
from tasks.detection.data.masks import binary_mask

_COLORS = ((230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180), (0, 170, 170), (240, 50, 230),
           (128, 128, 0))  # fmt: skip
_HEIGHT, _GAP, _TITLE_HEIGHT, _COLUMNS = 300, 6, 16, 2
_MIN_SCORE, _MAX_WEAK = 0.5, 3


@dataclass(frozen=True)
class _Shape:
    """An object to draw; `caption` is written at its box."""

    corners: Sequence[float]
    label: int
    caption: str
    segmentation: Segmentation | None


def write_picture(path: Path, data: DetectionDataset, detections: Sequence[Detections], count: int = 8) -> None:
    """Write a PNG of the first `count` images with boxes: ground truth on the left, detections on the right.

    Shows the detections with a score of at least 0.5; if there are none, the three best, and says so above the image. An
    image that cannot be read is left out.

    Raises:
        DataError: the file cannot be written.
    """
    pairs: list[Image.Image] = []
    for image, detected in zip(data.images, detections, strict=True):
        if len(pairs) == count:
            break
        if not image.annotations:
            continue
        try:
            pixels = Image.fromarray(open_image(image.path).scaled(image.intensity).pixels())
        except UnreadableImage:
            continue
        pairs.append(_pair(pixels, image, detected, data.classes))
    with atomic_write(path) as file:
        _grid(pairs).save(file, format="PNG")


def _pair(pixels: Image.Image, image: LabeledImage, detected: Detections, classes: Sequence[str]) -> Image.Image:
    """Both halves, each with a title."""
    truth = [_Shape(obj.corners, obj.label, classes[obj.label], obj.segmentation) for obj in image.annotations]
    rows, title = _rows_to_draw(detected)
    predicted = [_detected_shape(detected, row, classes) for row in rows]
    halves = [_draw(pixels, shapes) for shapes in (truth, predicted)]
    width = halves[0].width
    pair = Image.new("RGB", (2 * width + _GAP, _HEIGHT + _TITLE_HEIGHT), "white")
    pen = ImageDraw.Draw(pair)
    for index, (half, text) in enumerate(zip(halves, (f"ground truth ({len(truth)})", title), strict=True)):
        left = index * (width + _GAP)
        pair.paste(half, (left, _TITLE_HEIGHT))
        pen.text((left + 2, 2), f"{image.id}: {text}", fill="black")
    return pair


def _rows_to_draw(detected: Detections) -> tuple[list[int], str]:
    """Rows of the detections to draw, and the title above them."""
    if not len(detected.scores):
        return [], "no detections"
    confident = np.flatnonzero(detected.scores >= _MIN_SCORE).tolist()
    if confident:
        return confident, f"detections with a score of at least {_MIN_SCORE} ({len(confident)})"
    best = np.argsort(-detected.scores, kind="stable")[:_MAX_WEAK].tolist()
    return best, f"no score of at least {_MIN_SCORE}, best {len(best)} of {len(detected.scores)}"


def _detected_shape(detected: Detections, row: int, classes: Sequence[str]) -> _Shape:
    label = int(detected.labels[row])
    mask = None if detected.masks is None else detected.masks[row]
    return _Shape(detected.boxes[row].tolist(), label, f"{classes[label]} {detected.scores[row]:.2f}", mask)


def _draw(pixels: Image.Image, shapes: Sequence[_Shape]) -> Image.Image:
    """The image, scaled to _HEIGHT, with masks, boxes and captions."""
    canvas = pixels.copy()
    for shape in shapes:
        if shape.segmentation is not None:
            mask = binary_mask(shape.segmentation, pixels.height, pixels.width)
            canvas.paste(_color(shape), (0, 0), Image.fromarray(mask * 90))
    scale = _HEIGHT / pixels.height
    canvas = canvas.resize((max(1, round(pixels.width * scale)), _HEIGHT), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)
    for shape in shapes:
        x1, y1, x2, y2 = (value * scale for value in shape.corners)
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=_color(shape), width=2)
        corner = (min(max(x1 + 2, 0), canvas.width - 10), min(max(y1 - 12, 0), _HEIGHT - 12))
        pen.rectangle(pen.textbbox(corner, shape.caption), fill="white")
        pen.text(corner, shape.caption, fill=_color(shape))
    return canvas


def _color(shape: _Shape) -> tuple[int, int, int]:
    return _COLORS[shape.label % len(_COLORS)]


def _grid(pairs: Sequence[Image.Image]) -> Image.Image:
    rows = [pairs[start : start + _COLUMNS] for start in range(0, len(pairs), _COLUMNS)]
    width = max((sum(pair.width + 3 * _GAP for pair in row) for row in rows), default=1)
    height = sum(row[0].height + _GAP for row in rows) or 1
    grid = Image.new("RGB", (width, height), "white")
    top = 0
    for row in rows:
        left = 0
        for pair in row:
            grid.paste(pair, (left, top))
            left += pair.width + 3 * _GAP
        top += row[0].height + _GAP
    return grid
