"""Contact sheets: rows of images with captions, as a PNG or HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.plots.thumbnails import thumbnail

_SIDE, _GAP, _FONT_SIZE, _FRAME_WIDTH = 112, 8, 13, 3  # pixels
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: {{ font_size }}px sans-serif }
div { display: flex; flex-wrap: wrap; border: 1px solid #bbb; margin: {{ gap }}px 0 }
figure { margin: {{ gap // 2 }}px; width: {{ side }}px; overflow-wrap: anywhere }
img, i {
  box-sizing: border-box; width: {{ side }}px; height: {{ side }}px; object-fit: contain; display: block;
  border: {{ frame_width }}px solid
}
</style>
<h1>{{ title }}</h1>
{% for row in rows %}
<div>
{% for cell in row %}
<figure>
{% if cell.image %}
<img style="border-color: {{ cell.frame }}" src="data:image/png;base64,{{ png(cell.image) }}" alt="">
{% else %}
<i style="border-color: {{ cell.frame }}"></i>
{% endif %}
<figcaption>
{%- for line in cell.caption %}
{% if not loop.first %}<br>{% endif %}
{% for part in line.split("/") %}{{ part }}{% if not loop.last %}/<wbr>{% endif %}{% endfor %}
{% endfor -%}
</figcaption>
</figure>
{% endfor %}
</div>
{% endfor %}
</html>
"""


@dataclass(frozen=True)
class Cell:
    """One image of a sheet.

    Attributes:
        image: None if it cannot be shown.
        caption: lines of text below it.
        frame: color of its frame.
    """

    image: Image.Image | None
    caption: tuple[str, ...] = ()
    frame: str = "#cccccc"


def write_sheet(path: Path, title: str, rows: Sequence[Sequence[Cell]]) -> None:
    """Write rows of images as a PNG, or as a self-contained HTML page if `path` ends in .html.

    Raises:
        DataError: the file cannot be written.
    """
    with atomic_write(path) as file:
        if path.suffix.lower() == ".html":
            file.write(_page(title, rows).encode())
        else:
            _sheet(title, rows).save(file, "PNG")


def _font(size: int = _FONT_SIZE) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _sheet(title: str, rows: Sequence[Sequence[Cell]]) -> Image.Image:
    columns = max((len(row) for row in rows), default=1)
    font = _font()
    captions = [[[line for text in cell.caption for line in _lines(text, font)] for cell in row] for row in rows]
    lines = max((len(caption) for row in captions for caption in row), default=0)
    step_x, step_y = _SIDE + _GAP, _SIDE + _GAP + lines * (_FONT_SIZE + 3)
    top = 2 * _GAP + _FONT_SIZE + 4
    width = max(columns * step_x + _GAP, round(font.getlength(title)) + 2 * _GAP)
    sheet = Image.new("RGB", (width, len(rows) * step_y + top), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, "black", font)
    for row_index, row in enumerate(rows):
        for column, cell in enumerate(row):
            x, y = _GAP + column * step_x, top + row_index * step_y
            if cell.image is not None:
                small = thumbnail(cell.image, _SIDE)
                position = x + (_SIDE - small.width) // 2, y + (_SIDE - small.height) // 2
                sheet.paste(small, position)
            draw.rectangle((x, y, x + _SIDE - 1, y + _SIDE - 1), outline=cell.frame, width=_FRAME_WIDTH)
            for line, text in enumerate(captions[row_index][column]):
                draw.text((x, y + _SIDE + 2 + line * (_FONT_SIZE + 3)), text, "black", font)
    return sheet


def _lines(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """The text as one line, or if it is too wide a path on two lines: its folder, then the file name.

    The folder is kept since files in different folders often have the same names.
    """
    folder, slash, name = text.rpartition("/")
    if font.getlength(text) <= _SIDE or not folder:
        return [_truncated(text, font)]
    return [_truncated(folder + slash, font), _truncated(name, font)]


def _truncated(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The end of a text that fits, since the ends of names differ more than their beginnings."""
    if font.getlength(text) <= _SIDE:
        return text
    while len(text) > 1 and font.getlength("..." + text) > _SIDE:
        text = text[1:]
    return "..." + text


def _page(title: str, rows: Sequence[Sequence[Cell]]) -> str:
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_PAGE)
    return template.render(
        title=title, rows=rows, png=_png, side=_SIDE, gap=_GAP, font_size=_FONT_SIZE, frame_width=_FRAME_WIDTH
    )


def _png(image: Image.Image) -> str:
    """The thumbnail as a base64-encoded PNG."""
    data = io.BytesIO()
    thumbnail(image, _SIDE).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()
