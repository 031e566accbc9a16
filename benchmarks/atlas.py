"""Memory and time of atlas, and how well a map keeps neighborhoods.

Memory: random rows with labels, searched with an approximate index; each size in a process of its own, and the table is
written after each. Map: digits, of which the map is computed from all or from a sample.

    python benchmarks/atlas.py memory
    python benchmarks/atlas.py map
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from report import run, write_table
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from simsiam_eval.features.writer import FeatureWriter
from simsiam_eval.neighbors.coordinates import coordinates

WIDTH, CLASSES, BLOCK, SAMPLE = 128, 1000, 8192, 2000


class Rows:
    """`count` rows of 1,000 classes."""

    def __init__(self, count: int) -> None:
        self.labels = np.random.default_rng(0).integers(0, CLASSES, count)

    def __len__(self) -> int:
        return len(self.labels)

    def ids_of(self, rows: range) -> list[str]:
        return [f"images/{row:09d}.jpg" for row in rows]


def make(path: Path, count: int) -> None:
    """Write random rows around a center of their class, as float16."""
    rng, rows = np.random.default_rng(0), Rows(count)
    centers = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    source = {"spec": None, "fingerprint": None, "class_names": None}
    attributes = {"encoder": {"arch": "made"}, "preprocessing": {}, "source": source, "precision": "float32"}
    with FeatureWriter(path, rows, {"features": (WIDTH,)}, "float16", attributes) as writer:
        for start in range(0, count, BLOCK):
            labels = rows.labels[start : start + BLOCK]
            values = centers[labels] + rng.normal(size=(len(labels), WIDTH), scale=1.5).astype(np.float32)
            writer.write(start, {"features": values}, {})
        writer.finish()


def status(key: str) -> int:
    """A value of /proc/self/status in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def measure(path: Path, index: str | None, out: Path) -> None:
    """Run atlas in this process; print its peak memory and seconds."""
    from tasks.atlas.atlas import atlas
    from tasks.atlas.settings import AtlasSettings

    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    parameters = None if index is None else "nprobe=1"
    options = {"index": index, "index_parameters": parameters, "map_sample": SAMPLE, "thumbnails": 0, "device": "cpu"}
    made = atlas(AtlasSettings(file=path, out=out, **options))
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    print(json.dumps({"anon": peak[0], "hwm": status("VmHWM"), "seconds": seconds, "metrics": made.metrics}))


def measured(count: int, index: str | None) -> list[str]:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "features.h5", count)
        command = [sys.executable, __file__, "memory", "--step", str(folder / "features.h5"), "--index", index or ""]
        environment = os.environ | {"SIMSIAM_EVAL_CACHE": str(folder / "cache")}
        process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        made = json.loads(process.stdout.splitlines()[-1])
        size = (folder / "features.h5").stat().st_size
    metrics = made["metrics"]
    accuracy = metrics["correct"] / (metrics["correct"] + metrics["wrong"])
    return [
        f"{count:,} ({size / 1e6:.0f} MB)",
        index or "exact",
        f"{metrics['map']['fitted']:,}",
        f"{made['anon'] / 1024:.0f}",
        f"{made['hwm'] / 1024:.0f}",
        f"{made['seconds']:.0f}",
        f"{metrics['bytes'] / 1e6:.0f}",
        f"{100 * accuracy:.1f}",
    ]


def neighborhoods() -> None:
    """How well maps of digits keep neighbors, when they are computed from all rows or from a sample."""
    features, labels = load_digits(return_X_y=True)
    features = features.astype(np.float32)
    lines = []
    for sample in (len(features), 600, 300):
        points = coordinates(features, "umap", sample=sample).points
        kept = trustworthiness(features, points, n_neighbors=10, metric="cosine")
        accuracy = cross_val_score(KNeighborsClassifier(10), points, labels, cv=5).mean()
        lines.append([f"{sample:,}", f"{len(features) - sample:,}", f"{kept:.3f}", f"{100 * accuracy:.1f}"])
    write_table(
        "atlas_map",
        "Maps of digits that are computed from a sample",
        ("UMAP from", "placed between neighbors", "trustworthiness", "kNN accuracy in the plane, %"),
        lines,
        ["Pixels of 1,797 digits; trustworthiness with 10 neighbors; accuracy of 10 neighbors, 5-fold."],
    )


def memory(sizes: list[int]) -> None:
    """Measure every size."""
    lines = []
    for count in sizes:
        lines.append(measured(count, "IVF1024,SQfp16" if count > 50_000 else None))
        write_table(
            "atlas",
            "Memory and time of atlas",
            (
                "images (feature file)",
                "search",
                "UMAP from",
                "anonymous memory, MiB",
                "VmHWM, MiB",
                "s",
                "table, MB",
                "kNN accuracy, %",
            ),
            lines,
            [
                f"Random rows of {WIDTH} float16 numbers in {CLASSES:,} classes, without thumbnails. Peaks of the process "
                "that runs `atlas`, building the index (nprobe=1) included. VmHWM also counts pages of the mapped feature "
                "file, which the system can reclaim at any time.",
            ],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "map"), help="What to measure.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000])
    parser.add_argument("--step", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--index", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        measure(args.step, args.index or None, args.step.parent / "atlas")
    elif args.what == "memory":
        memory(args.rows)
    else:
        neighborhoods()


if __name__ == "__main__":
    run(main)
