"""Thumbnails, alone or many on one picture (a sprite sheet), for contact sheets and pages."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from PIL import Image

COLUMNS = 32  # thumbnails per row of a sheet
_PER_SHEET = COLUMNS * COLUMNS
_SAMPLE = 64  # thumbnails that the size is chosen by
# From large to small: side in pixels, quality of the WebP.
_SIZES = ((96, 70), (80, 65), (64, 60), (56, 55), (48, 50), (40, 45), (32, 40), (24, 35))
LARGEST_SIDE = _SIZES[0][0]


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """The image with its long side resized to `side` pixels; enlarged without smoothing, so that pixels stay visible."""
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BILINEAR)


def webp_thumbnail(image: Image.Image, side: int, quality: int = 80) -> bytes:
    """`thumbnail` as a WebP file."""
    data = io.BytesIO()
    thumbnail(image, side).convert("RGB").save(data, "WEBP", quality=quality)
    return data.getvalue()


@dataclass(frozen=True)
class SpriteSheets:
    """Thumbnails on sheets of COLUMNS x COLUMNS places, row by row.

    Attributes:
        side: of a place, in pixels.
        sheets: WebP files.
        count: number of thumbnails.
    """

    side: int
    sheets: Sequence[bytes]
    count: int


def sprite_sheets(
    count: int, image: Callable[[int], Image.Image | None], budget: int, advance: Callable[[int], None]
) -> SpriteSheets:
    """Thumbnails of `count` images, as large as fits in the budget.

    Args:
        image: the image of a number below `count`; None leaves its place empty.
        budget: size of all sheets together, in bytes; it is met up to how well a sample of the images predicts it.
        advance: called with 1 after each image.
    """
    side, quality = _chosen_size(count, image, budget)
    images = (image(number) for number in range(count))
    sheets = []
    for first in range(0, count, _PER_SHEET):
        chunk = list(islice(_counting(images, advance), min(_PER_SHEET, count - first)))
        sheets.append(_encoded(chunk, side, quality))
    return SpriteSheets(side, sheets, count)


def _counting(images: Iterator[Image.Image | None], advance: Callable[[int], None]) -> Iterator[Image.Image | None]:
    for image in images:
        advance(1)
        yield image


def _chosen_size(count: int, image: Callable[[int], Image.Image | None], budget: int) -> tuple[int, int]:
    """The largest of `_SIZES` at which a sample of the images predicts that all fit."""
    numbers = sorted({count * place // _SAMPLE for place in range(_SAMPLE)}) if count else []
    sample = [image(number) for number in numbers]
    for side, quality in _SIZES:
        if sample and len(_encoded(sample, side, quality)) / len(sample) * count <= budget:
            return side, quality
    return _SIZES[-1]


def _encoded(images: Iterable[Image.Image | None], side: int, quality: int) -> bytes:
    """A sheet of the images as WebP."""
    images = list(images)
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (min(len(images), COLUMNS) * side, rows * side), "#808080")
    for number, image in enumerate(images):
        if image is None:
            continue
        small = thumbnail(image, side)
        row, column = divmod(number, COLUMNS)
        sheet.paste(small, (column * side + (side - small.width) // 2, row * side + (side - small.height) // 2))
    data = io.BytesIO()
    sheet.save(data, "WEBP", quality=quality, method=4)
    return data.getvalue()
