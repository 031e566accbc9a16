"""Whole `knn` commands on feature files, by this checkout and by another one: CPU seconds, in turn.

Processes of others share the machine's cores but not a process's CPU time, which is why that is what is compared.

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
HERE = Path(__file__).parent.parent


def write_sets(folder: Path) -> None:
    """Non-negative features around class centers, as pooled features are, in train.h5 and test.h5."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((CLASSES, WIDTH), dtype=np.float32)
    for name, rows in (("train", BANK), ("test", QUERIES)):
        labels = rng.integers(0, CLASSES, rows)
        features = np.maximum(rng.standard_normal((rows, WIDTH), dtype=np.float32) * 4 + centers[labels], 0)
        source = {"spec": name, "fingerprint": name, "class_names": None}
        ids = [f"{name} {row}" for row in range(rows)]
        write_features(folder / f"{name}.h5", features, labels, ids, encoder={"arch": "made"}, source=source)


def cpu_seconds_and_top1(checkout: Path, folder: Path, k: int) -> tuple[float, float]:
    """Of one whole command, from the start of Python to the record."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "cli.py", "knn", "--train", folder / "train.h5", "--test", folder / "test.h5"]
    done = subprocess.run(
        [*command, "-k", str(k), "--json"],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, json.loads(done.stdout)["metrics"]["top1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="another checkout of this repository")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    checkouts = {"before": options.before.resolve(), "after": HERE}
    seconds: dict[tuple[int, str], list[float]] = {}
    accuracy: dict[tuple[int, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_sets(Path(folder))
        for _ in range(options.repetitions):
            for k in KS:
                for name, checkout in checkouts.items():
                    took, accuracy[k, name] = cpu_seconds_and_top1(checkout, Path(folder), k)
                    seconds.setdefault((k, name), []).append(took)
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
            f"Medians of {options.repetitions} runs in turn, from the start of Python to the record. before: oneDNN's "
            "products and FAISS's heaps (commit f5fa780); after: torch.mm, and torch.topk of what exceeds the k-th best."
        ],
    )


if __name__ == "__main__":
    main()
