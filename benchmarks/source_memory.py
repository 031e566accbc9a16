"""Cost of opening an image source: time, peak memory, and the memory that a worker process copies.

Each source is opened in a separate process; the images are empty files or do not exist. `worker` is the memory that a
forked process copies (private dirty pages) by reading every row's id, path and label once, as decoding workers do
during an epoch. With `--before REF`, that commit of this repository is measured as well, alternating. Tar shards are
opened twice: first by reading their headers, then from the cached index.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from report import write_table

ROOT = Path(__file__).parent.parent
SOURCES = [
    *((kind, rows) for kind in ("manifest", "list") for rows in (10_000, 1_000_000, 10_000_000)),
    *((kind, rows) for kind in ("folder", "tar") for rows in (10_000, 100_000)),
]
BEFORE_MAX_ROWS = 1_000_000  # rows; older versions need too much memory for ten million
CHILD = """
import gc, json, os, resource, sys, time

def private():
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

try:
    from simsiam_eval.sources.opening import open_source
except ImportError:  # an older commit
    from simsiam_eval.sources import open_source
base = peak()
started = time.perf_counter()
source = open_source(sys.argv[1])
seconds = time.perf_counter() - started
result = {"seconds": seconds, "peak": peak() - base}
assert len(source) == int(sys.argv[2])
gc.collect()
reading, writing = os.pipe()
if not os.fork():
    before = private()
    paths = getattr(source, "paths", source.labels)
    for row in range(len(source)):
        source.id(row), paths[row], source.labels[row]
    os.write(writing, json.dumps(private() - before).encode())
    os._exit(0)
os.close(writing)
result["worker"] = json.loads(os.read(reading, 100))
print(json.dumps(result))
"""


def measure(code: Path, source: Path, rows: int, cache: Path) -> dict[str, float] | None:
    environment = {**os.environ, "PYTHONPATH": str(code), "SIMSIAM_EVAL_CACHE": str(cache)}
    process = subprocess.run(
        [sys.executable, "-c", CHILD, str(source), str(rows)], env=environment, capture_output=True, text=True, cwd=code
    )
    if process.returncode:
        if "DataError" in process.stderr:  # this version does not support the source
            return None
        raise SystemExit(process.stderr)
    return json.loads(process.stdout)


def names(rows: int) -> Iterator[tuple[str, str]]:
    """Yield (path, class name): paths of 45 characters in 1,000 classes."""
    for row in range(rows):
        label = f"n{row * 1000 // rows:08d}"
        yield f"train/{label}/photograph_{row:012d}.jpg", label


def write_source(folder: Path, kind: str, rows: int) -> Path:
    """Write a source of `rows` images; of a list or table, only the first image file exists."""
    folder.mkdir()
    if kind == "folder":
        for name, _ in names(rows):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return folder / "train"
    if kind == "tar":
        for start in range(0, rows, 10_000):
            with tarfile.open(folder / f"train-{start // 10_000:04d}.tar", "w") as shard:
                for row in range(start, min(start + 10_000, rows)):
                    for ending, content in (("jpg", b""), ("cls", str(row % 1000).encode())):
                        member = tarfile.TarInfo(f"{row:09d}.{ending}")
                        member.size = len(content)
                        shard.addfile(member, io.BytesIO(content))
        return folder
    file = folder / ("table.csv" if kind == "manifest" else "list.txt")
    with file.open("w") as text:
        if kind == "manifest":
            text.write("path,label\n")
        text.writelines(f"{name}{',' if kind == 'manifest' else chr(9)}{label}\n" for name, label in names(rows))
    first = folder / next(names(rows))[0]
    first.parent.mkdir(parents=True)
    first.touch()
    return file


def unpack_commit(reference: str, folder: Path) -> Path:
    archive = subprocess.run(["git", "archive", reference], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        opened.extractall(folder, filter="data")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", help="Commit to compare with.")
    parser.add_argument(
        "--most", type=int, default=10_000_000, help="Maximum number of rows; lower it for a quick check."
    )
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        codes = {"now": ROOT}
        if args.before:
            codes = {args.before: unpack_commit(args.before, Path(temporary) / "before"), **codes}
        for kind, count in SOURCES:
            if count > args.most:
                continue
            folder = Path(temporary) / f"{kind}-{count}"
            source = write_source(folder, kind, count)
            runs = ["now", "now"] if kind == "tar" else list(codes)
            for turn, name in enumerate(runs):
                if name != "now" and count > BEFORE_MAX_ROWS:
                    continue
                result = measure(codes[name], source, count, Path(temporary) / "cache")
                if result is None:
                    continue
                label = kind + (", again" if kind == "tar" and turn else "")
                memory = [f"{result[key]:.0f} ({result[key] * 2**20 / count:.0f})" for key in ("peak", "worker")]
                rows.append([label, f"{count:,}", name, f"{result['seconds']:.2f}", *memory])
                print(rows[-1], flush=True)
            shutil.rmtree(folder)
    write_table(
        "source_memory",
        "Time and memory of opening an image source",
        (
            "source",
            "rows",
            "version",
            "open, s",
            "peak, MiB (bytes per row)",
            "copied by a worker, MiB (bytes per row)",
        ),
        rows,
        [
            "Each row is one run. Paths are 45 characters long, in 1,000 classes; tar shards have 10,000 samples of two "
            "members. The peak is the increase over a process that has imported the package."
        ],
    )


if __name__ == "__main__":
    main()
