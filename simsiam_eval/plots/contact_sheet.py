"""Pictures that a person looks at, drawn with Pillow: a sheet of images with captions, and a chart of lines."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.plots.charts import round_ticks

_SIDE, _GAP, _TEXT, _FRAME = 112, 8, 13, 3  # pixels
_COLORS = ("#1f6fb4", "#d95f02", "#1b9e77", "#7b3294", "#c51b7d", "#666666", "#a6761d", "#000000")


@dataclass(frozen=True)
class Cell:
    """One image of a sheet: None where it cannot be shown, lines of text below it, and the color of its frame."""

    image: Image.Image | None
    caption: tuple[str, ...] = ()
    frame: str = "#cccccc"


def write_sheet(path: Path, title: str, rows: Sequence[Sequence[Cell]]) -> None:
    """Write rows of images as one PNG, or where the name ends in .html as a page that needs no other file.

    Raises:
        DataError: it cannot be written.
    """
    with atomic_write(path) as file:
        if path.suffix.lower() == ".html":
            file.write(_page(title, rows).encode())
        else:
            _sheet(title, rows).save(file, "PNG")


def _font(size: int = _TEXT) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _thumbnail(image: Image.Image) -> Image.Image:
    """At most _SIDE pixels a side; small images are enlarged without smoothing, so that their pixels show."""
    scale = _SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BILINEAR)


def _sheet(title: str, rows: Sequence[Sequence[Cell]]) -> Image.Image:
    columns = max((len(row) for row in rows), default=1)
    font = _font()
    captions = [[[line for text in cell.caption for line in _lines(text, font)] for cell in row] for row in rows]
    lines = max((len(caption) for row in captions for caption in row), default=0)
    step_x, step_y = _SIDE + _GAP, _SIDE + _GAP + lines * (_TEXT + 3)
    top = 2 * _GAP + _TEXT + 4
    width = max(columns * step_x + _GAP, round(font.getlength(title)) + 2 * _GAP)
    sheet = Image.new("RGB", (width, len(rows) * step_y + top), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, "black", font)
    for down, row in enumerate(rows):
        for right, cell in enumerate(row):
            x, y = _GAP + right * step_x, top + down * step_y
            if cell.image is not None:
                small = _thumbnail(cell.image)
                sheet.paste(small, (x + (_SIDE - small.width) // 2, y + (_SIDE - small.height) // 2))
            draw.rectangle((x, y, x + _SIDE - 1, y + _SIDE - 1), outline=cell.frame, width=_FRAME)
            for number, text in enumerate(captions[down][right]):
                draw.text((x, y + _SIDE + 2 + number * (_TEXT + 3)), text, "black", font)
    return sheet


def _lines(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """A text that is too wide on two lines, the folder above the file's name: many folders number their files alike."""
    folder, slash, name = text.rpartition("/")
    if font.getlength(text) <= _SIDE or not folder:
        return [_shortened(text, font)]
    return [_shortened(folder + slash, font), _shortened(name, font)]


def _shortened(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The end of a name says more than its beginning."""
    if font.getlength(text) <= _SIDE:
        return text
    while len(text) > 1 and font.getlength("..." + text) > _SIDE:
        text = text[1:]
    return "..." + text


def _page(title: str, rows: Sequence[Sequence[Cell]]) -> str:
    style = (
        f"body{{font:{_TEXT}px sans-serif}}div{{display:flex;flex-wrap:wrap;border:1px solid #bbb;margin:"
        f"{_GAP}px 0}}figure{{margin:{_GAP // 2}px;width:{_SIDE}px;"
        f"overflow-wrap:anywhere}}img,i{{box-sizing:border-box;width:{_SIDE}px;height:{_SIDE}px;object-fit:contain;"
        f"display:block;border:{_FRAME}px solid}}"
    )
    parts = [f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{style}</style>"]
    parts.append(f"<h1>{html.escape(title)}</h1>")
    for row in rows:
        figures = []
        for cell in row:
            shown = f'<i style="border-color:{cell.frame}"></i>'
            if cell.image is not None:
                data = io.BytesIO()
                _thumbnail(cell.image).save(data, "PNG")
                encoded = base64.b64encode(data.getvalue()).decode()
                shown = f'<img style="border-color:{cell.frame}" src="data:image/png;base64,{encoded}" alt="">'
            caption = "<br>".join(html.escape(text).replace("/", "/<wbr>") for text in cell.caption)
            figures.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
        parts.append(f"<div>{''.join(figures)}</div>")
    return "\n".join(parts) + "\n"


def write_chart(
    path: Path, title: str, x_name: str, y_name: str, lines: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
    """Write lines of points (x, y) as a PNG; y is logarithmic, so that it must be above 0, and x as it is.

    Raises:
        DataError: it cannot be written.
    """
    wide, high, left, right, top, bottom = 900, 520, 80, 220, 44, 56
    picture = Image.new("RGB", (wide, high), "white")
    draw, font = ImageDraw.Draw(picture), _font()
    points = [point for line in lines.values() for point in line]
    x_most = max(x for x, _ in points)
    x_low, x_high, ticks = round_ticks([min(x_most - 0.02, *(x for x, _ in points)), x_most])
    y_low = math.floor(math.log10(min(y for _, y in points)))
    y_high = max(y_low + 1, math.ceil(math.log10(max(y for _, y in points))))

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_low) / (x_high - x_low), (math.log10(y) - y_low) / (y_high - y_low)
        return left + across * (wide - left - right), high - bottom - up * (high - top - bottom)

    draw.text((left, 12), title, "black", _font(_TEXT + 3))
    for power in range(y_low, y_high + 1):
        _, y = place(x_low, 10.0**power)
        draw.line((left, y, wide - right, y), fill="#dddddd")
        draw.text((left - 8, y), f"{10.0**power:g}", "black", font, anchor="rm")
    for tick in ticks:
        x, _ = place(tick, 10.0**y_low)
        draw.line((x, top, x, high - bottom), fill="#dddddd")
        draw.text((x, high - bottom + 8), f"{tick:g}", "black", font, anchor="mt")
    draw.text(((left + wide - right) / 2, high - 20), x_name, "black", font, anchor="mm")
    draw.text((8, top - 6), y_name, "black", font, anchor="lb")
    for number, (name, line) in enumerate(lines.items()):
        color = _COLORS[number % len(_COLORS)]
        placed = [place(*point) for point in sorted(line)]
        if len(placed) > 1:
            draw.line(placed, fill=color, width=2)
        for x, y in placed:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=color)
        y = top + number * (_TEXT + 7)
        draw.ellipse((wide - right + 14, y, wide - right + 24, y + 10), fill=color)
        draw.text((wide - right + 32, y - 3), name, "black", font)
    with atomic_write(path) as file:
        picture.save(file, "PNG")
