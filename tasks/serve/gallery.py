"""The gallery that a server searches: rows by vector, with a filter by class, and rows by id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.sets import features_of
from simsiam_eval.features.table import ImageTable
from simsiam_eval.neighbors.approximate import EXACT, NeighborIndex, build_index
from simsiam_eval.runtime.progress import say
from simsiam_eval.sources.spec import is_index_file
from simsiam_eval.wording import counted
from tasks.retrieval.gallery import Gallery, open_index_gallery
from tasks.serve.rejected import Rejected
from tasks.serve.settings import ServeSettings

DEFAULT_K, MAX_K, MAX_RANK = 24, 1000, 10_000
_MARGIN = 2  # of rows that are searched for those of one class, over those expected of a random query
_GROWTH = 8  # of their number, where they were too few


@dataclass(frozen=True)
class Found:
    """Rows (M,) by descending similarity (M,) float32."""

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]


class ServedGallery:
    """Images that can be searched by several threads at once.

    Attributes:
        images: ids, labels, class names and attributes.
        classes: class name -> number of images.
        index: of FAISS.
    """

    def __init__(self, gallery: Gallery) -> None:
        assert gallery.index is not None
        self.images: ImageTable = gallery.images
        self.index: NeighborIndex = gallery.index
        self._name_of = gallery.class_name
        self._has_vectors = self.index.keep_vectors()
        self._rows = {str(name): row for row, name in reversed(list(enumerate(self.images.ids)))}
        labels, first, counts = np.unique(self.images.labels, return_index=True, return_counts=True)
        self.classes: dict[str, int] = {}
        self._labels: dict[str, list[int]] = {}  # several where classes share a name
        for label, row, count in zip(labels.tolist(), first.tolist(), counts.tolist(), strict=True):
            if label >= 0:
                name = self._name_of(row)
                self.classes[name] = self.classes.get(name, 0) + count
                self._labels.setdefault(name, []).append(label)

    def __len__(self) -> int:
        return len(self.images.ids)

    def class_name(self, row: int) -> str | None:
        """Class name of a row; None without a label."""
        return self._name_of(row) or None

    def row_of(self, image_id: str) -> int:
        """The first row with this id. Raises Rejected if there is none."""
        row = self._rows.get(image_id)
        if row is None:
            raise Rejected(404, f"No image of the gallery has the id {image_id!r}.")
        return row

    def require_row(self, row: int) -> int:
        """The row number. Raises Rejected if the gallery does not have it."""
        if not 0 <= row < len(self):
            raise Rejected(404, f"The gallery has the rows 0 to {len(self) - 1}, got row {row}.")
        return row

    def count(self, class_name: str | None) -> int:
        """Number of images of a class, or of all images. Raises Rejected for an unknown class."""
        if class_name is None:
            return len(self)
        if class_name not in self.classes:
            raise Rejected(404, f"The gallery has no class {class_name!r}; /gallery lists its classes.")
        return self.classes[class_name]

    def listed(self, contains: str, class_name: str | None, offset: int, k: int) -> tuple[list[int], bool]:
        """Rows of the images of a class whose id contains a text, in their order, and whether there are more."""
        self.count(class_name)
        allowed, wanted = self._filter(class_name), contains.casefold()
        rows: list[int] = []
        for row in range(len(self)) if allowed is None else np.flatnonzero(allowed(np.arange(len(self)))).tolist():
            if not wanted or wanted in str(self.images.ids[row]).casefold():
                rows.append(row)
                if len(rows) > offset + k:
                    break
        return rows[offset : offset + k], len(rows) > offset + k

    def vector(self, row: int) -> NDArray[np.float32]:
        """The features (D,) of a row, as the index stores them. Raises Rejected if it does not."""
        if not self._has_vectors:
            raise Rejected(
                409,
                f"An index {self.index.factory} cannot be searched by id, because it stores no vectors of its rows.",
            )
        return self.index.vectors([row])[0]

    def search(
        self, vector: NDArray[np.float32], count: int, class_name: str | None = None, left_out: int | None = None
    ) -> Found:
        """The `count` most similar images of a class, or of all; fewer where there are not so many, or where an approximate
        index finds fewer.

        Args:
            vector: (D,) features of the query.
            left_out: the row that is the query itself.

        Raises:
            Rejected: an unknown class.
        """
        total = self.count(class_name)
        allowed = self._filter(class_name)
        k = count + (left_out is not None)
        if allowed is not None:
            k = _MARGIN * -(-k * len(self) // total)
        while True:
            k = min(k, len(self))
            values, rows = self.index.search(vector[None], k)
            kept = rows[0] >= 0
            complete = k == len(self) or not kept.all()  # an approximate index finds no more
            kept &= rows[0] != (-1 if left_out is None else left_out)
            if allowed is not None:
                kept &= allowed(rows[0])
            if complete or kept.sum() >= count:
                return Found(rows[0][kept][:count], values[0][kept][:count])
            k *= _GROWTH

    def _filter(self, class_name: str | None) -> Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None:
        """Which of some rows are of a class; None for no filter."""
        if class_name is None:
            return None
        labels = self._labels[class_name]
        return lambda rows: np.isin(self.images.labels[rows], labels)


def open_gallery(settings: ServeSettings, device: torch.device) -> ServedGallery:
    """The gallery of the settings; of a feature file an exact index is built in memory.

    Raises:
        UsageError, DataError: it cannot be used.
    """
    if is_index_file(settings.gallery):
        gallery = open_index_gallery(Path(settings.gallery))
        assert gallery.index is not None and gallery.recall is not None
        if settings.metric not in (None, gallery.index.metric):
            raise UsageError(
                f"--metric {settings.metric} cannot be used: {settings.gallery} was built for {gallery.index.metric}; "
                "build another index."
            )
        gallery.index.set_parameters(settings.index_parameters or gallery.recall.parameters, DEFAULT_K)
        return ServedGallery(gallery)
    features = features_of(
        settings.gallery, "train", settings.given_encoder(), settings.extraction(), device, option="--gallery"
    )
    say(f"{settings.gallery}: loading {counted(len(features), 'image')}")
    try:
        index = build_index(features.features, EXACT, settings.metric or "cosine")
    except MemoryError as error:
        raise DataError(
            f"{settings.gallery} does not fit in memory; build a smaller index with `retrieval build`."
        ) from error
    return ServedGallery(Gallery(features, index))
