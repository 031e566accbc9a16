"""CPU seconds of whole `knn` commands on feature files: this checkout against another one, alternating.

CPU time is compared because, unlike wall-clock time, it hardly depends on other processes on the machine.

    git worktree add ../before COMMIT
    python benchmarks/exact_search.py --before ../before
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from report import write_table

from simsiam_eval.features.writer import write_features

CLASSES, BANK, QUERIES, WIDTH = 100, 50_000, 10_000, 512
KS = (20, 200)
ROOT = Path(__file__).parent.parent


def write_sets(folder: Path) -> None:
    """Non-negative features around class centers, as pooled features are, in train.h5 and test.h5."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((CLASSES, WIDTH), dtype=np.float32)
    for name, rows in (("train", BANK), ("test", QUERIES)):
        labels = rng.integers(0, CLASSES, rows)
        features = np.maximum(rng.standard_normal((rows, WIDTH), dtype=np.float32) * 4 + centers[labels], 0)
        source = {"spec": name, "fingerprint": name, "class_names": None}
        ids = [f"{name} {row}" for row in range(rows)]
        write_features(folder / f"{name}.h5", features, labels, ids, encoder={"arch": "synthetic"}, source=source)


def cpu_seconds_and_top1(checkout: Path, folder: Path, k: int) -> tuple[float, float]:
    """CPU seconds of one whole command, including Python's startup, and the top-1 accuracy it reports."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "cli.py", "knn", "--train", folder / "train.h5", "--test", folder / "test.h5"]
    process = subprocess.run(
        [*command, "-k", str(k), "--json"],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, json.loads(process.stdout)["metrics"]["top1"]


def commit(checkout: Path) -> str:
    """The short hash of the commit that is checked out."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="Another checkout of this repository.")
    parser.add_argument("--repetitions", type=int, default=3, help="Number of runs per checkout and k.")
    args = parser.parse_args()
    checkouts = {"before": args.before.resolve(), "after": ROOT}
    commits = {name: commit(checkout) for name, checkout in checkouts.items()}
    seconds: dict[tuple[int, str], list[float]] = {}
    accuracy: dict[tuple[int, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_sets(Path(folder))
        for _ in range(args.repetitions):
            for k in KS:
                for name, checkout in checkouts.items():
                    cpu_seconds, accuracy[k, name] = cpu_seconds_and_top1(checkout, Path(folder), k)
                    seconds.setdefault((k, name), []).append(cpu_seconds)
    rows = []
    for k in KS:
        medians = {name: statistics.median(seconds[k, name]) for name in checkouts}
        for name in checkouts:
            ratio = medians[name] / medians["before"]
            rows.append([str(k), name, f"{medians[name]:.2f}", f"{ratio:.2f}", f"{100 * accuracy[k, name]:.2f}"])
    write_table(
        "exact_search",
        f"Exact search: the whole command knn, {BANK:,} x {WIDTH} training features, {QUERIES:,} test images",
        ("k", "checkout", "CPU seconds", "ratio", "top-1 %"),
        rows,
        [
            f"Medians of {args.repetitions} alternating runs of the whole command, including Python's startup. "
            f"before: commit {commits['before']}; after: commit {commits['after']}."
        ],
    )


if __name__ == "__main__":
    main()
