"""Memory and write cost of feature files from ten thousand to ten million rows.

Synthetic rows of 16 features are generated on demand and written with FeatureWriter, in parts and as a whole; then
`merge`, `verify` and `export` read the files. Each step runs in a separate process. Anonymous memory (RssAnon of
/proc/self/status, read every 5 ms) is what the program needs; VmHWM also counts file pages, which the system can
reclaim at any time.

    python benchmarks/feature_file_memory.py memory      # needs about 4 GB of disk space
    python benchmarks/feature_file_memory.py writing
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from report import write_table

from simsiam_eval.features.writer import FeatureWriter

WIDTH, BLOCK = 16, 256
ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
RATES = (80, 1_000, 5_000)


class SyntheticSource:
    """Rows `first` to `last` (exclusive) of a synthetic source."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def __len__(self) -> int:
        return self.last - self.first

    def ids_of(self, rows: range) -> list[str]:
        return [f"image/{self.first + row:09d}" for row in rows]

    @property
    def labels(self) -> SyntheticSource:
        return self

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.arange(self.first + rows.start, self.first + rows.stop) % 1000


def write(path: Path, first: int, last: int, total: int, unreadable_every: int = 1000) -> None:
    """Write rows `first` to `last` (exclusive) of a source of `total` rows."""
    source = {"spec": "synthetic", "fingerprint": "0", "class_names": None}
    if (first, last) != (0, total):
        source |= {"rows": [first, last], "rows_of": total}
    attributes = {"encoder": {"arch": "none"}, "preprocessing": {}, "source": source, "precision": "float32"}
    rows = SyntheticSource(first, last)
    with FeatureWriter(path, rows, {"features": (WIDTH,)}, "float32", attributes) as writer:
        for start in range(0, len(rows), BLOCK):
            block = range(start, min(start + BLOCK, len(rows)))
            unreadable = {
                row: (rows.ids_of(range(row, row + 1))[0], "synthetic")
                for row in block
                if (first + row) % unreadable_every == unreadable_every - 1
            }
            values = np.random.default_rng(first + start).random((len(block), WIDTH), dtype=np.float32)
            writer.write(start, {"features": values}, unreadable)
        writer.finish()


def status(key: str) -> int:
    """A value of /proc/self/status in kB."""
    return next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)
    )


def step(name: str, folder: Path, rows: int) -> None:
    """Run one step in this process; print its peak memory, seconds and faults."""
    from tasks.export.export import ExportSettings, export
    from tasks.merge import MergeSettings, merge
    from tasks.verify import VerifySettings, verify

    peak, done, half = [0], threading.Event(), rows // 2 // BLOCK * BLOCK
    steps = {
        "write, all readable": lambda: write(folder / "readable.h5", 0, rows, rows, rows + 1),
        "write, part 1": lambda: write(folder / "1.h5", 0, half, rows),
        "write, part 2": lambda: write(folder / "2.h5", half, rows, rows),
        "merge": lambda: merge(MergeSettings(parts=(folder / "2.h5", folder / "1.h5"), out=folder / "all.h5")),
        "write": lambda: write(folder / "whole.h5", 0, rows, rows),
        "verify": lambda: verify(VerifySettings(file=folder / "whole.h5")),
        "export --to npy": lambda: export(ExportSettings(file=folder / "whole.h5", to="npy", out=folder / "npy")),
        "export --to parquet": lambda: export(
            ExportSettings(file=folder / "whole.h5", to="parquet", out=folder / "parquet")
        ),
    }

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    result = steps[name]()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    faults = list(result.faults) if result else []
    print(json.dumps({"anon": peak[0], "hwm": status("VmHWM"), "seconds": seconds, "faults": faults}))


def measure_step(name: str, folder: Path, rows: int) -> dict:
    command = [sys.executable, __file__, "memory", "--step", name, "--folder", str(folder), "--rows", str(rows)]
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(process.stdout.splitlines()[-1])


