"""The gallery of `retrieval build` and `search`: a feature file searched exactly, or an index file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.checkpoint import load_encoder
from simsiam_eval.device import resolve_device
from simsiam_eval.errors import DataError
from simsiam_eval.extraction import Extraction
from simsiam_eval.feature_cache import features_of, refuse_mixture
from simsiam_eval.feature_file import Features
from simsiam_eval.feature_rows import open_features
from simsiam_eval.index_file import SUFFIX, read_index_file
from simsiam_eval.indexes import NeighbourIndex
from simsiam_eval.neighbours import search
from simsiam_eval.preprocess import Preprocessing
from simsiam_eval.progress import say
from simsiam_eval.settings import EncoderSettings, FeatureSettings, is_feature_file
from simsiam_eval.source_images import SourceImages
from simsiam_eval.sources import ImageSource, PathSource, open_source
from simsiam_eval.sources.folder import EXTENSIONS


@dataclass(frozen=True)
class Gallery:
    """Images that can be found: what they are, and the index, where there is one."""

    features: Features
    index: NeighbourIndex | None

    @property
    def exact(self) -> bool:
        return self.index is None or self.index.exact

    def search(
        self, queries: NDArray[np.float32], k: int, metric: str, device: str
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """As neighbours.search; an index has the metric that it was built with."""
        if self.index is not None:
            return self.index.search(queries, k)
        return search(self.features.features, queries, k, metric, resolve_device(device))


def open_gallery(spec: str, settings: EncoderSettings) -> Gallery:
    """A feature file, an index file of `retrieval build`, or images with a checkpoint.

    Raises:
        UsageError, DataError: it cannot be used.
    """
    if Path(spec).suffix == SUFFIX:
        index, features = read_index_file(Path(spec))
        return Gallery(features, index)
    return Gallery(features_of(spec, "train", settings), None)


@dataclass(frozen=True)
class Queries:
    """What was asked: names, features (M,D) and, where they came from images, the images' source with their rows."""

    ids: list[str]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    source: ImageSource | None
    rows: list[int]


def open_queries(spec: str, gallery: Gallery, checkpoint: Path | None, device: str) -> Queries:
    """The features of an image, a folder or another source, as those of the gallery were made; or of a feature file.

    Raises:
        DataError: no image can be read; images without a checkpoint, or with one that is not the gallery's encoder.
    """
    if is_feature_file(spec):
        found = open_features(Path(spec))
        if gallery.index is None:
            refuse_mixture(gallery.features, found)
        else:
            _refuse_other(gallery, found.attributes["encoder"], spec)
        return Queries(found.ids.tolist(), np.asarray(found.features), found.labels, *_source_of(found))
    if checkpoint is None:
        raise DataError(f"{spec} is not a feature file (.h5): images need --checkpoint, the encoder of the gallery.")
    path = Path(spec).expanduser()
    one = path.is_file() and path.suffix.lower() in EXTENSIONS
    source = PathSource([path], ids=[path.name], spec=spec) if one else open_source(spec, "test")
    return _extracted(source, gallery, checkpoint, device)


def _extracted(source: ImageSource, gallery: Gallery, checkpoint: Path, device: str) -> Queries:
    attributes = gallery.features.attributes
    made: dict[str, Any] = attributes["encoder"]
    encoder, report = load_encoder(checkpoint, made.get("layer", "pool"), made.get("pooling", "avg"))
    if report.weights_sha256 != made.get("weights_sha256"):
        raise DataError(f"{checkpoint} is not the encoder of {gallery.features.path}: their weights differ.")
    chosen = replace(
        FeatureSettings(compile="off", workers=0 if len(source) < 64 else None),
        precision=attributes["precision"],
        flip_average=bool(made.get("flip_average")),
        normalize=bool(made.get("normalize")),
    )
    preprocessing = Preprocessing.from_dict(attributes["preprocessing"])
    work = Extraction(encoder, source, preprocessing, chosen, resolve_device(device))
    features, rows = [], []
    for block in work.compute(work.starts):
        for row, reason in block.reasons.items():
            say(f"skipped {source.id(row)}: {reason}")
        readable = [row for row in block.rows if row not in block.reasons]
        features.append(block.columns["features"][np.array(readable, dtype=np.int64) - block.rows.start])
        rows += readable
    if not rows:
        raise DataError(f"No image of {source.spec} could be read.")
    return Queries([source.id(row) for row in rows], np.concatenate(features), source.labels[rows], source, rows)


def _refuse_other(gallery: Gallery, encoder: dict[str, Any], name: str) -> None:
    if encoder != gallery.features.attributes["encoder"]:
        raise DataError(f"{name} and {gallery.features.path} do not belong together: they differ in their encoder.")


def _source_of(features: Features) -> tuple[ImageSource | None, list[int]]:
    """The images that a feature file was made from, where they are still there, and the rows of its rows."""
    images = SourceImages(features.attributes["source"].get("spec"))
    return images.source, [images.row(name) for name in features.ids.tolist()]
