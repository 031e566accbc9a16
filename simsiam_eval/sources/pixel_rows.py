"""Images stored as rows of one array of pixels, and how such an array is read as RGB."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.files.text import label_text
from simsiam_eval.images.channels import ChannelSelection
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.images.opened import OpenedImage
from simsiam_eval.images.stored import StoredImage, rgb_or_gray
from simsiam_eval.images.wide import WideImage
from simsiam_eval.sources.base import ImageSource, as_wide
from simsiam_eval.sources.labels import Labels

_EXPECTED = "expected (N,H,W,3), (N,H,W) or (N,3,H,W)"


class PixelRows(ImageSource):
    """Images that are the rows of an array.

    Args:
        layout: "HWC", "HW" or "CHW"; "stored" for pixels that are not RGB or gray.
        why_not_rgb: the sentence about such pixels.
    """

    def __init__(
        self,
        spec: str,
        labels: NDArray[np.int64],
        class_names: Sequence[str] | None,
        layout: str,
        why_not_rgb: str | None = None,
    ) -> None:
        super().__init__(spec, labels, class_names)
        self._layout, self._why_not_rgb = layout, why_not_rgb

    @abstractmethod
    def _stored(self, row: int) -> NDArray[Any]:
        """The row of the array. Raises UnreadableImage: it cannot be read."""

    def require(self, rows: range, selection: ChannelSelection | None, intensity: Intensity) -> None:
        if selection is None:
            self._require_rgb()
        super().require(rows, selection, intensity)

    def stored(self, row: int) -> StoredImage:
        return StoredImage(self._stored(row))

    def image(self, row: int) -> OpenedImage:
        self._require_rgb()
        stored = self._stored(row)
        return rgb_or_gray(StoredImage(stored.transpose(1, 2, 0) if self._layout == "CHW" else stored, "last"))

    def wide(self, row: int) -> WideImage | None:
        return as_wide(self.image(row))

    def _require_rgb(self) -> None:
        if self._why_not_rgb is not None:
            raise DataError(self._why_not_rgb)

    def _content(self, row: int) -> bytes:
        return self._stored(row).tobytes()


class ArrayRows(PixelRows):
    """Images in an array in memory or mapped into it, (N,H,W), (N,H,W,C) or (N,C,H,W) of numbers.

    Args:
        name: of the array; with the row number it is the id of an image.
        where: names the array in messages.
        rows: (M,) which rows of the array to read; default: all.

    Raises:
        DataError: it does not contain images.
    """

    in_memory = True

    def __init__(
        self,
        spec: str,
        pixels: NDArray[Any],
        labels: NDArray[np.int64],
        names: Sequence[str] | None,
        name: str,
        where: str,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        layout, why_not_rgb = pixel_layout(pixels.dtype, pixels.shape, where)
        super().__init__(spec, labels, names, layout, why_not_rgb)
        self._pixels, self._name, self._rows = pixels, name, rows

    def id(self, row: int) -> str:
        return f"{self._name}/{self._row(row):08d}"

    def stored(self, row: int) -> StoredImage:
        return StoredImage(self._pixels[self._row(row)], {"HWC": "last", "CHW": "first"}.get(self._layout))

    def _stored(self, row: int) -> NDArray[Any]:
        return np.asarray(self._pixels[self._row(row)])

    def _row(self, row: int) -> int:
        """The row of the array."""
        return row if self._rows is None else int(self._rows[row])


def array_labels(
    values: NDArray[Any] | None, images: int, where: str, no_label: Sequence[str], first: int = 0, hint: str = ""
) -> Labels:
    """The labels of an array of images: (N,) or (N,1) numbers or texts.

    Args:
        values: None: no labels.
        images: N.
        where: names the array of the labels in messages.
        first: the number of the first class.
        hint: what else to do where the shape is wrong, for the message.

    Raises:
        DataError: another type or shape.
    """
    labels = Labels(no_label)
    if values is None:
        labels.extend([""] * images)
    elif values.size != images or values.shape[:1] != (images,):
        raise DataError(f"{where} has shape {values.shape}; expected one label for each of {images} images{hint}.")
    elif values.dtype.kind in "US":
        texts = values.reshape(-1).tolist()
        labels.extend(label_text(text, where) if isinstance(text, bytes) else text for text in texts)
    elif values.dtype.kind in "iufb":
        labels.extend_numbers(values.reshape(-1).astype(np.int64) - first if first else values.reshape(-1))
    else:
        raise DataError(f"{where} contains {values.dtype}; expected labels as whole numbers or texts.")
    return labels


def pixel_layout(dtype: np.dtype, shape: tuple[int, ...], where: str) -> tuple[str, str | None]:
    """The layout of an array of images, and why its pixels are neither RGB nor gray if they are not.

    Args:
        where: names the array in messages.

    Raises:
        DataError: it does not contain images.
    """
    if dtype.kind not in "uif":
        raise DataError(f"{where} contains {dtype}; expected pixels as numbers, or the bytes of image files.")
    if len(shape) not in (3, 4) or 0 in shape[1:]:
        raise DataError(f"{where} has shape {shape}; {_EXPECTED}, or (N,) of bytes.")
    if len(shape) == 3:
        return "HW", None
    if shape[3] in (1, 3) or shape[1] in (1, 3):
        return "HWC" if shape[3] in (1, 3) else "CHW", None
    return (
        "stored",
        f"{where} has shape {shape}; {_EXPECTED}, or (N,) of bytes, or, for `extract --channels`, (N,H,W,C).",
    )
