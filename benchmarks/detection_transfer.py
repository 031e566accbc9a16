"""Detection on BCCD: AP and images/s from random and pretrained weights, with both backends, ResNet-18/50, C4 and FPN.

python benchmarks/detection_transfer.py --data voc:DIR --out FOLDER --encoder resnet18=CKPT --encoder resnet50=CKPT

Meaningful sizes need a GPU; `--iterations 4 --short-side 96` is a quick check that the script runs. If detectron2 is
importable (for example its source on PYTHONPATH), it is measured too. An interrupted run resumes when the same command
is run again.
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
    parser.add_argument("--data", required=True, help="Detection dataset as voc:DIR.")
    parser.add_argument("--out", type=Path, required=True, help="Output folder, with one run folder per configuration.")
    parser.add_argument(
        "--encoder",
        action="append",
        default=[],
        metavar="ARCH=CKPT",
        help="SimSiam checkpoint of an architecture; repeatable.",
    )
    parser.add_argument("--archs", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--heads", nargs="+", default=["fpn", "c4"])
    parser.add_argument("--iterations", type=int, default=1000, help="Number of training steps.")
    parser.add_argument("--batch", type=int, default=8, help="Batch size.")
    parser.add_argument("--short-side", type=int, default=480, help="Length of the short image side in pixels.")
    parser.add_argument("--trials", type=int, default=1, help="Number of trials per configuration.")
    parser.add_argument("--precision", default="bf16" if torch.cuda.is_available() else "float32")
    args = parser.parse_args()
    encoders = dict(pair.split("=", 1) for pair in args.encoder)
    unavailable = Detectron2Backend().unavailable()
    if unavailable:
        say(unavailable)
    backends = ["torchvision"] + ([] if unavailable else ["detectron2"])
    rows = []
    for arch, heads, backend in itertools.product(args.archs, args.heads, backends):
        out = args.out / f"{arch}-{heads}-{backend}"
        result = detect(_settings(args, out, arch, heads, backend, encoders.get(arch)))
        rows += _rows(result, arch, heads)
    write_table(
        "detection_transfer",
        "Detection transfer on BCCD",
        _COLUMNS,
        rows,
        [
            f"{args.iterations} steps of {args.batch} images, short side {args.short_side}, {args.precision}, "
            f"{args.trials} trial(s); trained on trainval (292 images), COCO AP on test (72 images). Images/s cover the "
            "training steps and data loading of the fastest trial; the detectors of the two backends differ "
            "(docs/detection.md).",
        ],
    )


def _settings(
    args: argparse.Namespace, out: Path, arch: str, heads: str, backend: str, encoder: str | None
) -> DetectSettings:
    start: dict[str, Any] = {"init": ("random",), "arch": arch}
    if encoder:
        start["checkpoint"] = Path(encoder)
    side = args.short_side
    return DetectSettings(
        train=(f"{args.data}#trainval",), test=f"{args.data}#test", out=out, preset="quick", backend=backend,
        heads=heads, metric="coco", batch_size=args.batch, iterations=args.iterations, trials=args.trials,
        min_sizes=(side,), test_size=side, max_size=2 * side, precision=args.precision, **start,
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
