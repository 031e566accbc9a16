"""The outlines of objects, polygons or run-length encoded masks, packed into a few arrays."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray


class RunLengthMask(TypedDict):
    """A run-length encoded mask as in COCO: `size` is [height, width], `counts` the runs as compressed text."""

    size: list[int]
    counts: str


# Polygons of the form [x1, y1, x2, y2, ...], or a run-length encoding.
Segmentation = list[list[float]] | RunLengthMask


class Outlines:
    """A sequence of segmentations that can only grow; a row has polygons, a mask, or neither.

    Attributes:
        flat, short: rows whose polygons were given as one flat list, or of which some were left out.

    >>> outlines = Outlines()
    >>> outlines.add([[0.0, 0.0, 4.0, 0.0, 4.0, 4.0]]), outlines.add(None), len(outlines)
    (0, -1, 1)
    >>> outlines.get(0, 10, 10), outlines.get(-1, 10, 10)
    ([[0.0, 0.0, 4.0, 0.0, 4.0, 4.0]], None)
    """

    def __init__(self) -> None:
        self._coordinates = array("d")
        self._polygon_ends = array("q", [0])  # in coordinates
        self._ends = array("q", [0])  # of rows, in polygons
        self._counts, self._count_ends = bytearray(), array("q", [0])  # nothing without a mask
        self._sizes = array("i")  # height and width of the mask, or 0
        self.flat: list[int] = []
        self.short: list[int] = []

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, segmentation: Any) -> int:
        """Add a COCO segmentation, and return its row; -1 if it is None or empty.

        A run-length encoding becomes compressed. Polygons with fewer than three corners, or with an x without a y, are left
        out, as in detectron2. `is_complete` checks the masks later, when the sizes of the images are known.

        Raises:
            ValueError: it is neither polygons nor a run-length encoding, as a clause.
        """
        if not segmentation and isinstance(segmentation, list | dict | None):
            return -1
        counts, size = "", (0, 0)
        if isinstance(segmentation, dict):
            counts, size = _compressed(segmentation)
        elif isinstance(segmentation, list):
            self._add_polygons(segmentation)
        else:
            raise ValueError(f"segmentation {segmentation!r}; expected polygons or a run-length encoding")
        self._counts += counts.encode()
        self._count_ends.append(len(self._counts))
        self._sizes.extend(size)
        self._ends.append(len(self._polygon_ends) - 1)
        return len(self) - 1

    def _add_polygons(self, polygons: list[Any]) -> None:
        if not isinstance(polygons[0], list):
            polygons = [polygons]
            self.flat.append(len(self))
        short = False
        for polygon in polygons:
            if not isinstance(polygon, list) or any(isinstance(value, list) for value in polygon[:1]):
                raise ValueError("an invalid segmentation; expected polygons as [x1, y1, x2, y2, ...]")
            if len(polygon) < 6 or len(polygon) % 2:
                short = True
                continue
            try:
                self._coordinates += array("d", polygon)
            except (TypeError, OverflowError) as error:
                raise ValueError("a polygon with a coordinate that is not a number") from error
            self._polygon_ends.append(len(self._coordinates))
        if short:
            self.short.append(len(self))

    def get(self, row: int, height: int, width: int) -> Segmentation | None:
        """The segmentation in a row, in an image of this size; None for row -1."""
        if row < 0:
            return None
        if counts := self._mask_counts(row):
            return {"size": [height, width], "counts": counts}
        return [polygon.tolist() for polygon in self.polygons(row)] or None

    def polygons(self, row: int) -> list[NDArray[np.float64]]:
        """The polygons in a row, (2K,) each."""
        ends = self._polygon_ends[self._ends[row] : self._ends[row + 1] + 1]
        return [np.array(self._coordinates[start:end]) for start, end in pairwise(ends)]

    def _mask_counts(self, row: int) -> str:
        return self._counts[self._count_ends[row] : self._count_ends[row + 1]].decode()

    def has_mask(self) -> NDArray[np.bool_]:
        """(rows,) bool."""
        return np.diff(np.frombuffer(self._count_ends, np.int64)) > 0

    def is_empty(self) -> NDArray[np.bool_]:
        """(rows,) bool, rows without a mask or a polygon of three corners."""
        return (np.diff(np.frombuffer(self._ends, np.int64)) == 0) & ~self.has_mask()

    def is_finite(self) -> NDArray[np.bool_]:
        """(rows,) bool, whether all coordinates are usable numbers."""
        usable = np.abs(np.frombuffer(self._coordinates)) < MAX_COORDINATE
        return self._reduced(np.logical_and, usable, 1, True)

    def mask_sizes(self) -> NDArray[np.int32]:
        """(rows,2) int32, height and width of each mask; 0 without one."""
        return np.frombuffer(self._sizes, np.int32).reshape(-1, 2)

    def mask(self, row: int) -> dict[str, Any]:
        """The mask in a row, as pycocotools takes it."""
        return {"size": self.mask_sizes()[row].tolist(), "counts": self._mask_counts(row)}

    def extents(self) -> NDArray[np.float64]:
        """(rows,4) float64, the smallest box around each row's polygons or mask: x1, y1, x2, y2; NaN without any."""
        from pycocotools import mask

        corners = np.full((len(self), 4), np.nan)
        coordinates = np.frombuffer(self._coordinates)
        for axis in (0, 1):
            values = coordinates[axis::2]
            corners[:, axis] = self._reduced(np.minimum, values, 2, np.nan)
            corners[:, axis + 2] = self._reduced(np.maximum, values, 2, np.nan)
        for row in np.flatnonzero(self.has_mask()).tolist():
            x, y, width, height = mask.toBbox(self.mask(row)).tolist()
            corners[row] = x, y, x + width, y + height
        return corners

    def _reduced(self, function: np.ufunc, values: NDArray[Any], step: int, empty: Any) -> NDArray[Any]:
        """`function` reduced over the values of each row, of which there is one for every `step` coordinates."""
        ends = np.frombuffer(self._polygon_ends, np.int64)[np.frombuffer(self._ends, np.int64)] // step
        filled = np.diff(ends) > 0
        result = np.full(len(self), empty)
        if filled.any():
            result[filled] = function.reduceat(values, ends[:-1][filled])
        return result

    def area(self, row: int) -> float:
        """Number of pixels of a mask, or the area of polygons."""
        from pycocotools import mask

        if self._mask_counts(row):
            return float(mask.area(self.mask(row)))
        return sum(_polygon_area(polygon.reshape(-1, 2)) for polygon in self.polygons(row))

    def feed(self, update: Callable[[Any], object]) -> None:
        """Pass everything to the `update` of a hash."""
        for content in (self._coordinates, self._polygon_ends, self._ends, self._counts, self._count_ends):
            update(content)

    @classmethod
    def joined(cls, parts: Sequence[Outlines]) -> Outlines:
        """The rows of several."""
        whole = cls()
        for part in parts:
            for ends, others, first in (
                (whole._ends, part._ends, len(whole._polygon_ends) - 1),
                (whole._polygon_ends, part._polygon_ends, len(whole._coordinates)),
                (whole._count_ends, part._count_ends, len(whole._counts)),
            ):
                ends.frombytes((np.frombuffer(others, np.int64)[1:] + first).tobytes())
            whole._coordinates += part._coordinates
            whole._counts += part._counts
            whole._sizes += part._sizes
        return whole


