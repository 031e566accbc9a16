"""Speed of linear evaluation on features: one head, 13 heads together, parts of a step, and the end-to-end protocol.

python benchmarks/linear_speed.py

Random features of CIFAR-10's shape by default (50,000 training and 10,000 test rows, 512 features, 10 classes, protocol
simsiam-code). The end-to-end protocol is timed on a subset of images; the command, on feature files with separated
classes, so that heads converge as they do on real features.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as simsiam_eval sets it; read when torch is imported

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from report import write_table
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from simsiam_eval.encoders.encoder import ResNetEncoder, build_trunk
from simsiam_eval.extraction.extraction import Extraction
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.features.writer import write_features
from simsiam_eval.images.preprocess import TRANSFORMS
from simsiam_eval.linear.end_to_end import ViewExtraction
from simsiam_eval.linear.heads import HeadStack
from simsiam_eval.linear.lars import LARS
from simsiam_eval.linear.protocols import HeadRecipe
from simsiam_eval.sources.base import ArraySource

EPOCHS = 90
RECIPE = HeadRecipe(epochs=EPOCHS, batch_size=4096, lr=0.1)
HEADS = 13


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="Number of training rows.")
    parser.add_argument("--width", type=int, default=512, help="Feature width.")
    parser.add_argument("--classes", type=int, default=10, help="Number of classes.")
    parser.add_argument("--rounds", type=int, default=5, help="Number of rounds, each of which runs everything once.")
    parser.add_argument("--images", type=int, default=256, help="Number of images for the end-to-end protocol.")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(args.rows, args.width, generator=generator).relu_()
    y = torch.randint(args.classes, (args.rows,), generator=generator)
    test_x = torch.randn(args.rows // 5, args.width, generator=generator).relu_()
    test_y = torch.randint(args.classes, (len(test_x),), generator=generator)
    epochs = _epochs(x, y, test_x, test_y, args.classes)
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(args.rounds):
        for name, run in epochs.items():
            seconds[name].append(_seconds(run))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    epoch_with_test = medians["one head"] + medians["its test curve"]
    rows = [[name, f"{1000 * value:.0f}", f"{EPOCHS * value:.1f}", f"{value / medians['one head']:.2f}"]
            for name, value in medians.items()]  # fmt: skip
    seconds_per_view, seconds_per_crop = _seconds_per_image(args.images)
    end_to_end, extraction = seconds_per_view * args.rows, seconds_per_crop * args.rows
    rows.append([f"end to end, ResNet-18 at 32 px (measured on {args.images} images)", f"{1000 * end_to_end:.0f}",
                 f"{EPOCHS * end_to_end:.0f}", f"{end_to_end / medians['one head']:.0f}"])  # fmt: skip
    run_seconds = EPOCHS * epoch_with_test
    parts = _parts(x, y, args.classes)
    minimum = sum(parts[name] for name in ("rows by index_select", "scores of 13 heads", "their gradient"))
    lower_bound = minimum * args.rows / RECIPE.batch_size / medians["one head"]
    one_head_seconds, sweep_seconds = _commands(args.rows, args.width, args.classes)
    notes = [
        f"The command `linear-eval` on feature files takes {one_head_seconds:.1f} s with one head and "
        f"{sweep_seconds:.1f} s with --sweep, {sweep_seconds / one_head_seconds:.2f} times as long: {HEADS} heads, "
        "selection on a held-out tenth and a refit. Both include Python's startup, reading, the leakage check, "
        "training and the report; medians of 3 alternating runs.",
        f"A run of {EPOCHS} epochs with its test curve takes {run_seconds:.1f} s, "
        f"{EPOCHS * end_to_end / run_seconds:.0f} times less than end to end; including the "
        f"extraction of training and test images ({1.2 * extraction:.0f} s), "
        f"{EPOCHS * end_to_end / (run_seconds + 1.2 * extraction):.0f} times less.",
        f"{HEADS} heads together take {medians[f'{HEADS} heads together'] / medians['one head']:.2f} times as long as one, "
        f"{HEADS * medians['one head'] / medians[f'{HEADS} heads together']:.1f} times less than separately. The "
        f"two matrix products and the row gather, which every step needs, take {1000 * minimum:.2f} ms when timed alone: "
        f"{lower_bound:.2f} times one head.",
        f"Parts of a step, ms: {', '.join(f'{name.strip()} {1000 * value:.2f}' for name, value in parts.items())}.",
    ]
    write_table(
        "linear_speed",
        f"Linear evaluation, {args.rows:,} x {args.width}, {args.classes} classes, batch {RECIPE.batch_size}",
        ("run", "ms per epoch", f"s for {EPOCHS} epochs", "vs. one head"),
        rows,
        notes,
    )


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _epochs(
    x: torch.Tensor, y: torch.Tensor, test_x: torch.Tensor, test_y: torch.Tensor, classes: int
) -> dict[str, Callable[[], object]]:
    """Functions that each run one epoch."""
    head = HeadStack([RECIPE], x, y, classes)
    heads = HeadStack(
        [replace(RECIPE, lr=RECIPE.lr * 2.0 ** (index - HEADS // 2)) for index in range(HEADS)], x, y, classes
    )
    loader = DataLoader(TensorDataset(x, y), RECIPE.batch_size, shuffle=True)

    def indexed() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in torch.randperm(len(y)).split(RECIPE.batch_size):
            yield x[batch], y[batch]

    return {
        "one head": lambda: head.train_epoch(x, 0),
        "its test curve": lambda: head.judge(test_x, test_y),
        f"{HEADS} heads together": lambda: heads.train_epoch(x, 0),
        "one head, nn.Linear and autograd, tensors indexed": lambda: _plain(indexed(), x.shape[1], classes),
        "one head, nn.Linear and autograd, DataLoader of a TensorDataset": lambda: _plain(loader, x.shape[1], classes),
    }


def _plain(batches: object, width: int, classes: int) -> None:
    head = torch.nn.Linear(width, classes)
    optimizer = LARS(head.parameters(), lr=1.6)
    for features, labels in batches:  # type: ignore[attr-defined]
        loss = functional.cross_entropy(head(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _seconds_per_image(images: int) -> tuple[float, float]:
    """Seconds per image of an end-to-end epoch and of extraction: CIFAR ResNet-18, decoded images in memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    source = ArraySource("noise", pixels, np.arange(images) % 10, None, [str(row) for row in range(images)])
    encoder = ResNetEncoder(build_trunk("resnet18", "cifar"), "resnet18", "cifar").eval()
    inputs = (encoder, source, TRANSFORMS["cifar"])
    view = ViewExtraction(*inputs, ExtractionOptions(views=1), torch.device("cpu"))
    crop = Extraction(*inputs, ExtractionOptions(), torch.device("cpu"))
    view.view_features(set(range(32)))  # warm-up
    list(crop.compute(crop.starts[:2]))
    return (
        _seconds(lambda: view.view_features(set(range(images)))) / images,
        _seconds(lambda: list(crop.compute(crop.starts))) / images,
    )


