"""Thumbnails of the gallery's images by row number, the latest of them kept in memory."""

from __future__ import annotations

from functools import lru_cache

from simsiam_eval.plots.source_images import SourceImages
from simsiam_eval.plots.thumbnails import webp_thumbnail
from tasks.serve.gallery import ServedGallery
from tasks.serve.rejected import Rejected

SIDE = 192  # pixels, for screens of two pixels per point
_KEPT = 20_000


class Thumbnails:
    """WebP files of the gallery's images.

    An image is found by the id of a row of the gallery among the images of its source: nothing that a client sends is ever
    opened as a path.

    Args:
        images: the image source of the gallery; None: that of its features.
    """

    def __init__(self, gallery: ServedGallery, images: str | None) -> None:
        self._gallery = gallery
        self._images = SourceImages(images) if images else SourceImages.from_features(gallery.images)
        self.file = lru_cache(_KEPT)(self._file)

    def _file(self, row: int) -> bytes:
        """The thumbnail of a row as WebP. Raises Rejected if there is no image."""
        image = self._images.image(str(self._gallery.images.ids[self._gallery.require_row(row)]), SIDE)
        if image is None:
            raise Rejected(404, f"The image of row {row} is not available.")
        return webp_thumbnail(image, SIDE)
