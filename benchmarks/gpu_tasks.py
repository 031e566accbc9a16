"""Evaluation tasks on a GPU: extraction, exact kNN and linear heads, each compared with its upper bound.

python benchmarks/gpu_tasks.py

Extraction runs a ResNet-50 at 224 px on generated JPEG files of 500 x 375; its stages are also timed alone. The search
is compared with its matrix products alone. Heads have CIFAR-10's shape, as in linear_speed.py. Everything runs once per
round; medians over the rounds after one warm-up round.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as simsiam_eval sets it; read when torch is imported

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from linear_speed import EPOCHS, HEADS, RECIPE
from pretrain_speed import make_images, wait_for
from report import write_table

from simsiam_eval.encoders.encoder import ResNetEncoder, build_trunk
from simsiam_eval.extraction.blocks import read_blocks
from simsiam_eval.extraction.extraction import Extraction
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.extraction.to_file import write_extraction
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.linear.heads import HeadStack
from simsiam_eval.neighbors.exact import search
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.sources.base import PathSource

Runs = dict[str, Callable[[], object]]


def extraction(folder: Path, images: int, device: torch.device) -> Runs:
    """Decoding alone, forward passes alone and the whole extraction; the source repeats its photographs."""
    paths = make_images(folder, min(images, 512), (500, 375))
    source = PathSource((paths * -(-images // len(paths)))[:images])
    encoder = ResNetEncoder(build_trunk("resnet50"), "resnet50", "imagenet").eval()
    attributes = {"encoder": {}, "preprocessing": {}, "source": {}, "views": None}

    def build(precision: str) -> Extraction:
        return Extraction(encoder, source, Preprocessing(), ExtractionOptions(precision=precision), device)

    def decode() -> None:
        task = build("bf16")
        for _ in read_blocks(task._blocks(task.starts), None, device):
            pass

    def forward(precision: str) -> Callable[[], object]:
        task = build(precision)
        pixels = torch.randint(0, 256, (task.batch, 3, 224, 224), dtype=torch.uint8, device=device)

        def run() -> None:
            for _ in task.starts:
                last = task._model.start(pixels)
            last.read()

        return run

    def whole(precision: str) -> Callable[[], object]:
        task = build(precision)

        def run() -> None:
            out = folder / f"{time.monotonic_ns()}.h5"
            write_extraction(task, {**attributes, "precision": precision}, out, Processes(device))

        return run

    return {
        "extraction: decoding alone": decode,
        **{f"extraction: forward passes alone, {precision}": forward(precision) for precision in ("float32", "bf16")},
        **{f"extraction: whole, {precision}": whole(precision) for precision in ("float32", "bf16")},
    }


def neighbors(rows: int, width: int, queries: int, device: torch.device) -> Runs:
    """Search of the 200 nearest rows of each query, and the matrix products alone on tensors on the device."""
    rng = np.random.default_rng(0)
    bank, query_features = (rng.standard_normal((count, width), dtype=np.float32) for count in (rows, queries))
    bank_tensor, query_tensor = (torch.from_numpy(array).to(device) for array in (bank, query_features))

    def products() -> None:
        for query_block in query_tensor.split(4096):
            for bank_block in bank_tensor.split(65536):
                query_block @ bank_block.T

    return {
        f"kNN: {queries} x {rows} x {width}, products alone": products,
        f"kNN: {queries} x {rows} x {width}, k 200, from arrays in memory": lambda: search(
            bank, query_features, 200, device=device
        ),
    }


def heads(device: torch.device, epochs: int) -> Runs:
    """Training epochs of one head and of 13 heads together."""
    x = torch.randn(50_000, 512, device=device).relu_()
    y = torch.randint(10, (len(x),), device=device)
    recipes = [replace(RECIPE, lr=RECIPE.lr * 2.0 ** (index - HEADS // 2)) for index in range(HEADS)]
    stacks = {"one head": HeadStack([RECIPE], x, y, 10), f"{HEADS} heads together": HeadStack(recipes, x, y, 10)}

    def train(stack: HeadStack) -> Callable[[], object]:
        return lambda: [stack.train_epoch(x, epoch) for epoch in range(epochs)]

    return {f"linear: {epochs} epochs of {name}": train(stack) for name, stack in stacks.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8192, help="Number of images to extract.")
    parser.add_argument("--bank", type=int, default=200_000, help="Number of training features.")
    parser.add_argument("--width", type=int, default=2048, help="Feature width.")
    parser.add_argument("--queries", type=int, default=10_000, help="Number of queries.")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="Training epochs of the heads.")
    parser.add_argument("--rounds", type=int, default=2, help="Number of rounds after the warm-up.")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        runs = extraction(Path(folder), args.images, device)
        runs |= neighbors(args.bank, args.width, args.queries, device) | heads(device, args.epochs)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.rounds + 1):
            for name, run in runs.items():
                wait_for(device)
                started = time.perf_counter()
                run()
                wait_for(device)
                seconds[name].append(time.perf_counter() - started)
                print(f"{name}: {seconds[name][-1]:.3f} s", flush=True)
    rows = []
    for name, measured in seconds.items():
        median = statistics.median(measured[1:])
        rate = f"{args.images / median:.0f} images/s" if name.startswith("extraction") else ""
        rows.append([name, f"{median:.3f}", rate])
    write_table(
        f"gpu_tasks_{device.type}",
        "Extraction, search and linear heads on one device",
        ("task", "seconds", ""),
        rows,
        [
            f"Extraction: {args.images} images from {min(args.images, 512)} cached JPEG files of 500 x 375, ResNet-50 at "
            f"224 px. Heads: 50,000 x 512, 10 classes, batch {RECIPE.batch_size}. Medians of {args.rounds} rounds."
        ],
    )


if __name__ == "__main__":
    main()
