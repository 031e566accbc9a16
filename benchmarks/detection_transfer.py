"""Detection on BCCD: AP from random weights and from an encoder, both backends, ResNet-18/50, C4 and FPN, images/s.

python benchmarks/detection_transfer.py --data voc:DIR --out FOLDER --encoder resnet18=CKPT --encoder resnet50=CKPT

Needs a GPU for sizes that mean something; `--iterations 4 --short-side 96` shows that it runs. detectron2's source on
PYTHONPATH adds its rows. A run that is cut off goes on where it was when the command is given again.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch
from report import write_table

from simsiam_eval.commands.record import Result
from simsiam_eval.runtime.progress import say
from tasks.detection.backends.detectron2.backend import Detectron2Backend
from tasks.detection.detect import detect
from tasks.detection.settings import DetectSettings

_COLUMNS = ("encoder", "heads", "start", "backend", "AP50", "AP", "AP75", "images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="voc:DIR")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the runs.")
    parser.add_argument("--encoder", action="append", default=[], metavar="ARCH=CKPT", help="SimSiam encoders.")
    parser.add_argument("--archs", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--heads", nargs="+", default=["fpn", "c4"])
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--short-side", type=int, default=480)
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--precision", default="bf16" if torch.cuda.is_available() else "float32")
    asked = parser.parse_args()
    encoders = dict(one.split("=", 1) for one in asked.encoder)
    missing = Detectron2Backend().unavailable()
    if missing:
        say(missing)
    backends = ["torchvision"] + ([] if missing else ["detectron2"])
    rows = []
    for arch, heads, backend in itertools.product(asked.archs, asked.heads, backends):
        out = asked.out / f"{arch}-{heads}-{backend}"
        result = detect(_settings(asked, out, arch, heads, backend, encoders.get(arch)))
        rows += _rows(result, arch, heads)
    write_table(
        "detection_transfer",
        "Detection transfer on BCCD",
        _COLUMNS,
        rows,
        [
            f"{asked.iterations} steps of {asked.batch} images, short side {asked.short_side}, {asked.precision}, "
            f"{asked.trials} trial(s); COCO's AP on the test list (72 images), trained on trainval (292). Images/s are of "
            "the training steps with their loading, the best trial's; the two backends' detectors differ "
            "(docs/detection.md).",
        ],
    )


def _settings(
    asked: argparse.Namespace, out: Path, arch: str, heads: str, backend: str, encoder: str | None
) -> DetectSettings:
    start: dict[str, Any] = {"init": ("random",), "arch": arch}
    if encoder:
        start["checkpoint"] = Path(encoder)
    side = asked.short_side
    return DetectSettings(
        train=(f"{asked.data}#trainval",), test=f"{asked.data}#test", out=out, preset="quick", backend=backend,
        heads=heads, metric="coco", batch_size=asked.batch, iterations=asked.iterations, trials=asked.trials,
        min_sizes=(side,), test_size=side, max_size=2 * side, precision=asked.precision, **start,
    )  # fmt: skip


def _rows(result: Result, arch: str, heads: str) -> list[list[str]]:
    rows = []
    for label, numbers in result.metrics["by_init"].items():
        runs = [run for run in result.metrics["runs"] if run["label"] == label]
        speeds = [run["images_per_second"] for run in runs if run["images_per_second"]]
        cells = []
        for name in ("ap50", "ap", "ap75"):
            spread = f" ± {100 * numbers[name]['std']:.1f}" if numbers[name]["std"] is not None else ""
            cells.append(f"{100 * numbers[name]['mean']:.1f}{spread}")
        rows.append([arch, heads, label, result.provenance["backend"], *cells, f"{max(speeds):.1f}" if speeds else "-"])
    return rows


if __name__ == "__main__":
    main()