def memory(sizes: list[int]) -> None:
    """Measure every step for every number of rows."""
    names = (
        "write, all readable",
        "write, part 1",
        "write, part 2",
        "merge",
        "write",
        "verify",
        "export --to npy",
        "export --to parquet",
    )
    results: dict[str, list[dict]] = {name: [] for name in names}
    megabytes, identical = [], []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for name in names:
                results[name].append(measure_step(name, folder, rows))
                if name == "export --to npy":
                    shutil.rmtree(folder / "npy")
                if name == "write, all readable":
                    (folder / "readable.h5").unlink()
            megabytes.append(f"{(folder / 'whole.h5').stat().st_size / 1e6:.0f} MB")
            identical.append(filecmp.cmp(folder / "all.h5", folder / "whole.h5", shallow=False))
    table = [
        [
            name,
            *(
                f"{result['anon'] / 1024:.0f} / {result['hwm'] / 1024:.0f} MiB, {result['seconds']:.1f} s"
                for result in results[name]
            ),
        ]
        for name in names
    ]
    columns = ["step", *(f"{rows:,} rows ({size})" for rows, size in zip(sizes, megabytes, strict=True))]
    notes = [
        f"Peak anonymous memory / VmHWM of the step's process, and its time. {WIDTH} float32 features per row, written in "
        f"blocks of {BLOCK}. In all steps but the first, one row in a thousand is unreadable; the writer keeps their "
        f"reasons in memory. `verify` also holds a million hashes of ids, Parquet one row group. `verify` found "
        f"{sum(len(result['faults']) for result in results['verify'])} faults. The merged file was byte-identical to the "
        f"file written as a whole in {sum(identical)} of {len(identical)} cases."
    ]
    write_table("feature_file_memory", "Memory of feature files", columns, table, notes)


def seconds_of(write_file: Callable[[Path], None]) -> float:
    with tempfile.TemporaryDirectory() as temporary:
        started = time.perf_counter()
        write_file(Path(temporary) / "file")
        return time.perf_counter() - started


def writing() -> None:
    """Time to write ResNet-50 features, per row, compared with a plain write of the same bytes."""
    table, width, rows = [], 2048, 40_000
    attributes = {"encoder": {}, "preprocessing": {}, "source": {}, "precision": "float32"}
    for block in (16, 256):
        values = np.random.default_rng(0).random((block, width), dtype=np.float32)

        def ours(path: Path, block: int = block, values: np.ndarray = values) -> None:
            with FeatureWriter(path, SyntheticSource(0, rows), {"features": (width,)}, "float32", attributes) as writer:
                for start in range(0, rows, block):
                    writer.write(start, {"features": values[: rows - start]})
                writer.finish()

        def plain(path: Path, block: int = block, values: np.ndarray = values) -> None:
            with open(path, "wb") as file:
                for start in range(0, rows, block):
                    file.write(values[: rows - start].tobytes())
                file.flush()
                os.fsync(file.fileno())

        times = [(seconds_of(ours), seconds_of(plain)) for _ in range(5)]
        ours_row, plain_row = (statistics.median(column) / rows for column in zip(*times, strict=True))
        shares = [f"{100 * ours_row * rate:.2f} %" for rate in RATES]
        table.append(
            [
                str(block),
                f"{1e6 * ours_row:.0f} us",
                f"{1e6 * plain_row:.0f} us",
                f"{ours_row / plain_row:.2f}",
                *shares,
            ]
        )
    columns = (
        "rows per block",
        "writer, per row",
        "plain write + fsync",
        "ratio",
        *(f"at {rate:,} images/s" for rate in RATES),
    )
    notes = [
        f"{rows:,} rows of {width} float32 features ({rows * width * 4 / 1e6:.0f} MB), including creating, syncing and "
        "finishing the file; medians of five. The last columns are the share of an extraction at that rate if writing "
        "overlapped with nothing."
    ]
    write_table("feature_file_writing", "Cost of writing feature files", columns, table, notes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("memory", "writing"), help="What to measure.")
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS), help="Numbers of rows.")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step(args.step, args.folder, args.rows[0])
    elif args.what == "memory":
        memory(args.rows)
    else:
        writing()