MAX_COORDINATE = 1e12


def _compressed(encoded: dict[str, Any]) -> tuple[str, tuple[int, int]]:
    """Compressed counts, height and width of a run-length encoding, which are not checked yet if they were compressed."""
    from pycocotools import mask

    size, counts = encoded.get("size"), encoded.get("counts")
    expected = "expected a run-length encoding with size [height, width] and counts"
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and 0 < side < 2**31 for side in size)):
        raise ValueError(f"a segmentation of size {size!r}; {expected}")
    height, width = size
    if isinstance(counts, str) and counts and counts.isascii():
        return counts, (height, width)
    if isinstance(counts, list) and all(type(run) is int and 0 <= run < 2**31 for run in counts):
        if sum(counts) == height * width:
            return mask.frPyObjects(encoded, height, width)["counts"].decode(), (height, width)
        raise ValueError(f"runs of {sum(counts)} pixels; expected a run-length encoding of {height} x {width} pixels")
    raise ValueError(f"a segmentation with invalid counts; {expected}")


_MORE, _SIGN, _LONGEST = 0x20, 0x10, 7  # bits of a character, and the characters of a run of up to 31 bits


def is_complete(encoded: dict[str, Any]) -> bool:
    """Whether the runs of a compressed mask cover it exactly.

    pycocotools decodes some damaged texts to pixels that differ from call to call, so it is not asked.

    >>> is_complete({"size": [4, 5], "counts": "5O0k0"}), is_complete({"size": [4, 5], "counts": "'5"})
    (False, False)
    """
    codes = np.frombuffer(encoded["counts"].encode(), np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero((codes & _MORE) == 0)
    if not len(ends) or codes.min() < 0 or codes.max() >= 2 * _MORE or ends[-1] != len(codes) - 1:
        return False
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > _LONGEST:
        return False
    starts = ends - lengths + 1
    digits = (codes & (_MORE - 1)) << 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat(digits, starts) - np.where(codes[ends] & _SIGN, 1 << 5 * lengths, 0)
    # From the fourth on, a run is written as the difference from the last but one.
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return bool(runs.min() >= 0 and runs.sum() == encoded["size"][0] * encoded["size"][1])


def _polygon_area(points: NDArray[np.float64]) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
