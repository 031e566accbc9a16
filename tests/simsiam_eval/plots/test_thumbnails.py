"""Sprite sheets: places, sizes, and the budget."""

import io

import numpy as np
from PIL import Image

from simsiam_eval.plots.thumbnails import COLUMNS, sprite_sheets


def noise(number):
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (60, 80, 3), dtype=np.uint8))


def test_each_image_has_its_place():
    colors = [(number * 40 % 256, number * 90 % 256, 128) for number in range(40)]
    done = []
    made = sprite_sheets(40, lambda number: Image.new("RGB", (8, 4), colors[number]), 1 << 20, done.append)
    assert sum(done) == made.count == 40
    sheet = Image.open(io.BytesIO(made.sheets[0])).convert("RGB")
    assert sheet.size == (COLUMNS * made.side, 2 * made.side)
    for number, color in enumerate(colors):
        row, column = divmod(number, COLUMNS)
        center = (column * made.side + made.side // 2, row * made.side + made.side // 2)
        assert np.abs(np.subtract(sheet.getpixel(center), color)).max() < 40


def test_sides_shrink_until_the_images_fit():
    sizes = {}
    for budget in (2_000_000, 200_000):
        made = sprite_sheets(200, noise, budget, lambda steps: None)
        sizes[budget] = made.side
        assert sum(map(len, made.sheets)) < 1.3 * budget
    assert sizes[200_000] < sizes[2_000_000]


def test_unreadable_images_and_none_at_all():
    made = sprite_sheets(3, lambda number: None if number == 1 else noise(number), 1 << 20, lambda steps: None)
    assert made.count == 3
    assert sprite_sheets(0, noise, 1 << 20, lambda steps: None).sheets == []
