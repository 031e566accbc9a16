"""The page in a real browser, opened as a file: hover, click, lasso, search, colors; no error and no request elsewhere."""

import csv

import numpy as np
import pytest

from simsiam_eval.features.writer import write_features
from tests.tasks.report.conftest import CLASSES

# Where a point (trace, number) of a chart is on the screen.
PLACE = """([id, trace, number]) => {
  const chart = document.querySelector(id), layout = chart._fullLayout, box = chart.getBoundingClientRect();
  const points = chart.data[trace];
  return [box.left + layout.xaxis._offset + layout.xaxis.d2p(points.x[number]),
          box.top + layout.yaxis._offset + layout.yaxis.d2p(points.y[number])];
}"""
CELL = """([row, column]) => {
  const chart = document.querySelector("[data-figure=confusion]"), layout = chart._fullLayout;
  const box = chart.getBoundingClientRect();
  return [box.left + layout.xaxis._offset + layout.xaxis.d2p(column),
          box.top + layout.yaxis._offset + layout.yaxis.d2p(row)];
}"""


def into_view(page, selector):
    page.locator(selector).scroll_into_view_if_needed()
    page.wait_for_function(f"document.querySelector({selector!r})._fullLayout")


def point_to(page, place):
    page.mouse.move(place[0] - 3, place[1])
    page.mouse.move(*place, steps=3)


