"""The images behind the rows of a feature file, to be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simsiam_eval.errors import UserError
from simsiam_eval.images.decode import UnreadableImage
from simsiam_eval.runtime.progress import say
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.opening import open_source

_READ_AGAIN = 20_000  # images; a fingerprint is remembered where it has been made before

if TYPE_CHECKING:
    from PIL.Image import Image

    from simsiam_eval.features.table import ImageTable


class SourceImages:
    """The images of a source by their ids, as far as they are there to be shown."""

    def __init__(self, spec: str | None, fingerprint: str | None = None, count: int | None = None) -> None:
        """`fingerprint`, `count`: of the images that are meant, where `spec` is what a feature file says: the path may be
        relative, and another folder's. They are compared where the source is small enough to be read for that."""
        self.source: ImageSource | None = None
        self._rows: dict[str, int] = {}
        if not spec:
            say("The features name no image source, so that no images can be shown: give --images.")
            return
        try:
            self.source = open_source(spec)
            # Another number: a split of it, by the role that the set had.
            if fingerprint is not None and len(self.source) == count and count <= _READ_AGAIN:
                listing = fingerprint.startswith("listing")
                if fingerprint != (self.source.listing_fingerprint() if listing else self.source.fingerprint()):
                    say(
                        f"The images of {spec} here are not, or not all, those that the features are of: give --images."
                    )
        except UserError as error:
            say(f"The images of {spec} cannot be shown: {error}")
            return
        self._rows = {name: row for row, name in enumerate(self.source.ids_of(range(len(self.source))))}

    @classmethod
    def of(cls, features: ImageTable) -> SourceImages:
        """Those that the features say they were made from."""
        source = features.attributes["source"]
        shape = features.attributes.get("shape")
        return cls(source.get("spec"), source.get("fingerprint"), source.get("rows_of", shape and shape[0]))

    def row(self, name: str) -> int:
        """The row of an id, -1 where there is none."""
        return self._rows.get(name, -1)

    def image(self, name: str) -> Image | None:
        """The image, or None where it is missing or unreadable."""
        return shown(self.source, self.row(name))


def shown(source: ImageSource | None, row: int) -> Image | None:
    """A row's image, or None where there is none to see."""
    if source is None or row < 0:
        return None
    from PIL import Image

    try:
        return Image.fromarray(source.image(row).pixels())
    except UnreadableImage:
        return None
