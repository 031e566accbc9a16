"""The images behind the rows of a feature file, to be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simsiam_eval.errors import UserError
from simsiam_eval.images import UnreadableImage
from simsiam_eval.progress import say
from simsiam_eval.sources import ImageSource, open_source

if TYPE_CHECKING:
    from PIL.Image import Image


class SourceImages:
    """The images of a source by their ids, as far as they are there to be shown."""

    def __init__(self, spec: str | None) -> None:
        self.source: ImageSource | None = None
        self._rows: dict[str, int] = {}
        try:
            self.source = open_source(spec or "")
        except UserError as error:
            say(f"The images of {spec} cannot be shown: {error}")
            return
        self._rows = {name: row for row, name in enumerate(self.source.ids_of(range(len(self.source))))}

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
