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
from playwright.sync_api import sync_playwright
from sklearn.datasets import load_sample_images

from benchmarks.report import run, write_table
from simsiam_eval.features.writer import write_features
from simsiam_eval.sources.opening import open_source
from tasks.report.report import report
from tasks.report.settings import ReportSettings

CLASSES = 34


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000], help="Sizes of the test set.")
    parser.add_argument("--map", default="umap", choices=("umap", "pca"))
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for count in args.images:
            folder = Path(name) / str(count)
            features = make(folder, count)
            started = time.perf_counter()
            settings = ReportSettings(results=(features,), map=args.map, out=folder / "page.html", device="cpu")
            made = report(settings)
            seconds = time.perf_counter() - started
            usable, search = in_browser(folder / "page.html")
            size = f"{made.metrics['bytes'] / 1e6:.1f}"
            rows.append(
                (
                    f"{count:,}",
                    f"{made.metrics['thumbnails']:,}",
                    size,
                    f"{seconds:.0f}",
                    f"{usable:.2f}",
                    f"{search:.2f}",
                )
            )
            shutil.rmtree(folder)
    write_table(
        "report_page",
        "Size of report's page, and when a browser can use it",
        ("images", "thumbnails", "MB", "s to write it", "s until it is usable", "s to find and color a class"),
        rows,
        [
            "Usable: from opening the file until its script has run and the map, scrolled to at once, is drawn. Chromium "
            "draws WebGL on the CPU here, without a GPU.",
            f"Made features (128 numbers, {CLASSES} classes), map by {args.map}; images are cut from scikit-learn's "
            "photographs.",
        ],
    )


def make(folder: Path, count: int) -> Path:
    """A folder of images by class, and their feature file."""
    rng = np.random.default_rng(0)
    photos = load_sample_images().images
    labels = np.sort(rng.integers(0, CLASSES, count))
    for number, label in enumerate(labels.tolist()):
        path = folder / "images" / f"class{label:02d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo = photos[number % 2]
        top, left = rng.integers(0, photo.shape[0] - 128), rng.integers(0, photo.shape[1] - 128)
        Image.fromarray(photo[top : top + 128, left : left + 128]).save(path, quality=85)
    source = open_source(f"folder:{folder / 'images'}")
    centers = rng.normal(size=(CLASSES, 128))
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


def in_browser(page: Path) -> tuple[float, float]:
    """Seconds until the map is drawn, and for a search, the median of three."""
    arguments = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    usable, search = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        for _ in range(3):
            shown = browser.new_page(viewport={"width": 1280, "height": 900})
            shown.set_default_timeout(300_000)
            started = time.perf_counter()
            shown.goto(page.resolve().as_uri())
            shown.wait_for_function("window.reportReady")
            shown.evaluate("document.querySelector('#map').scrollIntoView()")
            shown.wait_for_function("document.querySelector('#map-chart')._fullLayout")
            usable.append(time.perf_counter() - started)
            started = time.perf_counter()
            shown.fill("#map-search", "class07")
            shown.wait_for_selector("#map-list h3")
            search.append(time.perf_counter() - started)
            shown.close()
        browser.close()
    return float(np.median(usable)), float(np.median(search))


if __name__ == "__main__":
    run(main)
