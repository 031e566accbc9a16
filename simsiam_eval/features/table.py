"""The images of rows of features (ids, labels, class names) together with the features."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simsiam_eval.commands.unreadable import ReadImages
from simsiam_eval.features.rows import FeatureMatrix, FeatureRows
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.labels import canonical_name

Table = TypeVar("Table", bound="ImageTable")


@dataclass(frozen=True, kw_only=True, repr=False)
class ImageTable:
    """The images behind N rows of features, without the features.

    Attributes:
        ids: (N,) str.
        labels: (N,) int64, -1 for none.
        rows: (N,) int64, which rows of the file, or of the image source, these are.
        width: D, the number of features of a row.
        attributes: root attributes of the file: encoder, preprocessing, source, precision, ...
        unreadable: how many rows were left out because their image could not be read.
        path: the file that was read, which may be in the cache; None for features extracted into memory.
        given: how the user named the set, such as "--train photos"; None: by its file or image source.
    """

    ids: NDArray[np.str_]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    width: int
    attributes: dict[str, Any]
    unreadable: int = 0
    path: Path | None = None
    given: str | None = None

    @property
    def name(self) -> str:
        """What messages call it: the option and what it was given, else the file, or the image source."""
        return self.given or self.file

    @property
    def file(self) -> str:
        """The file, or the image source of features in memory."""
        return str(self.path or self.attributes["source"].get("spec"))

    @property
    def read_images(self) -> ReadImages:
        """How many images of the file or source could not be read, whatever rows were chosen since."""
        total = self.attributes["shape"][0] if "shape" in self.attributes else len(self) + self.unreadable
        return ReadImages(str(self.attributes["source"].get("spec") or self.path), self.unreadable, int(total))

    @property
    def class_names(self) -> list[str] | None:
        """Name of each label, in the Unicode form NFC; None if the classes have only numbers."""
        names: list[str] | None = self.attributes["source"].get("class_names")
        return None if names is None else list(map(canonical_name, names))

    @classmethod
    def of_source(cls, source: ImageSource, given: str) -> ImageTable:
        """The labels of an image source, without ids: to check them before there are features."""
        return ImageTable(
            ids=np.zeros(len(source), "U1"),
            labels=source.labels,
            rows=np.arange(len(source)),
            width=0,
            attributes={"source": {"class_names": source.class_names and list(source.class_names)}},
            given=given,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        classes = len(np.unique(self.labels[self.labels >= 0])) if self.class_names is None else len(self.class_names)
        labels = f"{classes or 'no'} class{'' if classes == 1 else 'es'}"
        name = self.path.name if self.path else self.file
        return f"{type(self).__name__}({len(self)} x {self.width} from {name}, {labels})"

    def subset(self, rows: slice | ArrayLike) -> Self:
        """Only these rows: numbers, a slice or a mask (N,), as NumPy indexes an array.

        Raises:
            IndexError: a row is out of bounds, or the mask is of another length.
        """
        chosen = self._numbers(rows)
        return replace(self, ids=self.ids[chosen], labels=self.labels[chosen], rows=self.rows[chosen])

    def _numbers(self, rows: slice | ArrayLike) -> NDArray[np.int64]:
        if not isinstance(rows, slice):
            rows = np.atleast_1d(rows)
            rows = rows if rows.size else rows.astype(np.int64)  # NumPy makes an empty list an array of floats
        return np.arange(len(self))[rows]


@dataclass(frozen=True, kw_only=True, repr=False)
class Features(ImageTable):
    """Features and the images they are of; unpacks as `X, y = features`.

    Attributes:
        features: (N,D) float32, in memory or on the disk (FeatureRows).
        columns: further datasets that were read, such as `layers/layer3` (N,D) or `views` (N,V,D), of the file's dtype.
    """

    features: FeatureMatrix
    columns: dict[str, NDArray[np.floating]]

    @property
    def X(self) -> FeatureMatrix:
        """The features."""
        return self.features

    @property
    def y(self) -> NDArray[np.int64]:
        """The labels."""
        return self.labels

    def __iter__(self) -> Iterator[Any]:
        """X, then y, so that `fit(*features)` trains on them."""
        if unlabeled := int((self.labels < 0).sum()):
            warnings.warn(
                f"{unlabeled} of {len(self)} rows have no label (y is -1); features.subset(features.y >= 0) leaves them out",
                stacklevel=2,
            )
        return iter((self.features, self.labels))

    def subset(self, rows: slice | ArrayLike) -> Self:
        """As `ImageTable.subset`; features on the disk stay there."""
        chosen = self._numbers(rows)
        if np.array_equal(chosen, np.arange(len(self))):
            return self
        features, columns = self.features, {name: values[chosen] for name, values in self.columns.items()}
        taken = features.take(chosen) if isinstance(features, FeatureRows) else features[chosen]
        return replace(super().subset(chosen), features=taken, columns=columns)
