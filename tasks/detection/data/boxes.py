"""Checks of all boxes of a dataset: what is corrected and counted, and what shows that they are not in pixels.

A few odd boxes are counted; where a quarter of all boxes is odd, the file means something else, which is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from tasks.detection.data.issues import Issues

_SHARE, _FEW = 0.25, 3  # from which share of boxes, and from how many, a fault is the file's
NEARLY_ALL = 0.8  # the share of boxes that must agree with another reading of their numbers
_REACH, _ENOUGH = 0.5, 20  # of at least so many boxes one should reach beyond this part of its image
_SAMPLED_AREAS = 10_000
_LEAST_OF_OUTLINE, _LEAST_OF_BOX = 0.5, 0.05  # an object that is smaller than this part is odd

Boxes = NDArray[np.float64]  # (N,4)
Flags = NDArray[np.bool_]  # (N,)


@dataclass(frozen=True)
class BoxContext:
    """Where boxes come from.

    Attributes:
        spec: the dataset.
        form: what the four numbers are, for messages.
        ids: of all images.
        rows: (N,) the image of each box.
        where: index of a box -> what it is called in messages.
        issues: where odd boxes are counted.
    """

    spec: str
    form: str
    ids: Sequence[str]
    rows: NDArray[np.int32]
    where: Callable[[int], str]
    issues: Issues

    def count(self, issue: str, flags: Flags) -> None:
        """Count the boxes that are flagged."""
        self.issues.add(issue, self.ids, self.rows[flags])

    def reject(self, what: str, flags: Flags, expected: str) -> None:
        """Raise DataError for boxes that are flagged; `what` follows their number."""
        count, first = int(flags.sum()), self.where(int(np.argmax(flags)))
        raise DataError(f"{self.spec}: {count} of {len(flags)} boxes {what} (first: {first}); expected {expected}.")


def is_systematic(flags: Flags) -> bool:
    """Whether so many boxes are flagged that the whole file is at fault.

    >>> is_systematic(np.array([True] * 5 + [False] * 15)), is_systematic(np.array([True] * 2))
    (True, False)
    """
    return int(flags.sum()) >= max(_FEW, _SHARE * len(flags))


def upright(corners: Boxes, context: BoxContext) -> Boxes:
    """Corners (N,4) with x1 <= x2 and y1 <= y2; swapped ones are corrected and counted.

    Raises:
        DataError: a quarter of the boxes is swapped, so that the numbers are not what they are taken for.
    """
    swapped = np.any(corners[:, 2:] < corners[:, :2], axis=1)
    if is_systematic(swapped):
        context.reject("end before they begin", swapped, f"{context.form} in pixels")
    context.count("box with swapped corners, corrected", swapped)
    low, high = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])
    return np.concatenate([low, high], axis=1)


def reject_fractions(corners: Boxes, context: BoxContext) -> None:
    """Raise DataError if all boxes, or a quarter of them, lie between 0 and 1: fractions of the image, not pixels."""
    sides = corners[:, 2:] - corners[:, :2]
    fractions = np.all((corners >= 0) & (corners <= 1), axis=1) & np.any(sides > 0, axis=1)
    if is_systematic(fractions) or (len(fractions) and fractions.all()):
        context.reject("lie between 0 and 1", fractions, f"{context.form} in pixels, not as fractions of the image")


def check_places(boxes: Boxes, sizes: NDArray[np.int32], context: BoxContext) -> None:
    """Check sides and places of boxes (x, y, width, height) in images of `sizes` (N,2), width and height.

    Raises:
        DataError: so many boxes are smaller than a pixel, or outside their images, that they are not in pixels.
    """
    sides = boxes[:, 2:]
    solid = np.all(sides > 0, axis=1)
    tiny = solid & np.all(sides < 1, axis=1)
    if is_systematic(tiny):
        context.reject("are smaller than a pixel", tiny, f"{context.form} in pixels")
    context.count("box with a side below one pixel", solid & np.any(sides < 1, axis=1))
    outside = np.any((boxes[:, :2] >= sizes) | (boxes[:, :2] + sides <= 0), axis=1)
    if is_systematic(outside):
        context.reject("lie outside their images", outside, f"{context.form} in pixels of the image file")
    reach = (boxes[:, :2] + sides) / sizes
    if len(boxes) >= _ENOUGH and np.all(reach < _REACH):
        everywhere = np.ones(len(boxes), bool)
        context.count("box in the upper left quarter, as all are: check that they are in pixels", everywhere)


def other_forms(boxes: Boxes) -> dict[str, Boxes]:
    """What four numbers may mean instead of x, y, width, height -> their corners (N,4)."""
    first, last = boxes[:, :2], boxes[:, 2:]
    return {
        "x1, y1, x2, y2": boxes,
        "center x, center y, width, height": np.concatenate([first - last / 2, first + last / 2], axis=1),
        "y, x, height, width": np.concatenate([first[:, ::-1], (first + last)[:, ::-1]], axis=1),
    }


def reject_other_forms(boxes: Boxes, sizes: NDArray[np.int32], context: BoxContext) -> None:
    """Raise DataError if boxes read as x, y, width, height leave their images, but nearly all fit in another form."""
    leaves = np.any(boxes[:, :2] + boxes[:, 2:] > sizes + 1, axis=1)
    if not is_systematic(leaves):
        return
    for form, corners in other_forms(boxes).items():
        low, high = corners[:, :2], corners[:, 2:]
        fit = np.all((low >= -1) & (low < high) & (high <= sizes + 1), axis=1)
        if fit.mean() >= NEARLY_ALL:
            what = f"leave their images, and {'all' if fit.all() else f'{int(fit.sum())}'} fit if read as {form}"
            context.reject(what, leaves, "x, y, width, height in pixels")


def count_repeated(labels: NDArray[np.int32], boxes: Boxes, context: BoxContext) -> None:
    """Count objects of the same image, class and box as another."""
    keys = [*boxes.T, labels, context.rows]
    order = np.lexsort(keys)
    same = np.ones(max(len(order) - 1, 0), bool)
    for key in keys:
        ordered = key[order]
        same &= ordered[1:] == ordered[:-1]
    repeated = np.zeros(len(order), bool)
    repeated[order[1:][same]] = True
    context.count("box annotated more than once, kept", repeated)


def checked_areas(
    areas: NDArray[np.float64], boxes: Boxes, outline_area: Callable[[int], float | None], context: BoxContext
) -> NDArray[np.float64]:
    """Areas (N,) in pixels; one that cannot be is replaced by that of the outline, else of the box, and counted.

    An area of -1 would hide the object from pycocotools.

    Args:
        areas: NaN where the file has none.
        boxes: x, y, width, height.
        outline_area: index of an object -> area of its outline, None without one.
        context: where they come from.
    """
    width, height = boxes[:, 2], boxes[:, 3]
    lowest, highest = (
        np.minimum(1, width * height / 4),
        (width + 2) * (height + 2),
    )  # a mask exceeds its box by rounding
    missing, small, large = np.isnan(areas), areas < lowest, areas > highest
    for flags, what in ((missing, "missing"), (small, "below 0 or a pixel"), (large, "larger than its box")):
        context.count(f"area {what}, replaced by that of the mask or box", flags)
    areas = areas.copy()
    for index in np.flatnonzero(missing | small | large).tolist():
        area = outline_area(index)
        usable = area is not None and lowest[index] <= area <= highest[index]
        areas[index] = area if usable else width[index] * height[index]
    sampled = np.arange(0, len(areas), max(1, len(areas) // _SAMPLED_AREAS))
    if is_systematic(_far_below(sampled, areas, boxes, outline_area)[0]):
        everything = np.arange(len(areas))
        far_below, expected = _far_below(everything, areas, boxes, outline_area)
        context.count("area far below that of the mask or box, in a quarter of all objects, replaced by it", far_below)
        areas[far_below] = expected[far_below]
    return areas


def _far_below(
    rows: NDArray[np.int64], areas: NDArray[np.float64], boxes: Boxes, outline_area: Callable[[int], float | None]
) -> tuple[Flags, NDArray[np.float64]]:
    """Which areas in some rows are far below what is expected of outline or box; and what that is."""
    expected = boxes[rows, 2] * boxes[rows, 3]
    least = _LEAST_OF_BOX * expected
    for index, row in enumerate(rows.tolist()):
        area = outline_area(row)
        if area is not None and least[index] <= area <= (boxes[row, 2] + 2) * (boxes[row, 3] + 2):
            expected[index], least[index] = area, _LEAST_OF_OUTLINE * area
    return areas[rows] < least, expected
