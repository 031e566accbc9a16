"""Thumbnails of a sample of the images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.plots.source_images import SourceImages
from simsiam_eval.plots.thumbnails import LARGEST_SIDE, webp_thumbnail
from tasks.atlas.analysis import Analysis


def shown_rows(analysis: Analysis, limit: int, seed: int) -> NDArray[np.int64]:
    """Which images get a thumbnail, sorted: the worst suspects of each kind, up to an eighth of the limit each, and then
    a random sample."""
    near, each = analysis.near, limit // 8
    worst = [near.outliers.order(), near.outliers.class_order(), near.conflict_order()]
    if analysis.labels is not None:
        worst.append(analysis.labels.order()[: analysis.labels.count])
    sample = np.random.default_rng(seed).permutation(len(analysis))[:limit]
    order = np.concatenate([*(rows[:each] for rows in worst), sample])
    _, first = np.unique(order, return_index=True)
    return np.sort(order[np.sort(first)][:limit])


class Thumbnails:
    """WebP files of some images by row.

    Args:
        spec: image source; None: that of the features.

    Attributes:
        made, missing: numbers of images that have one so far, and of those that cannot be read.
    """

    def __init__(self, analysis: Analysis, rows: NDArray[np.int64], spec: str | None) -> None:
        self.made = self.missing = 0
        self._ids = {row: str(analysis.features.ids[row]) for row in rows.tolist()}
        self._images = None
        if len(rows):
            names = frozenset(self._ids.values())
            given = None if spec is None else SourceImages(spec, ids=names)
            self._images = given or SourceImages.from_features(analysis.features, names)

    def of(self, row: int) -> bytes | None:
        """The thumbnail of a row, if it is one of these and its image can be read."""
        if self._images is None or row not in self._ids:
            return None
        image = self._images.image(self._ids[row], LARGEST_SIDE)
        if image is None:
            self.missing += 1
            return None
        self.made += 1
        return webp_thumbnail(image, LARGEST_SIDE)
