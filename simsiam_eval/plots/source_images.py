"""The images that features were computed from, for contact sheets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from simsiam_eval.errors import DataError, UserError
from simsiam_eval.images.intensity import AUTO, Intensity
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.runtime.progress import say
from simsiam_eval.sources.base import ImageSource, blocks
from simsiam_eval.sources.intensity import source_intensity
from simsiam_eval.sources.opening import open_source

if TYPE_CHECKING:
    from PIL.Image import Image

    from simsiam_eval.features.table import ImageTable

# Up to this many images, the source's fingerprint is compared with that of the features, which may read every file.
_MAX_FINGERPRINTED = 20_000


class SourceImages:
    """The images of a source by id; without images, and with a message, if the source cannot be opened."""

    def __init__(
        self,
        spec: str | None,
        fingerprint: str | None = None,
        count: int | None = None,
        intensity: Intensity | None = None,
        ids: Collection[str] | None = None,
    ) -> None:
        """
        Args:
            spec: the image source; None if it is unknown.
            fingerprint: of the images that are expected, since the relative path in a feature file may lead to another
                folder; None for any.
            count: number of images that have this fingerprint.
            intensity: which values of images of more than 8 bits are black and white; None: as the source shows it.
            ids: the images that will be asked for, which saves memory where the source has many more; None: any.
        """
        self.intensity = intensity or Intensity()
        self.source: ImageSource | None = None
        self._rows: dict[str, int] = {}
        if not spec:
            say("Images cannot be shown: the features do not name their image source. Specify it with --images.")
            return
        try:
            self.source = open_source(spec)
            self.source.require(range(len(self.source)), None, self.intensity)
            if intensity is None:
                self.intensity = source_intensity(self.source, AUTO)
            if fingerprint is not None and count is not None and not self._matches(fingerprint, count):
                say(
                    f"{spec} differs from the images that the features were computed from; specify the original images "
                    "with --images."
                )
        except UserError as error:
            say(f"The images of {spec} cannot be shown: {error}")
            return
        for rows in blocks(len(self.source)):
            found = zip(self.source.ids_of(rows), rows, strict=True)
            self._rows.update(pair for pair in found if ids is None or pair[0] in ids)

    @classmethod
    def from_features(cls, features: ImageTable, ids: Collection[str] | None = None) -> SourceImages:
        """The images that the features were computed from; `ids` as above."""
        source = features.attributes["source"]
        shape = features.attributes.get("shape")
        count = source.get("rows_of", shape and shape[0])
        intensity = recorded_intensity(features.attributes)
        return cls(source.get("spec"), source.get("fingerprint"), count, intensity, ids)

    def row(self, image_id: str) -> int:
        """The row of an image in the source; -1 if it is not there."""
        return self._rows.get(image_id, -1)

    def image(self, image_id: str, side: int | None = None) -> Image | None:
        """The image, as `image_or_none` gives it."""
        return image_or_none(self.source, self.row(image_id), self.intensity, side)

    def _matches(self, fingerprint: str, count: int) -> bool:
        """Whether the source has this fingerprint; True if that cannot be compared."""
        source = self.source
        # With another number of images, the features are of one split of the source.
        if source is None or len(source) != count or count > _MAX_FINGERPRINTED:
            return True
        of_listing = fingerprint.startswith("listing")
        return fingerprint == (source.listing_fingerprint() if of_listing else source.fingerprint())


def recorded_intensity(attributes: Mapping[str, Any]) -> Intensity | None:
    """Which values were black and white in the images of features; None if their preprocessing is not recorded."""
    preprocessing = attributes.get("preprocessing") or {}
    try:
        return Intensity.from_json(preprocessing.get("intensity")) if preprocessing else None
    except (TypeError, ValueError):
        return None


def image_or_none(source: ImageSource | None, row: int, intensity: Intensity, side: int | None = None) -> Image | None:
    """The image of a row; None without a source, for a negative row, and for an unreadable image.

    Args:
        side: in pixels, at least which the long side has, so that a large JPEG may be decoded at a reduced size; None:
            its full size.
    """
    if source is None or row < 0:
        return None
    from PIL import Image

    try:
        opened = source.opened(row, None, intensity)
        factor = 1.0 if side is None else max(opened.height, opened.width) / side
        return Image.fromarray(opened.reduced(factor)[0])
    except (UnreadableImage, DataError):  # DataError: images of other channels than RGB
        return None
