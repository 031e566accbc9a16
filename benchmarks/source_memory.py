"""What a set of images takes before the first is read: time to open it, peak memory, and what a worker process copies.

Each source is opened in a process of its own; the images are empty files, or are not there. `worker` is what a forked
process makes its own (private dirty pages) by reading every row's id, path and label once, as decoding workers do in the
course of an epoch. With `--before REF` the same is measured of that commit of this repository, in turn. Tar shards are
opened twice: the first time their headers are read, then the index in the cache.
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
BEFORE_MOST = 1_000_000  # rows; ten million would not fit in this machine's memory beside other work
CHILD = """
import gc, json, os, resource, sys, time

def private():
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

from simsiam_eval.sources.opening import open_source
base = peak()
started = time.perf_counter()
source = open_source(sys.argv[1])
seconds = time.perf_counter() - started
found = {"seconds": seconds, "peak": peak() - base}
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
found["worker"] = json.loads(os.read(reading, 100))
print(json.dumps(found))
"""


def measured(code: Path, source: Path, rows: int, cache: Path) -> dict[str, float] | None:
    environment = {**os.environ, "PYTHONPATH": str(code), "SIMSIAM_EVAL_CACHE": str(cache)}
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(source), str(rows)], env=environment, capture_output=True, text=True, cwd=code
    )
    if run.returncode:
        if "DataError" in run.stderr:  # this version has no such source
            return None
        raise SystemExit(run.stderr)
    return json.loads(run.stdout)


def names(rows: int) -> Iterator[tuple[str, str]]:
    """(path, class): paths of 45 characters in 1,000 classes."""
    for row in range(rows):
        label = f"n{row * 1000 // rows:08d}"
        yield f"train/{label}/photograph_{row:012d}.jpg", label


def written(place: Path, kind: str, rows: int) -> Path:
    """A source of `rows` images, of which a list or table has the first only."""
    place.mkdir()
    if kind == "folder":
        for name, _ in names(rows):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).touch()
        return place / "train"
    if kind == "tar":
        for start in range(0, rows, 10_000):
            with tarfile.open(place / f"train-{start // 10_000:04d}.tar", "w") as shard:
                for row in range(start, min(start + 10_000, rows)):
                    for ending, content in (("jpg", b""), ("cls", str(row % 1000).encode())):
                        member = tarfile.TarInfo(f"{row:09d}.{ending}")
                        member.size = len(content)
                        shard.addfile(member, io.BytesIO(content))
        return place
    file = place / ("table.csv" if kind == "manifest" else "list.txt")
    with file.open("w") as text:
        if kind == "manifest":
            text.write("path,label\n")
        text.writelines(f"{name}{',' if kind == 'manifest' else chr(9)}{label}\n" for name, label in names(rows))
    first = place / next(names(rows))[0]
    first.parent.mkdir(parents=True)
    first.touch()
    return file


def unpacked(reference: str, folder: Path) -> Path:
    archive = subprocess.run(["git", "archive", reference], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        opened.extractall(folder, filter="data")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", help="a commit to compare with")
    parser.add_argument("--most", type=int, default=10_000_000, help="rows; fewer for a quick look")
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        codes = {"now": ROOT}
        if asked.before:
            codes = {asked.before: unpacked(asked.before, Path(place) / "before"), **codes}
        for kind, number in SOURCES:
            if number > asked.most:
                continue
            folder = Path(place) / f"{kind}-{number}"
            source = written(folder, kind, number)
            runs = ["now", "now"] if kind == "tar" else list(codes)
            for turn, name in enumerate(runs):
                if name != "now" and number > BEFORE_MOST:
                    continue
                found = measured(codes[name], source, number, Path(place) / "cache")
                if found is None:
                    continue
                shown = kind + (", again" if kind == "tar" and turn else "")
                both = [f"{found[what]:.0f} ({found[what] * 2**20 / number:.0f})" for what in ("peak", "worker")]
                rows.append([shown, f"{number:,}", name, f"{found['seconds']:.2f}", *both])
                print(rows[-1], flush=True)
            shutil.rmtree(folder)
    write_table(
        "source_memory",
        "Time and memory of opening a set of images",
        ("source", "rows", "version", "open, s", "peak, MiB (bytes a row)", "copied by a worker, MiB (bytes a row)"),
        rows,
        [
            "Each line is one run. Paths are 45 characters long, in 1,000 classes; tar shards have 10,000 samples of two "
            "members. The peak is what opening added to a process that has imported the package."
        ],
    )


if __name__ == "__main__":
    main()
