import numpy as np
import pytest
from PIL import Image, ImageDraw

from simsiam_eval.plots.charts import draw_curves


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0], [0.0, 0.0], [1e-9, 5.0, float("nan"), -3.0], list(range(500))])
def test_any_curve_is_drawn_inside_its_panel(tmp_path, values):
    draw_curves(tmp_path / "c.png", {"one": values, "two": values}, "epoch", "Title")
    pixels = np.asarray(Image.open(tmp_path / "c.png")).astype(int)
    blue = np.argwhere((pixels[:, :, 2] - pixels[:, :, 0]) > 60)
    assert len(blue) > 20
    assert blue.min() > 40 and blue[:, 1].max() < pixels.shape[1] - 20


@pytest.mark.parametrize(("epochs", "last"), [(100, "99"), (8, "7"), (1, "0")])
def test_the_last_epoch_is_named(tmp_path, monkeypatch, epochs, last):
    texts, draw = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda own, at, text, *more, **named: texts.append((at, text)) or draw(own, at, text, *more, **named),
    )
    draw_curves(tmp_path / "c.png", {"one": [1.0] * epochs}, "epoch", "Title")
    below = [(x, text) for (x, y), text in texts if text.isdigit() and y > 330]
    assert max(below)[1] == last
    assert len({text for _, text in below}) == len(below)
