"""Size of report's page, and when a browser can use it: python benchmarks/report_page.py

Features are made: clusters in 128 dimensions. Images are cut from scikit-learn's photographs. Needs playwright, and
Chromium as the program `chromium`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from report import run, write_table
from sklearn.datasets import load_sample_images

from simsiam_eval.features.writer import write_features
from simsiam_eval.sources.opening import open_source
from tasks.report.report import report as write_page
from tasks.report.settings import ReportSettings

CLASSES = 34


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000], help="Sizes of the test set.")
    parser.add_argument(
        "--classes", type=int, nargs="*", default=[1000], help="Further pages, of --class-images images."
    )
    parser.add_argument("--class-images", type=int, default=10_000)
    parser.add_argument("--map", default="umap", choices=("umap", "pca"))
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        pages = [(count, CLASSES) for count in args.images] + [(args.class_images, count) for count in args.classes]
        for count, classes in pages:
            folder = Path(name) / f"{count}-{classes}"
            features = make(folder, count, classes)
            started = time.perf_counter()
            settings = ReportSettings(results=(features,), map=args.map, out=folder / "page.html", device="cpu")
            made = write_page(settings)
            seconds = time.perf_counter() - started
            used = in_browser(folder / "page.html")
            size = f"{made.metrics['bytes'] / 1e6:.1f}"
            cells = [f"{count:,}", f"{classes:,}", f"{made.metrics['thumbnails']:,}", size, f"{seconds:.0f}"]
            rows.append([*cells, *(f"{value:.2f}" for value in used)])
            print(rows[-1], flush=True)
            shutil.rmtree(folder)
    write_table(
        "report_page",
        "Size of report's page, and when a browser can use it",
        (
            "images",
            "classes",
            "thumbnails",
            "MB",
            "s to write it",
            "s until usable",
            "s to find a class",
            "s to hover",
            "s to select all by lasso",
        ),
        rows,
        [
            "Usable: from opening the file until its script has run and the map, scrolled to at once, is drawn. Chromium "
            "draws WebGL on the CPU here, without a GPU.",
            "Find: until the images of a class are marked and listed. Hover: from moving the pointer onto a point until its "
            "image is shown. Lasso: around the whole map, from release until the images are listed.",
            f"Made features (128 numbers), map by {args.map}; images are cut from scikit-learn's photographs. The processor "
            "was shared with other work.",
        ],
    )


def make(folder: Path, count: int, classes: int) -> Path:
    """A folder of images by class, and their feature file."""
    rng = np.random.default_rng(0)
    photos = load_sample_images().images
    labels = np.sort(rng.integers(0, classes, count))
    for number, label in enumerate(labels.tolist()):
        path = folder / "images" / f"class{label:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo = photos[number % 2]
        top, left = rng.integers(0, photo.shape[0] - 128), rng.integers(0, photo.shape[1] - 128)
        Image.fromarray(photo[top : top + 128, left : left + 128]).save(path, quality=85)
    source = open_source(f"folder:{folder / 'images'}")
    centers = rng.normal(size=(classes, 128))
    values = centers[source.labels] + 1.2 * rng.normal(size=(count, 128))
    path = folder / "test.h5"
    write_features(
        path,
        values.astype(np.float32),
        source.labels,
        source.ids_of(range(count)),
        encoder={"arch": "made"},
        source={
            "spec": source.spec,
            "fingerprint": source.fingerprint(),
            "class_names": list(source.class_names or ()),
        },
    )
    return path


# Where a point of the map is on the screen: one with a place of its own near the middle.
PLACE = """() => {
  const chart = document.querySelector("#map-chart"), layout = chart._fullLayout, box = chart.getBoundingClientRect();
  const points = chart.data[0], number = Math.floor(points.x.length / 2);
  return [box.left + layout.xaxis._offset + layout.xaxis.d2p(points.x[number]),
          box.top + layout.yaxis._offset + layout.yaxis.d2p(points.y[number])];
}"""


def in_browser(page: Path) -> list[float]:
    """Seconds until the map is drawn, for a search, a hover and a lasso: the median of three."""
    arguments = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        found = [_used(browser.new_page(viewport={"width": 1280, "height": 900}), page) for _ in range(3)]
        browser.close()
    return np.median(found, axis=0).tolist()


def _used(shown: Page, page: Path) -> list[float]:
    shown.set_default_timeout(300_000)
    times = [time.perf_counter()]
    shown.goto(page.resolve().as_uri())
    shown.wait_for_function("window.reportReady")
    shown.evaluate("document.querySelector('#map').scrollIntoView()")
    shown.wait_for_function("document.querySelector('#map-chart')._fullLayout")
    times.append(time.perf_counter())
    shown.fill("#map-search", "class007")
    shown.wait_for_selector("#map-list h3")
    times.append(time.perf_counter())
    x, y = shown.evaluate(PLACE)
    shown.mouse.move(x - 3, y)
    shown.mouse.move(x, y, steps=3)
    shown.wait_for_selector("#tip:not([hidden])")
    times.append(time.perf_counter())
    box = shown.locator("#map-chart").bounding_box()
    corners = [(0.02, 0.08), (0.85, 0.08), (0.85, 0.98), (0.02, 0.98), (0.02, 0.09)]
    for number, (right, down) in enumerate(corners):
        shown.mouse.move(box["x"] + right * box["width"], box["y"] + down * box["height"], steps=1 + 2 * (number > 0))
        if not number:
            shown.mouse.down()
    started = time.perf_counter()
    shown.mouse.up()
    shown.wait_for_function("document.querySelector('#map-list h3').textContent.startsWith('Selected')")
    lasso = time.perf_counter() - started
    shown.close()
    return [*np.diff(times).tolist(), lasso]


if __name__ == "__main__":
    run(main)
