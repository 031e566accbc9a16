import re

import pytest
from PIL import Image, ImageDraw

from simsiam_eval.errors import DataError
from simsiam_eval.plots.contact_sheet import Cell, write_sheet

RED, BLUE = Image.new("RGB", (20, 10), "red"), Image.new("RGB", (300, 300), "blue")
ROWS = [[Cell(RED, ("query", "<a>.png"), "#00ff00"), Cell(BLUE, ("0.9", "b" * 90))], [Cell(None, ("gone",))]]


def test_png_shows_images_frames_and_captions(tmp_path):
    write_sheet(tmp_path / "s.png", "title", ROWS)
    with Image.open(tmp_path / "s.png") as sheet:
        colors = {color for _, color in sheet.convert("RGB").getcolors(1 << 20)}
    assert {(255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 255, 255), (0, 0, 0)} <= colors


def test_page_is_self_contained_and_escapes_names(tmp_path):
    write_sheet(tmp_path / "s.html", "a < b", ROWS)
    page = (tmp_path / "s.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "&lt;a&gt;.png" in page
    assert "a &lt; b" in page
    assert not re.search(r'(src|href)="(?!data:)', page)


@pytest.fixture
def drawn_texts(monkeypatch):
    """The texts on a PNG sheet."""
    texts, draw = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, position, text, *args, **kwargs: texts.append(text) or draw(self, position, text, *args, **kwargs),
    )
    return texts


def test_long_name_keeps_its_folder(tmp_path, drawn_texts):
    write_sheet(tmp_path / "s.png", "title", [[Cell(RED, ("1.0", "ewer/image_0040.jpg")), Cell(RED, ("a/b.png",))]])
    assert drawn_texts == ["title", "1.0", "ewer/", "image_0040.jpg", "a/b.png"]


def test_rows_of_a_page_are_framed(tmp_path):
    write_sheet(tmp_path / "s.html", "title", ROWS)
    page = (tmp_path / "s.html").read_text()
    assert page.count("<div>") == len(ROWS)
    assert re.search(r"div \{[^}]*flex-wrap: wrap; border: 1px solid", page)  # a wrapped row is still one group


def test_a_sheet_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write_sheet(tmp_path / "file" / "s.png", "title", ROWS)
