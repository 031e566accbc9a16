"""What judges and uses an encoder, on a GPU: extraction, exact kNN and linear heads, each beside its limit.

python benchmarks/gpu_tasks.py

Extraction is of a ResNet-50 at 224 px from made JPEG files of 500 x 375, beside its stages alone. The search's limit is its
products alone. Heads are those of CIFAR-10's shape, as in linear_speed.py. Medians over the rounds, all in turns, after one
round that is not counted.
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

from simsiam_eval.encoders.encoder import Encoder, build_trunk
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
    """Decoding alone, forward passes alone, and the whole; one photograph stands many times in the source."""
    few = make_images(folder, min(images, 512), (500, 375))
    source = PathSource((few * -(-images // len(few)))[:images])
    encoder = Encoder(build_trunk("resnet50"), "resnet50", "imagenet").eval()
    attributes = {"encoder": {}, "preprocessing": {}, "source": {}, "views": None}

    def work(precision: str) -> Extraction:
        return Extraction(encoder, source, Preprocessing(), ExtractionOptions(precision=precision), device)

    def decode() -> None:
        one = work("bf16")
        for _ in read_blocks(one._blocks(one.starts), None, device):
            pass

    def forward(precision: str) -> Callable[[], object]:
        one = work(precision)
        pixels = torch.randint(0, 256, (one.batch, 3, 224, 224), dtype=torch.uint8, device=device)

        def run() -> None:
            for _ in one.starts:
                last = one._model.start(pixels)
            last.read()

        return run

    def whole(precision: str) -> Callable[[], object]:
        one = work(precision)

        def run() -> None:
            out = folder / f"{time.monotonic_ns()}.h5"
            write_extraction(one, {**attributes, "precision": precision}, out, Processes(device))

        return run

    return {
        "extraction: decoding alone": decode,
        **{f"extraction: forward passes alone, {one}": forward(one) for one in ("float32", "bf16")},
        **{f"extraction: whole, {one}": whole(one) for one in ("float32", "bf16")},
    }


def neighbors(rows: int, width: int, queries: int, device: torch.device) -> Runs:
    """The 200 nearest of each query, and the products alone on rows that lie on the device."""
    rng = np.random.default_rng(0)
    bank, asked = (rng.standard_normal((count, width), dtype=np.float32) for count in (rows, queries))
    there, here = (torch.from_numpy(one).to(device) for one in (bank, asked))

    def products() -> None:
        for some in here.split(4096):
            for block in there.split(65536):
                some @ block.T

    return {
        f"kNN: {queries} x {rows} x {width}, products alone": products,
        f"kNN: {queries} x {rows} x {width}, k 200, from arrays in memory": lambda: search(
            bank, asked, 200, device=device
        ),
    }


def heads(device: torch.device, epochs: int) -> Runs:
    """Epochs of one head and of 13."""
    x = torch.randn(50_000, 512, device=device).relu_()
    y = torch.randint(10, (len(x),), device=device)
    many = [replace(RECIPE, lr=RECIPE.lr * 2.0 ** (number - HEADS // 2)) for number in range(HEADS)]
    stacks = {"one head": HeadStack([RECIPE], x, y, 10), f"{HEADS} heads together": HeadStack(many, x, y, 10)}

    def train(stack: HeadStack) -> Callable[[], object]:
        return lambda: [stack.train_epoch(x, epoch) for epoch in range(epochs)]

    return {f"linear: {epochs} epochs of {name}": train(stack) for name, stack in stacks.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--bank", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        runs = extraction(Path(folder), asked.images, device)
        runs |= neighbors(asked.bank, asked.width, asked.queries, device) | heads(device, asked.epochs)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(asked.rounds + 1):
            for name, run in runs.items():
                wait_for(device)
                started = time.perf_counter()
                run()
                wait_for(device)
                seconds[name].append(time.perf_counter() - started)
                print(f"{name}: {seconds[name][-1]:.3f} s", flush=True)
    rows = []
    for name, took in seconds.items():
        middle = statistics.median(took[1:])
        rate = f"{asked.images / middle:.0f} images/s" if name.startswith("extraction") else ""
        rows.append([name, f"{middle:.3f}", rate])
    write_table(
        f"gpu_tasks_{device.type}",
        "Extraction, search and heads on one device",
        ("what", "seconds", ""),
        rows,
        [
            f"{asked.images} images, of {min(asked.images, 512)} JPEG files of 500 x 375 that lie in memory, by a ResNet-50 "
            f"at 224 px; heads on 50,000 x 512, 10 classes, batch {RECIPE.batch_size}; medians of {asked.rounds}."
        ],
    )


if __name__ == "__main__":
    main()
