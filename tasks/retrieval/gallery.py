"""The gallery of `retrieval build` and `search`: a feature file searched exactly, or an index file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.extraction.sets import features_of, preprocessing_of, refuse_mixture, same_rows, settings_like
from simsiam_eval.extraction.settings import EncoderSettings, FeatureSettings, is_feature_file, is_index_file
from simsiam_eval.features.file import Features
from simsiam_eval.features.rows import open_features
from simsiam_eval.neighbors.approximate import NeighborIndex
from simsiam_eval.neighbors.exact import search
from simsiam_eval.neighbors.index_file import Measured, read_index_file
from simsiam_eval.plots.source_images import SourceImages, shown
from simsiam_eval.runtime.device import resolve_device
from simsiam_eval.runtime.progress import say
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.opening import open_source
from simsiam_eval.vocabulary import METRICS

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Gallery:
    """Images that can be found: what they are, and the index with its recall, where there is one."""

    features: Features
    index: NeighborIndex | None = None
    measured: Measured | None = None

    @property
    def exact(self) -> bool:
        return self.index is None or self.index.exact

    def search(
        self, queries: Queries, k: int, metric: str | None, device: str
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """As neighbors.search; an index has the metric that it was built with."""
        if self.index is not None:
            return self.index.search(queries.features, k, np.arange(len(queries.ids)) if queries.own else None)
        asked = None if queries.own else queries.features
        return search(self.features.features, asked, k, metric or METRICS[0], resolve_device(device))


def open_gallery(spec: str, settings: EncoderSettings) -> Gallery:
    """A feature file, an index file of `retrieval build`, or images with a checkpoint.

    Raises:
        UsageError, DataError: it cannot be used.
    """
    if is_index_file(spec):
        index, features, measured = read_index_file(Path(spec))
        return Gallery(features, index, measured)
    return Gallery(features_of(spec, "train", settings, option="--gallery"))


@dataclass(frozen=True)
class Queries:
    """What was asked: names, features (M,D), labels with their names, and the images to be shown.

    Attributes:
        own: whether they are the gallery's own rows, each of which is not to find itself.
        source, rows: of images that were given.
        given: the feature file that was given, which names its images.
    """

    ids: list[str]
    features: NDArray[np.float32]
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


def open_queries(spec: str, gallery: Gallery, checkpoint: Path | None, device: str) -> Queries:
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
        values = np.asarray(found.features)
        return Queries(found.ids.tolist(), values, found.labels, found.class_names, own, given=found)
    if checkpoint is None:
        raise DataError(f"{spec} is not a feature file (.h5): images need --checkpoint, the encoder of the gallery.")
    return _extracted(open_source(spec, "test"), gallery.features, checkpoint, device)


def _extracted(source: ImageSource, gallery: Features, checkpoint: Path, device: str) -> Queries:
    from simsiam_eval.encoders.checkpoint import load_encoder
    from simsiam_eval.extraction.extraction import Extraction

    made: dict[str, Any] = gallery.attributes["encoder"]
    encoder, report = load_encoder(checkpoint, made.get("layer", "pool"), made.get("pooling", "avg"))
    if report.weights_sha256 != made.get("weights_sha256"):
        raise DataError(f"{checkpoint} is not the encoder of {gallery.path}: their weights differ.")
    on = resolve_device(device)
    workers = 0 if on.type == "cuda" and len(source) < 64 else None  # processes take longer to start
    chosen = settings_like(gallery, FeatureSettings(compile="off", workers=workers))
    work = Extraction(encoder, source, preprocessing_of(gallery), chosen, on)
    features, rows = [], []
    for block in work.compute(work.starts):
        for row, reason in block.reasons.items():
            say(f"skipped {source.id(row)}: {reason}")
        readable = [row for row in block.rows if row not in block.reasons]
        features.append(block.columns["features"][np.array(readable, dtype=np.int64) - block.rows.start])
        rows += readable
    if not rows:
        raise DataError(f"No image of {source.spec} could be read.")
    ids, labels = [source.id(row) for row in rows], source.labels[rows]
    return Queries(ids, np.concatenate(features), labels, source.class_names, source=source, rows=rows)
