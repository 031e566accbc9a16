"""A pretraining step on a CPU with channels-last and contiguous memory formats, for several view sizes.

python benchmarks/memory_format.py
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
from report import write_table

from pretrain.build import build_model, build_optimizer, training_recipe
from pretrain.callback import Callback, Position
from pretrain.settings import PretrainSettings
from pretrain.train import train
from simsiam_eval.runtime.processes import Processes

CASES = (
    ("digits", "resnet18", 10, 64),
    ("cifar10", "resnet18", 32, 32),
    ("imagenet", "resnet18", 64, 32),
    ("imagenet", "resnet18", 224, 8),
)


def one_step(settings: PretrainSettings) -> Callable[[torch.Tensor], None]:
    """A function that runs one training step on two views."""
    device = torch.device("cpu")
    model = build_model(settings, Processes(device))
    optimizer, recipe = build_optimizer(settings, model, device), training_recipe(settings, 1, device)
    recipe = dataclasses.replace(recipe, epochs=1)
    return lambda views: train(model, optimizer, iter([(views[0], views[1])]), recipe, Position(), Callback())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="Number of steps per format.")
    args = parser.parse_args()
    rows = []
    for preset, arch, size, batch in CASES:
        views = torch.randn(2, batch, 3, size, size)
        options = dict(data="-", out="-", preset=preset, arch=arch, batch_size=batch)
        milliseconds: dict[bool, list[float]] = {True: [], False: []}
        steps = {}
        for last in milliseconds:
            settings = PretrainSettings(channels_last=last, **options)  # type: ignore[arg-type]
            steps[last] = one_step(settings)
            steps[last](views)
        for _ in range(args.rounds):
            for last, step in steps.items():
                started = time.perf_counter()
                step(views)
                milliseconds[last].append(1000 * (time.perf_counter() - started))
        channels_last, contiguous = (statistics.median(milliseconds[key]) for key in (True, False))
        rows.append(
            [
                f"{preset}, {arch}, {size} px",
                str(batch),
                f"{channels_last:.0f}",
                f"{contiguous:.0f}",
                f"{channels_last / contiguous:.2f}",
            ]
        )
    write_table(
        "memory_format",
        "A pretraining step on a CPU, float32",
        ("views", "batch", "channels-last, ms", "contiguous, ms", "ratio"),
        rows,
        [f"Medians of {args.rounds} alternating steps."],
    )


if __name__ == "__main__":
    main()