def _commands(rows: int, width: int, classes: int) -> tuple[float, float]:
    """Seconds of the command with one head and with --sweep, on synthetic feature files."""
    rng = np.random.default_rng(0)
    centers = 0.25 * rng.standard_normal((classes, width), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for split, count in (("train", rows), ("test", rows // 5)):
            labels = np.arange(count) % classes
            features = np.maximum(centers[labels] + rng.standard_normal((count, width), dtype=np.float32), 0)
            files.append(Path(folder, f"{split}.h5"))
            source = {"spec": split, "fingerprint": split, "class_names": [str(label) for label in range(classes)]}
            ids = [f"{split}{row}" for row in range(count)]
            write_features(files[-1], features, labels, ids, encoder={"arch": "none"}, source=source)
        cli = Path(__file__).parent.parent / "cli.py"
        command = [sys.executable, str(cli), "linear-eval", "--train", str(files[0]), "--test", str(files[1])]
        seconds: dict[tuple[str, ...], list[float]] = {(): [], ("--sweep",): []}
        for _ in range(3):
            for options, measured in seconds.items():
                measured.append(
                    _seconds(
                        lambda options=options: subprocess.run([*command, *options], check=True, capture_output=True)
                    )
                )
        one_head, sweep = (statistics.median(measured) for measured in seconds.values())
        return one_head, sweep


def _parts(x: torch.Tensor, y: torch.Tensor, classes: int) -> dict[str, float]:
    """Seconds of each part of a step, and of the straightforward alternatives."""
    rows = torch.randperm(len(x))[: RECIPE.batch_size]
    batch = torch.empty(len(rows), x.shape[1])
    heads, labels = HEADS, y[rows]
    weight, score_gradient = torch.randn(heads * classes, x.shape[1]), torch.randn(heads * classes, len(rows))
    scores, batch_first = torch.randn(heads, classes, len(rows)), torch.randn(len(rows), heads, classes)
    parts = {
        "rows by index_select": lambda: torch.index_select(x, 0, rows, out=batch),
        "rows by indexing": lambda: x[rows],
        "labels": lambda: y.index_select(0, rows),
        "scores of 13 heads": lambda: weight @ batch.T,
        "their gradient": lambda: score_gradient @ batch,
        "log_softmax of (13,10,B)": lambda: torch.log_softmax(scores, 1),
        "of (B,13,10)": lambda: torch.log_softmax(batch_first, 2),
        "exp": lambda: scores.exp(),
        "loss": lambda: scores.gather(1, labels.expand(heads, 1, -1)),
    }
    seconds = {}
    for name, run in parts.items():
        run()
        seconds[name] = statistics.median(_seconds(run) for _ in range(20))
    return seconds


if __name__ == "__main__":
    main()
