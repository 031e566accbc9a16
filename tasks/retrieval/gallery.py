"""The gallery of `retrieval build` and `search`: a feature file searched exactly, or an index file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.extraction.plan import extraction_like
from simsiam_eval.extraction.sets import features_of
from simsiam_eval.extraction.settings import is_feature_file, is_index_file
from simsiam_eval.features.compatibility import refuse_mixture, same_rows
from simsiam_eval.features.reader import open_features
from simsiam_eval.features.table import Features, ImageTable
from simsiam_eval.neighbors.approximate import NeighborIndex
from simsiam_eval.neighbors.exact import search
from simsiam_eval.neighbors.index_file import Measured, read_index_file
from simsiam_eval.plots.source_images import SourceImages, shown
from simsiam_eval.runtime.progress import say
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.opening import open_source
from simsiam_eval.vocabulary import METRICS

if TYPE_CHECKING:
    from PIL.Image import Image

    from simsiam_eval.extraction.extraction import BlockFeatures


@dataclass(frozen=True)
class Gallery:
    """Images that can be found: what they are, and the index with its recall, where there is one."""

    features: ImageTable
    index: NeighborIndex | None = None
    measured: Measured | None = None

    @property
    def exact(self) -> bool:
        return self.index is None or self.index.exact

    def search(
        self, queries: Queries, k: int, metric: str | None, device: torch.device
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """As neighbors.search; an index has the metric that it was built with."""
        if self.index is not None:
            return self.index.search(queries.features, k, np.arange(len(queries.ids)) if queries.own else None)
        asked = None if queries.own else queries.features
        assert isinstance(self.features, Features)  # there is no index instead
        return search(self.features.features, asked, k, metric or METRICS[0], device)


def open_gallery(spec: str, checkpoint: Path | None, options: ExtractionOptions, device: torch.device) -> Gallery:
    """A feature file, an index file of `retrieval build`, or images with a checkpoint.

    Raises:
        UsageError, DataError: it cannot be used.
    """
    if is_index_file(spec):
        index, features, measured = read_index_file(Path(spec))
        return Gallery(features, index, measured)
    return Gallery(features_of(spec, "train", checkpoint, options, device, option="--gallery"))


@dataclass(frozen=True)
class Queries:
    """What was asked: names, features (M,D), labels with their names, and the images to be shown.

    Attributes:
        own: whether they are the gallery's own rows, each of which is not to find itself.
        source, rows: of images that were given.
        given: the feature file that was given, which names its images.
    """

    ids: list[str]
    features: NDArray[np.floating]
    labels: NDArray[np.int64]
    class_names: Sequence[str] | None
    own: bool = False
    source: ImageSource | None = None
    rows: Sequence[int] = ()
    given: Features | None = None

    def images(self) -> Callable[[int], Image | None]:
        """The image of a query, by its number; features are asked for theirs only here."""
        if self.source is not None:
            return lambda place: shown(self.source, self.rows[place])
        images = SourceImages(None) if self.given is None else SourceImages.of(self.given)
        return lambda place: images.image(self.ids[place])


def open_queries(spec: str, gallery: Gallery, checkpoint: Path | None, device: torch.device) -> Queries:
    """The features of an image, a folder or another source, as those of the gallery were made; or of a feature file.

    Raises:
        DataError: no image can be read; images without a checkpoint, or with one that is not the gallery's encoder;
            features of another encoder or preprocessing.
    """
    if is_feature_file(spec):
        layer = gallery.features.attributes["encoder"].get("layer")
        found = open_features(Path(spec), (layer,) if layer else ())
        refuse_mixture(gallery.features, found)
        own = same_rows(gallery.features, found)
        values = found.features[:]
        return Queries(found.ids.tolist(), values, found.labels, found.class_names, own, given=found)
    if checkpoint is None:
        raise DataError(f"{spec} is not a feature file (.h5): images need --checkpoint, the encoder of the gallery.")
    return _extracted(open_source(spec, "test"), gallery.features, checkpoint, device)


def _extracted(source: ImageSource, gallery: ImageTable, checkpoint: Path, device: torch.device) -> Queries:
    from simsiam_eval.extraction.extraction import extract_to_memory

    def name_unreadable(block: BlockFeatures) -> None:
        for row, reason in block.reasons.items():
            say(f"skipped {source.id(row)}: {reason}")

    workers = 0 if device.type == "cuda" and len(source) < 64 else None  # processes take longer to start
    options = ExtractionOptions(workers=workers)
    work = extraction_like(gallery.attributes, gallery.name, checkpoint, source, options, device)
    found = extract_to_memory(work, after_block=name_unreadable)
    return Queries(
        found.ids.tolist(), found.features[:], found.labels, source.class_names, source=source, rows=found.rows.tolist()
    )
