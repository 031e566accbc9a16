"""The images of the page: numbers for the map and thumbnails, packed for the browser."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from simsiam_eval.features.unit_length import l2_normalized
from simsiam_eval.neighbors.coordinates import Coordinates, coordinates
from simsiam_eval.plots.source_images import SourceImages
from simsiam_eval.plots.thumbnails import COLUMNS, LARGEST_SIDE, SpriteSheets, sprite_sheets
from simsiam_eval.runtime.progress import progress
from simsiam_eval.wording import printable
from tasks.report.encoders import Evaluated

# Of the thumbnails, before base64 makes a third more of them: with the chart library the page stays below 15 MB.
THUMBNAIL_BYTES = 6_000_000
MAX_CLUSTERS = 42  # as many as the map has colors and symbols; the time of k-means grows with their number
SCALE = 32767  # of cosine similarities as whole numbers, half as large on the page as float32
_CLUSTER_SAMPLE = 20_000  # images that clusters are computed from
_CLUSTERS = 10  # where there are no classes


@dataclass(frozen=True)
class Clusters:
    """Attributes:
    of: (N,) int64 number of each image's cluster; the largest cluster is number 0.
    count: number of clusters.
    fitted: number of images that they were computed from.
    """

    of: NDArray[np.int64]
    count: int
    fitted: int

    def sentence(self) -> str:
        """How they were computed, for people."""
        sample = "" if self.fitted == len(self.of) else f", computed from a sample of {self.fitted:,} images"
        return f"Clusters: k-means with k {self.count}{sample}."


@dataclass(frozen=True)
class PageImages:
    """What the page knows of each image; N images, first those of the test set.

    Attributes:
        map: their coordinates.
        thumbnails: (N,) int64 place on the sheets, -1 for none.
        sprites: the sheets.
    """

    evaluated: Evaluated
    map: Coordinates
    clusters: Clusters
    duplicates: NDArray[np.bool_]
    thumbnails: NDArray[np.int64]
    sprites: SpriteSheets

    def to_dict(self) -> dict[str, Any]:
        """For the page's script."""
        evaluated, predictions = self.evaluated, self.evaluated.predictions
        guesses = np.concatenate([evaluated.guesses, predictions.labels[len(evaluated.test) :]])
        confidence = np.concatenate([evaluated.confidence, predictions.confidence[len(evaluated.test) :]])
        return {
            "count": evaluated.count,
            "tests": len(evaluated.test),
            "classes": [printable(name) for name in evaluated.class_names],
            "ids": [printable(name) for name in evaluated.ids],
            "labels": packed(evaluated.labels, np.int32),
            "guesses": packed(guesses, np.int32),
            "confidence": packed(confidence, np.float32),
            "x": packed(self.map.points[:, 0], np.float32),
            "y": packed(self.map.points[:, 1], np.float32),
            "clusters": packed(self.clusters.of, np.int32),
            "duplicates": packed(self.duplicates, np.uint8),
            "neighborsPerImage": predictions.neighbors.shape[1],
            "neighbors": packed(predictions.neighbors, np.int32),
            # Of neighbors that there are; three digits are shown.
            "similarities": packed(np.round(SCALE * np.clip(predictions.similarities, -1, 1)), np.int16),
            "thumbnails": packed(self.thumbnails, np.int32),
            "sprites": {
                "side": self.sprites.side,
                "columns": COLUMNS,
                "sheets": [base64.b64encode(sheet).decode() for sheet in self.sprites.sheets],
            },
        }


def packed(values: NDArray[Any], dtype: type[np.generic]) -> str:
    """An array as base64 of its little-endian values, row by row."""
    return base64.b64encode(np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()).decode()


def map_of(evaluated: Evaluated, method: str, seed: int, device: torch.device) -> Coordinates:
    """The map of all images of an encoder; `method` as of `ReportSettings.map`."""
    near = evaluated.neighbors

    def neighbors() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return near.of_all.similarities, near.of_all.numbers

    return coordinates(evaluated.features(), method, seed=seed, device=device, neighbors=neighbors)


def clusters_of(evaluated: Evaluated, seed: int) -> Clusters:
    """Mini-batch k-means of the L2-normalized features, with as many clusters as classes, at most `MAX_CLUSTERS`."""
    from sklearn.cluster import MiniBatchKMeans

    features = evaluated.features()
    chosen = np.sort(np.random.default_rng(seed).permutation(len(features))[:_CLUSTER_SAMPLE])
    sample = l2_normalized(features[chosen])
    classes = len(np.unique(evaluated.labels[evaluated.labels >= 0]))
    count = min(classes if classes > 1 else _CLUSTERS, MAX_CLUSTERS, len(np.unique(sample, axis=0)))
    means = MiniBatchKMeans(count, n_init=3, random_state=seed).fit(sample)
    blocks = [slice(start, start + _CLUSTER_SAMPLE) for start in range(0, len(features), _CLUSTER_SAMPLE)]
    found = np.concatenate([means.predict(l2_normalized(features[block])) for block in blocks])
    order = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    return Clusters(place[found], count, len(sample))


def shown_images(evaluated: Evaluated, first: Sequence[int], limit: int) -> NDArray[np.int64]:
    """Numbers of the images with a thumbnail, sorted: those in `first`, the wrongly classified ones, the other test
    images, the neighbors of the test images, and the other training images, up to the limit."""
    tests = len(evaluated.test)
    wrong = evaluated.labeled_rows[~evaluated.correct] if evaluated.has_classes else np.empty(0, np.int64)
    neighbors = evaluated.predictions.neighbors[:tests].T.ravel()  # nearest neighbors first
    order = np.concatenate([
        np.asarray(first, np.int64), wrong, _spread(np.arange(tests)), neighbors[neighbors >= 0],
        _spread(np.arange(tests, evaluated.count)),
    ])  # fmt: skip
    _, places = np.unique(order, return_index=True)
    return np.sort(order[np.sort(places)][:limit])


def _spread(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """In an order whose beginning is a sample of all."""
    return np.random.default_rng(0).permutation(numbers)


def thumbnails_of(evaluated: Evaluated, shown: NDArray[np.int64]) -> tuple[NDArray[np.int64], SpriteSheets]:
    """(N,) place of each image on the sheets, -1 for none, and the sheets; without sheets if no image can be read."""
    places = np.full(evaluated.count, -1, np.int64)
    tables = [evaluated.test, *([evaluated.train] if evaluated.train else [])]
    sources = [SourceImages.from_features(table) for table in tables]
    tests, ids = len(evaluated.test), evaluated.ids
    numbers = [number for number in shown.tolist() if sources[int(number >= tests)].row(ids[number]) >= 0]

    def image(place: int) -> Image | None:
        number = numbers[place]
        return sources[int(number >= tests)].image(ids[number], LARGEST_SIDE)

    with progress("thumbnails", len(numbers)) as advance:
        sprites = sprite_sheets(len(numbers), image, THUMBNAIL_BYTES, advance)
    places[numbers] = np.arange(len(numbers))
    return places, sprites


def picture_url(path: Path) -> str | None:
    """A PNG file as a data URL; None if it is gone."""
    try:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return None