def test_every_number_leads_to_its_images(page, opened, tmp_path):
    shown, faults = opened(page[0] / "page.html")
    into_view(shown, "#map-chart")
    place = shown.evaluate(PLACE, ["#map-chart", 0, 2])
    point_to(shown, place)
    shown.wait_for_selector("#tip:not([hidden])")
    assert CLASSES[0].replace("/", "\u2215") in shown.locator("#tip").inner_text()
    shown.mouse.click(*place)
    shown.wait_for_selector("#details:not([hidden])")
    assert shown.locator("#details .card").count() == 10
    assert "cosine" in shown.locator("#details .card").first.inner_text()
    shown.locator("#details .card").nth(1).click()  # the neighbors of a neighbor
    assert shown.locator("#details .card").count() == 10
    shown.keyboard.press("Escape")
    assert not shown.locator("#details").is_visible()

    into_view(shown, "[data-figure=confusion]")
    counts = shown.evaluate("document.querySelector('[data-figure=confusion]').data[0].customdata[0][0]")
    shown.mouse.click(*shown.evaluate(CELL, [0, 0]))
    shown.wait_for_selector("#cell-list h3")
    assert shown.locator("#cell-list .card").count() == counts > 0
    with shown.expect_download() as download:
        shown.locator("#cell-list button", has_text="Save as CSV").click()
    download.value.save_as(tmp_path / "cell.csv")
    with (tmp_path / "cell.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == counts
    assert all(row["set"] == "test" and float(row["confidence"]) <= 1 for row in rows)
    assert faults == []


def test_lasso_search_and_colors(page, opened):
    shown, faults = opened(page[0] / "page.html")
    into_view(shown, "#map-chart")
    box = shown.locator("#map-chart").bounding_box()
    corners = [(0.05, 0.05), (0.75, 0.05), (0.75, 0.95), (0.05, 0.95), (0.05, 0.06)]
    corners = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    shown.mouse.move(*corners[0])
    shown.mouse.down()
    for corner in corners[1:]:
        shown.mouse.move(*corner, steps=5)
    shown.mouse.up()
    shown.wait_for_selector("#map-list h3")
    assert shown.locator("#map-list h3").inner_text().startswith("Selected: ")
    assert shown.locator("#map-list .card").count() > 10

    shown.locator("#map-search").fill("dog & 'co'")
    shown.wait_for_function("document.querySelector('#map-list h3').textContent.startsWith('Found')")
    assert shown.locator("#map-list h3").inner_text() == "Found \"dog & 'co'\": 12 images"
    shown.locator("#map-list .card").first.focus()
    shown.keyboard.press("Enter")  # by keyboard alone
    assert shown.locator("#details").is_visible()
    shown.keyboard.press("Escape")
    for color, traces in (("right", 2), ("duplicate", 1), ("cluster", 3), ("class", 3)):
        shown.select_option("#map-color", color)
        shown.wait_for_function(f"document.querySelector('#map-chart').data.length >= {traces + 2}")
    shown.select_option("#map-set", "all")
    shown.wait_for_function("document.querySelector('#map-chart').data.slice(0, 3).every((t) => t.x.length === 30)")
    before = shown.evaluate("document.documentElement.dataset.theme")
    shown.locator("#theme").click()
    assert shown.evaluate("document.documentElement.dataset.theme") != before
    assert faults == []


def test_many_classes_share_colors(record, opened, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 100
    source = {"spec": "nowhere", "fingerprint": "x", "class_names": [f"class {n}" for n in range(100)]}
    features, ids = rng.normal(size=(300, 8)).astype(np.float32), [f"{n}.jpg" for n in range(300)]
    write_features(tmp_path / "many.h5", features, labels, ids, encoder={"arch": "made"}, source=source)
    record("report", tmp_path / "many.h5", "--map", "pca", "--out", tmp_path / "page.html")
    shown, faults = opened(tmp_path / "page.html")
    into_view(shown, "#map-chart")
    points = shown.evaluate("document.querySelector('#map-chart').data.map((trace) => trace.x.length)")
    assert len(points) == 42 + 2  # 7 colors x 6 symbols, the found images, the chosen one
    assert sum(points[:42]) == 300
    assert "several classes share one" in shown.locator("#map-shared").inner_text()
    shown.fill("#map-search", "class 77")
    shown.wait_for_selector("#map-list h3")
    assert shown.locator("#map-list h3").inner_text() == 'Found "class 77": 3 images'
    shown.select_option("#map-color", "right")
    shown.wait_for_function("document.querySelector('#map-chart').data.length < 10")
    assert not shown.locator("#map-shared").is_visible()
    assert faults == []


def test_a_point_lights_up_in_the_map_of_the_other_encoder(page, opened):
    shown, faults = opened(page[0] / "page.html")
    into_view(shown, "#pair-first")
    traces = shown.evaluate("document.querySelector('#pair-first').data.map((trace) => trace.x.length)")
    trace = next(number for number, length in enumerate(traces) if length)
    point_to(shown, shown.evaluate(PLACE, ["#pair-first", trace, 0]))
    shown.wait_for_function("document.querySelector('#pair-second').data.at(-1).x[0] !== null")
    gained = shown.locator("[data-change='1']")
    gained.click()
    assert shown.locator("#pair-list .card").count() == int(gained.inner_text().split("(")[1].split()[0])
    assert faults == []


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_as_wide_as_the_screen(page, opened, width):
    shown, faults = opened(page[0] / "page.html", width)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert faults == []


def test_it_prints_on_white_with_all_charts_and_no_controls(page, opened, tmp_path):
    shown, faults = opened(page[0] / "page.html")
    shown.evaluate("document.documentElement.dataset.theme = 'dark'")
    shown.evaluate("window.onbeforeprint = () => { window.printed = document.documentElement.dataset.theme; }")
    assert shown.pdf(path=tmp_path / "page.pdf", format="A4").count(b"/Type /Page") > 2
    assert shown.evaluate("window.printed") == "light"
    assert shown.evaluate("document.documentElement.dataset.theme") == "dark"
    assert shown.evaluate("[...document.querySelectorAll('.chart, .map')].every((chart) => chart._fullLayout)")
    shown.emulate_media(media="print")
    assert not any(shown.locator(name).first.is_visible() for name in ("nav", ".controls", "#theme", "[data-csv]"))
    assert faults == []


def test_tables_are_sorted_by_their_headings(page, opened):
    shown, faults = opened(page[0] / "page.html")
    heading = shown.locator("#confusion th button", has_text="class")
    heading.click()
    names = shown.locator("#confusion tbody tr td:first-child").all_inner_texts()
    heading.click()
    assert shown.locator("#confusion tbody tr td:first-child").all_inner_texts() == names[::-1]
    assert faults == []
