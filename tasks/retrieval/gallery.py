"""Gallery and queries of `retrieval search`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.commands.unreadable import ReadImages
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.errors import DataError
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.extraction.plan import extraction_like
from simsiam_eval.extraction.sets import PlannedFeatures
from simsiam_eval.features.class_names import class_name
from simsiam_eval.features.compatibility import Extracted, reject_mixture, same_rows
from simsiam_eval.features.reader import open_features
from simsiam_eval.features.table import Features, ImageTable
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.neighbors.approximate import NeighborIndex
from simsiam_eval.neighbors.exact import search
from simsiam_eval.neighbors.index_file import MeasuredRecall, read_index_file
from simsiam_eval.plots.source_images import SourceImages, image_or_none
from simsiam_eval.runtime.progress import say
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.opening import open_source
from simsiam_eval.sources.spec import is_feature_file

if TYPE_CHECKING:
    from PIL.Image import Image

    from simsiam_eval.extraction.extraction import BlockFeatures

_FEW_IMAGES = 64  # for which starting decoding processes takes longer than decoding


@dataclass(frozen=True)
class Gallery:
    """Images to search in, with their features or with an index and its recall."""

    images: ImageTable
    index: NeighborIndex | None = None
    recall: MeasuredRecall | None = None

    @property
    def exact(self) -> bool:
        return self.index is None or self.index.exact

    def search(
        self, queries: Queries, k: int, metric: str, device: torch.device
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Similarities and rows (M,K) as `exact.search` returns them; an index uses the metric that it was built with."""
        if self.index is not None:
            return self.index.search(
                queries.features, k, np.arange(len(queries.ids)) if queries.leave_one_out else None
            )
        assert isinstance(self.images, Features)  # as there is no index
        return search(self.images.features, None if queries.leave_one_out else queries.features, k, metric, device)

    def class_name(self, row: int) -> str:
        """Class name of a row, "" without a label."""
        return class_name(int(self.images.labels[row]), self.images.class_names)


def open_index_gallery(path: Path) -> Gallery:
    """The gallery of an index file.

    Raises:
        DataError: it cannot be read.
    """
    index, images, recall = read_index_file(path)
    return Gallery(images, index, recall)


@dataclass(frozen=True)
class Queries:
    """Query images: ids, features (M,D), labels (M,) with their class names, and where to find the images.

    Attributes:
        leave_one_out: the queries are the gallery's own rows; none may find itself.
        source, rows, intensity: of queries given as images.
        read_images: how many of all queries could not be read.
        file: of queries given as a feature file, which names the source of its images.
    """

    ids: list[str]
    features: NDArray[np.floating]
    labels: NDArray[np.int64]
    class_names: Sequence[str] | None
    read_images: ReadImages
    leave_one_out: bool = False
    source: ImageSource | None = None
    rows: Sequence[int] = ()
    intensity: Intensity = Intensity()
    file: Features | None = None

    def images(self) -> Callable[[int], Image | None]:
        """A function from the number of a query to its image; a feature file's source is opened only here."""
        if self.source is not None:
            return lambda query: image_or_none(self.source, self.rows[query], self.intensity)
        images = SourceImages(None) if self.file is None else SourceImages.from_features(self.file)
        return lambda query: images.image(self.ids[query])

    def class_name(self, query: int) -> str:
        """Class name of a query, "" without a label."""
        return class_name(int(self.labels[query]), self.class_names)


def extracted_gallery(gallery: Features | PlannedFeatures, query_spec: str) -> Features:
    """The features of a gallery; before they are extracted the queries are opened.

    Raises:
        DataError: the queries do not exist, or are features of another encoder or preprocessing.
    """
    if isinstance(gallery, Features):
        return gallery
    if is_feature_file(query_spec):
        reject_mixture(gallery, _opened(query_spec, gallery))
    else:
        open_source(query_spec, "test")
    return gallery.extracted()


def _opened(spec: str, gallery: Extracted) -> Features:
    """Queries of a feature file, of the layer of the gallery."""
    layer = gallery.attributes["encoder"].get("layer")
    return open_features(Path(spec), (layer,) if layer else ())


def open_queries(spec: str, gallery: ImageTable, choice: EncoderChoice | None, device: torch.device) -> Queries:
    """The queries of a feature file, or of an image, a folder or another source, prepared as the gallery's images were.

    Raises:
        DataError: no image can be read; images without a checkpoint, or with one that is not the gallery's encoder;
            features of another encoder or preprocessing.
    """
    if is_feature_file(spec):
        file = _opened(spec, gallery)
        reject_mixture(gallery, file)
        features = file.features[:]
        leave_one_out = same_rows(gallery, file)
        return Queries(
            file.ids.tolist(), features, file.labels, file.class_names, file.read_images, leave_one_out, file=file
        )
    if choice is None:
        raise DataError(
            f"{spec} is not a feature file (.h5); image queries require --checkpoint, the gallery's encoder."
        )
    return _extract(open_source(spec, "test"), gallery, choice, device)


def _extract(source: ImageSource, gallery: ImageTable, choice: EncoderChoice, device: torch.device) -> Queries:
    from simsiam_eval.extraction.extraction import extract_to_memory

    def report_unreadable(block: BlockFeatures) -> None:
        for row, reason in block.reasons.items():
            say(f"skipped {source.id(row)}: {reason}")

    options = ExtractionOptions(workers=0 if device.type == "cuda" and len(source) < _FEW_IMAGES else None)
    work = extraction_like(gallery.attributes, gallery.name, choice, source, options, device)
    images = extract_to_memory(work, after_block=report_unreadable)
    return Queries(
        images.ids.tolist(),
        images.features[:],
        images.labels,
        source.class_names,
        images.read_images,
        source=source,
        rows=images.rows.tolist(),
        intensity=work.preprocessing.intensity,
    )
