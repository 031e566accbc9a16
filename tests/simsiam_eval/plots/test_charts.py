"""Charts of what is drawn from numbers: read back from the SVG, whose texts are text, and looked at as pixels."""

import re

import matplotlib
import numpy as np
import pytest
from PIL import Image

from simsiam_eval.errors import DataError
from simsiam_eval.plots.charts import draw_confusion, draw_curves, draw_lines


@pytest.fixture(autouse=True)
def _texts_as_text():
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        yield


def texts(path):
    return [text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))]


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0], [0.0, 0.0], [1e-9, 5.0, float("nan"), -3.0], list(range(500))])
def test_every_curve_has_a_panel(tmp_path, values):
    draw_curves(tmp_path / "c.png", {"one": values, "two": values}, "epoch", "Title")
    shown = pixels(tmp_path / "c.png")
    blue = shown[:, :, 2] - shown[:, :, 0] > 60
    assert blue[:, : blue.shape[1] // 2].any() and blue[:, blue.shape[1] // 2 :].any()


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_same_chart_is_the_same_file(tmp_path, ending):
    with matplotlib.rc_context({"svg.hashsalt": "fixed"}):
        for name in ("first", "second"):
            draw_curves(tmp_path / (name + ending), {"loss": [3.0, 2.0]}, "epoch", "Title")
    first, second = ((tmp_path / (name + ending)).read_bytes() for name in ("first", "second"))
    assert first == second
    assert first[:4] == {".png": b"\x89PNG", ".svg": b"<?xm", ".pdf": b"%PDF"}[ending]


def test_epochs_are_whole_numbers(tmp_path):
    draw_curves(tmp_path / "c.svg", {"loss": [1.0, 2.0]}, "epoch", "Title")
    draw_curves(tmp_path / "one.svg", {"loss": [1.0]}, "epoch", "Title")
    assert {"0", "1", "epoch", "loss", "Title"} <= set(texts(tmp_path / "c.svg"))
    assert "0.5" not in texts(tmp_path / "c.svg")
    assert "0" in texts(tmp_path / "one.svg")


def test_lines_have_a_color_and_a_name_each(tmp_path):
    lines = {"HNSW32": [(0.5, 100), (0.9, 10)], "a$b$c": [(0.7, 1000)]}
    draw_lines(tmp_path / "c.svg", "Title", "recall", "queries/s", lines)
    page = (tmp_path / "c.svg").read_text()
    assert "#0072b2" in page and "#d55e00" in page
    assert {"HNSW32", "a$b$c", "recall", "queries/s"} <= set(texts(tmp_path / "c.svg"))


@pytest.mark.parametrize("classes", [2, 34, 120])
def test_a_confusion_matrix_has_a_blue_diagonal_and_red_errors(tmp_path, classes):
    matrix = np.eye(classes, dtype=np.int64) * 9
    matrix[0, 1] = 3
    names = [f"a class of a long name, number {number}" for number in range(classes)]
    draw_confusion(tmp_path / "m.png", matrix, names, "Title")
    shown = pixels(tmp_path / "m.png")
    red, blue = shown[:, :, 0] - shown[:, :, 2], shown[:, :, 2] - shown[:, :, 0]
    assert (blue > 40).sum() > 20 * (classes if classes < 100 else 1)
    assert (red > 40).sum() > 20


def test_rows_of_a_confusion_matrix_are_true_classes(tmp_path):
    draw_confusion(tmp_path / "m.svg", np.array([[5, 2], [0, 7]]), ["$ant$", "bee\n<b>"], "A & B")
    assert {"true class", "predicted class", "$ant$", "5", "2", "7"} <= set(texts(tmp_path / "m.svg"))
    assert "0" not in texts(tmp_path / "m.svg")
    assert "bee\\n&lt;b&gt;" in texts(tmp_path / "m.svg")


def test_a_thousand_classes_are_drawn_without_names(tmp_path):
    matrix = np.eye(1000, dtype=np.int64)
    draw_confusion(tmp_path / "m.png", matrix, [str(number) for number in range(1000)], "Title")
    shown = pixels(tmp_path / "m.png")
    assert min(shown.shape[:2]) > 1000
    assert (shown[:, :, 2] - shown[:, :, 0] > 40).any(axis=1).sum() > 900


def test_a_chart_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        draw_confusion(tmp_path / "file" / "m.png", np.eye(2, dtype=np.int64), ["a", "b"], "")
