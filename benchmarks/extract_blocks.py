"""Extraction on a CPU: images per block, and whether all cores share one block or each core computes its own.

python benchmarks/extract_blocks.py

Times `Extraction.compute` on random images in memory that already have the encoder's input size, so forward passes
dominate. Each configuration runs once per round; medians over the rounds are reported.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import numpy as np
import torch
from report import write_table

from simsiam_eval.encoders.encoder import ResNetEncoder, build_trunk
from simsiam_eval.extraction.extraction import Extraction
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.sources.base import ArraySource
from simsiam_eval.vocabulary import PRECISIONS

# architecture, stem, side in pixels, number of images
CASES = (("resnet50", "imagenet", 224, 64), ("resnet18", "cifar", 32, 256))
CONFIGURATIONS = {"all cores share a block of 16": (16, 0)} | {
    f"a core each, blocks of {n}": (n, None) for n in (4, 8, 16, 32)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="Number of rounds.")
    args = parser.parse_args()
    extractions, counts = {}, {}
    for (arch, stem, side, count), precision in itertools.product(CASES, PRECISIONS):
        torch.manual_seed(0)
        encoder = ResNetEncoder(build_trunk(arch, stem).eval(), arch, stem).eval()
        pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        source = ArraySource("random", pixels, np.full(count, -1), None, [str(row) for row in range(count)])
        for configuration, (batch, workers) in CONFIGURATIONS.items():
            options = ExtractionOptions(precision=precision, batch=batch, workers=workers)
            name = f"{arch}, {side} px, {precision}", configuration
            extractions[name] = Extraction(encoder, source, Preprocessing(side, side), options, torch.device("cpu"))
            counts[name] = count
            list(extractions[name].compute(extractions[name].starts[:1]))
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in extractions}
    for _, (name, extraction) in itertools.product(range(args.rounds), extractions.items()):
        started = time.perf_counter()
        list(extraction.compute(extraction.starts))
        seconds[name].append(time.perf_counter() - started)
    rows = []
    for name, measured in seconds.items():
        rate = counts[name] / statistics.median(measured)
        shared = counts[name] / statistics.median(seconds[name[0], next(iter(CONFIGURATIONS))])
        rows.append([*name, f"{rate:.1f}", f"{rate / shared:.2f}"])
    write_table(
        "extract_blocks",
        "Extraction on a CPU: images per block, and cores per block",
        ("encoder", "blocks", "images/s", "vs. shared blocks"),
        rows,
        [f"Medians of {args.rounds} rounds."],
    )


if __name__ == "__main__":
    main()
