"""Cost of opening and checking COCO annotations: time, memory, and the memory that a worker process copies.

The annotation file is made here: as many images, annotations and polygon corners as in COCO's train2017, of empty image
files. Each version opens it in a separate process. `worker` is the memory that a forked process copies (private dirty
pages) by reading the annotations of every image once, as data-loading workers do during an epoch. With `--before REF`, that
commit of this repository is measured as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from report import write_table
from source_memory import unpack_commit

ROOT = Path(__file__).parent.parent
IMAGES, ANNOTATIONS, CORNERS = 118_287, 860_001, 23  # of train2017; the corners are the mean of its polygons
CHILD = """
import gc, json, os, resource, sys, time

def memory(file, key):
    with open(file) as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024

def private():
    return memory("/proc/self/smaps_rollup", "Private_Dirty")

def kept():
    return memory("/proc/self/status", "VmRSS")

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

from tasks.detection.data.checks import check_training_set
from tasks.detection.data.opening import open_detection_dataset

masks = sys.argv[2] == "masks"
base, base_kept = peak(), kept()
started = time.process_time()
try:
    data = open_detection_dataset(sys.argv[1], "train", (), masks)
except TypeError:  # an older commit
    data = open_detection_dataset(sys.argv[1], "train")
data, report = check_training_set(data, masks)
result = {"seconds": time.process_time() - started, "peak": peak() - base}
gc.collect()
result["kept"] = kept() - base_kept
reading, writing = os.pipe()
if not os.fork():
    before = private()
    for image in data.images:
        for obj in image.annotations:
            tuple(obj.box), [list(polygon) for polygon in obj.segmentation or ()]  # as tensors are made of them
    os.write(writing, json.dumps(private() - before).encode())
    os._exit(0)
os.close(writing)
result["worker"] = json.loads(os.read(reading, 100))
print(json.dumps(result))
"""


def write_coco(folder: Path, images: int, annotations: int) -> Path:
    """Write an annotation file with one polygon per annotation, and empty image files."""
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir()
    (folder / "train").mkdir()
    for number in range(images):
        (folder / "train" / f"{number:012d}.jpg").touch()
    file = folder / "annotations" / "instances_train.json"
    with file.open("w") as text:
        entries = (
            {"id": number, "file_name": f"{number:012d}.jpg", "width": 640, "height": 480, "license": 3,
             "coco_url": f"http://images.cocodataset.org/train2017/{number:012d}.jpg"} for number in range(images)
        )  # fmt: skip
        text.write('{"info": {}, "images": [' + ", ".join(map(json.dumps, entries)) + '],\n"annotations": [')
        for number in range(annotations):
            corners = rng.poisson(CORNERS - 3) + 3
            angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
            radius, (x, y) = rng.uniform(5, 100), rng.uniform(100, 380, 2)
            polygon = (np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)).ravel().round(2)
            box = [round(value, 2) for value in (x - radius, y - radius, 2 * radius, 2 * radius)]
            entry = {
                "segmentation": [polygon.tolist()], "area": round(3.1 * radius**2, 4), "iscrowd": 0,
                "image_id": int(rng.integers(images)), "bbox": box, "category_id": int(rng.integers(80)), "id": number,
            }  # fmt: skip
            text.write((", " if number else "") + json.dumps(entry))
        categories = [{"id": number, "name": f"class {number}", "supercategory": ""} for number in range(80)]
        text.write('],\n"categories": ' + json.dumps(categories) + "}")
    return file


def measure(code: Path, folder: Path, masks: bool) -> dict[str, float]:
    command = [sys.executable, "-c", CHILD, f"coco:{folder}#train", "masks" if masks else "boxes"]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=code)
    if process.returncode:
        raise SystemExit(process.stderr)
    return json.loads(process.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", help="Commit to compare with.")
    parser.add_argument("--share", type=float, default=1.0, help="Share of COCO's size; lower it for a quick check.")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "coco"
        folder.mkdir()
        images, annotations = int(args.share * IMAGES), int(args.share * ANNOTATIONS)
        size = write_coco(folder, images, annotations).stat().st_size
        codes = {"now": ROOT}
        if args.before:
            codes = {args.before: unpack_commit(args.before, Path(temporary) / "before"), **codes}
        for masks in (True, False):
            for name, code in codes.items():
                result = measure(code, folder, masks)
                memory = [f"{result[key]:,.0f}" for key in ("peak", "kept", "worker")]
                rows.append(["yes" if masks else "no", name, f"{result['seconds']:.1f}", *memory])
                print(rows[-1], flush=True)
    write_table(
        "detection_memory",
        f"Time and memory of {images:,} images with {annotations:,} COCO annotations ({size / 2**20:.0f} MiB of JSON)",
        ("masks", "version", "open and check, CPU s", "peak, MiB", "kept, MiB", "copied by a worker, MiB"),
        rows,
        ["Each row is one run. Peak and kept are increases over a process that has imported the package."],
    )


if __name__ == "__main__":
    main()
