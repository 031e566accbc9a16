import re

import pytest
from PIL import Image, ImageDraw

from simsiam_eval.errors import DataError
from simsiam_eval.plots.contact_sheet import Cell, write_chart, write_sheet

RED, BLUE = Image.new("RGB", (20, 10), "red"), Image.new("RGB", (300, 300), "blue")
ROWS = [[Cell(RED, ("query", "<a>.png"), "#00ff00"), Cell(BLUE, ("0.9", "b" * 90))], [Cell(None, ("gone",))]]


def test_a_sheet_shows_images_frames_and_captions(tmp_path):
    write_sheet(tmp_path / "s.png", "title", ROWS)
    with Image.open(tmp_path / "s.png") as sheet:
        colors = {color for _, color in sheet.convert("RGB").getcolors(1 << 20)}
    assert {(255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 255, 255), (0, 0, 0)} <= colors


def test_a_page_needs_no_other_file_and_escapes_names(tmp_path):
    write_sheet(tmp_path / "s.html", "a < b", ROWS)
    page = (tmp_path / "s.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "&lt;a&gt;.png" in page
    assert "a &lt; b" in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_chart_has_a_color_for_each_line(tmp_path):
    write_chart(tmp_path / "c.png", "t", "x", "y", {"one": [(0.5, 100), (0.9, 10)], "two": [(0.7, 1000)]})
    with Image.open(tmp_path / "c.png") as chart:
        colors = {color for _, color in chart.convert("RGB").getcolors(1 << 20)}
    assert {(0x1F, 0x6F, 0xB4), (0xD9, 0x5F, 0x02)} <= colors
    write_chart(tmp_path / "c.png", "t", "x", "y", {"one point": [(1.0, 3.0)]})


@pytest.fixture
def drawn(monkeypatch):
    """The texts that are drawn."""
    texts, draw = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda own, at, text, *more, **named: texts.append(text) or draw(own, at, text, *more, **named),
    )
    return texts


def test_a_long_name_keeps_its_folder(tmp_path, drawn):
    write_sheet(tmp_path / "s.png", "title", [[Cell(RED, ("1.0", "ewer/image_0040.jpg")), Cell(RED, ("a/b.png",))]])
    assert drawn == ["title", "1.0", "ewer/", "image_0040.jpg", "a/b.png"]


def test_a_row_of_a_page_is_framed(tmp_path):
    write_sheet(tmp_path / "s.html", "title", ROWS)
    page = (tmp_path / "s.html").read_text()
    assert page.count("<div>") == len(ROWS)
    assert re.search(r"div\{[^}]*flex-wrap:wrap;border:1px solid", page)  # where it wraps, it is still one group


def test_ticks_of_a_chart_are_round(tmp_path, drawn):
    write_chart(tmp_path / "c.png", "t", "x", "y", {"one": [(0.589, 100), (0.99, 10)]})
    assert [text for text in drawn if text.startswith(("0.", "1")) and float(text) <= 1] == [
        "0.5",
        "0.6",
        "0.7",
        "0.8",
        "0.9",
        "1",
    ]


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        write_sheet(tmp_path / "nowhere" / "s.png", "title", ROWS)
