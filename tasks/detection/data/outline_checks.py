"""Checks of the outlines of a dataset against the boxes and images they belong to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from tasks.detection.data.boxes import NEARLY_ALL, BoxContext, is_systematic, other_forms
from tasks.detection.data.outlines import Outlines, is_complete

_OVERLAP, _ROUNDING = 0.5, 2.0  # IoU of an outline's extent with its box, or all sides within so many pixels


def check_outlines(
    objects: NDArray[np.void], outlines: Outlines, sizes: NDArray[np.int32], masks: bool, context: BoxContext
) -> None:
    """Check the outline of each object, and set `objects["outline"]` to -1 where nothing is left of it.

    Args:
        objects: (N,) OBJECT.
        outlines: what `objects["outline"]` are rows of.
        sizes: (N,2) width and height of their images.
        masks: whether outlines are used, so that they must fit the boxes.
        context: where the objects come from.

    Raises:
        DataError: an outline has no usable numbers or does not fit its image, or a quarter of them does not fit its box.
    """
    rows = objects["outline"].copy()
    given = rows >= 0
    if not given.any():
        return
    context.count("segmentation given as one flat list, read as a polygon", given & np.isin(rows, outlines.flat))
    context.count(
        "segmentation with a polygon of fewer than three corners or an odd number of coordinates, which is left out",
        given & np.isin(rows, outlines.short),
    )
    unusable = given & ~outlines.is_finite()[rows]
    if unusable.any():
        name = context.where(int(np.argmax(unusable)))
        raise DataError(f"{name} has a polygon with a coordinate that is not a number.")
    _check_masks(rows, outlines, sizes, context)
    objects["outline"][given & outlines.is_empty()[rows]] = -1
    _check_extents(objects, outlines, masks, context)


def _check_masks(rows: NDArray[np.int64], outlines: Outlines, sizes: NDArray[np.int32], context: BoxContext) -> None:
    masked = (rows >= 0) & outlines.has_mask()[rows]
    for index in np.flatnonzero(masked).tolist():
        width, height = sizes[index].tolist()
        encoded = outlines.mask(int(rows[index]))
        if encoded["size"] != [height, width]:
            raise DataError(
                f"{context.where(index)} has a segmentation of size {encoded['size']}; expected [{height}, {width}], height "
                "and width of its image."
            )
        if not is_complete(encoded):
            raise DataError(
                f"{context.where(index)} has a segmentation with damaged counts; expected runs that cover the {height} x "
                f"{width} pixels of its image."
            )


def _check_extents(objects: NDArray[np.void], outlines: Outlines, masks: bool, context: BoxContext) -> None:
    """Count the outlines that lie elsewhere than their boxes."""
    given = objects["outline"] >= 0
    extents = outlines.extents()[objects["outline"][given]]
    boxes = objects["box"][given]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    near = (np.abs(extents - corners) <= _ROUNDING).all(axis=1)
    elsewhere = np.zeros(len(objects), bool)
    elsewhere[given] = ~near & (_iou(extents, corners) < _OVERLAP)
    if is_systematic(elsewhere):
        for form, others in other_forms(boxes).items():
            if (_iou(extents, others) >= _OVERLAP).mean() >= NEARLY_ALL:
                what = f"do not fit their segmentations, but would if read as {form}"
                context.reject(what, elsewhere, "x, y, width, height in pixels")
        if masks:
            context.reject("do not fit their segmentations", elsewhere, "both in pixels of the image file")
    context.count("box that does not fit its segmentation, kept", elsewhere)


def _iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union (N,) of corners (N,4) with (N,4)."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    shared = np.maximum(high - low, 0).prod(axis=1)
    areas = [(corners[:, 2:] - corners[:, :2]).prod(axis=1) for corners in (first, second)]
    return shared / np.maximum(areas[0] + areas[1] - shared, np.finfo(np.float64).tiny)
