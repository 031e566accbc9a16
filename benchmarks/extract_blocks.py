"""How many images a block of `extract` shall have on a CPU, and whether its cores share a block or make one each.

python benchmarks/extract_blocks.py

The whole of `Extraction.compute` on random images in memory that have the encoder's size already: little but forward passes.
Everything runs once a round, in turn; medians.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import numpy as np
import torch
from report import write_table

from simsiam_eval.encoders.encoder import Encoder, build_trunk
from simsiam_eval.extraction.extraction import Extraction
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.sources.base import ArraySource
from simsiam_eval.vocabulary import PRECISIONS

CASES = (("resnet50", "imagenet", 224, 64), ("resnet18", "cifar", 32, 256))  # and how many images
WAYS = {"all cores share a block of 16": (16, 0)} | {f"a core each, blocks of {n}": (n, None) for n in (4, 8, 16, 32)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    works, counts = {}, {}
    for (arch, stem, side, count), precision in itertools.product(CASES, PRECISIONS):
        torch.manual_seed(0)
        encoder = Encoder(build_trunk(arch, stem).eval(), arch, stem).eval()
        pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        source = ArraySource("random", pixels, np.full(count, -1), None, [str(row) for row in range(count)])
        for way, (batch, workers) in WAYS.items():
            chosen = ExtractionOptions(precision=precision, batch=batch, workers=workers)
            name = f"{arch}, {side} px, {precision}", way
            works[name] = Extraction(encoder, source, Preprocessing(side, side), chosen, torch.device("cpu"))
            counts[name] = count
            list(works[name].compute(works[name].starts[:1]))
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in works}
    for _, (name, work) in itertools.product(range(asked.rounds), works.items()):
        started = time.perf_counter()
        list(work.compute(work.starts))
        seconds[name].append(time.perf_counter() - started)
    rows = []
    for name, found in seconds.items():
        rate = counts[name] / statistics.median(found)
        shared = counts[name] / statistics.median(seconds[name[0], next(iter(WAYS))])
        rows.append([*name, f"{rate:.1f}", f"{rate / shared:.2f}"])
    write_table(
        "extract_blocks",
        "Extraction on a CPU: images of a block, and the cores that make it",
        ("encoder", "blocks", "images/s", "of shared blocks"),
        rows,
        [f"Medians of {asked.rounds} rounds."],
    )


if __name__ == "__main__":
    main()
