"""Linear evaluation from features: seconds of a run, of 13 heads at once, of its parts, and of the end-to-end protocol.

python benchmarks/linear_speed.py

CIFAR-10's shape by default (50,000 training and 10,000 test rows, 512 features, 10 classes, the protocol simsiam-code),
filled with random numbers. The end-to-end protocol is timed on a slice of images; the command, on feature files whose
classes lie apart, so that heads come to fit them as those of real features do.
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

from simsiam_eval.encoders.encoder import Encoder, build_trunk
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
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5, help="Of each, in turn; the median counts.")
    parser.add_argument("--images", type=int, default=256, help="Slice for the end-to-end protocol.")
    asked = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(asked.rows, asked.width, generator=generator).relu_()
    y = torch.randint(asked.classes, (asked.rows,), generator=generator)
    tested = torch.randn(asked.rows // 5, asked.width, generator=generator).relu_()
    truth = torch.randint(asked.classes, (len(tested),), generator=generator)
    epochs = _epochs(x, y, tested, truth, asked.classes)
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(asked.rounds):
        for name, run in epochs.items():
            seconds[name].append(_seconds(run))
    took = {name: statistics.median(values) for name, values in seconds.items()}
    one = took["one head"] + took["its test curve"]
    rows = [[name, f"{1000 * value:.0f}", f"{EPOCHS * value:.1f}", f"{value / took['one head']:.2f}"]
            for name, value in took.items()]  # fmt: skip
    view, crop = _seconds_per_image(asked.images)
    end_to_end, extraction = view * asked.rows, crop * asked.rows
    rows.append([f"end to end, ResNet-18 at 32 px (measured on {asked.images} images)", f"{1000 * end_to_end:.0f}",
                 f"{EPOCHS * end_to_end:.0f}", f"{end_to_end / took['one head']:.0f}"])  # fmt: skip
    whole = EPOCHS * one
    parts = _parts(x, y, asked.classes)
    needed = sum(parts[name] for name in ("rows by index_select", "scores of 13 heads", "their gradient"))
    limit = needed * asked.rows / RECIPE.batch_size / took["one head"]
    alone, swept = _commands(asked.rows, asked.width, asked.classes)
    notes = [
        f"The command `linear-eval` on feature files takes {alone:.1f} s with one head and {swept:.1f} s with --sweep: "
        f"{swept / alone:.2f} times as long for {HEADS} heads, the choice among them on a held-out tenth and the refit. "
        "Both start Python, read the files, look for leakage, train and report; medians of 3, in turn.",
        f"A run of {EPOCHS} epochs with its test curve takes {whole:.1f} s, {EPOCHS * end_to_end / whole:.0f} times less "
        f"than end to end; with the one extraction before it (all images, test set too: {1.2 * extraction:.0f} s) "
        f"{EPOCHS * end_to_end / (whole + 1.2 * extraction):.0f} times less.",
        f"{HEADS} heads together take {took[f'{HEADS} heads together'] / took['one head']:.2f} times as long as one, "
        f"{HEADS * took['one head'] / took[f'{HEADS} heads together']:.1f} times less than one after the other. Of a step "
        f"of all, the two products and the rows, which nothing can spare, take {1000 * needed:.2f} ms each alone: "
        f"{limit:.2f} times one head.",
        f"Parts of a step, ms: {', '.join(f'{name.strip()} {1000 * value:.2f}' for name, value in parts.items())}.",
    ]
    write_table(
        "linear_speed",
        f"Linear evaluation, {asked.rows:,} x {asked.width}, {asked.classes} classes, batch {RECIPE.batch_size}",
        ("what", "ms an epoch", f"s of {EPOCHS} epochs", "against one head"),
        rows,
        notes,
    )


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _epochs(
    x: torch.Tensor, y: torch.Tensor, tested: torch.Tensor, truth: torch.Tensor, classes: int
) -> dict[str, Callable[[], object]]:
    """One epoch of each."""
    one = HeadStack([RECIPE], x, y, classes)
    many = HeadStack(
        [replace(RECIPE, lr=RECIPE.lr * 2.0 ** (number - HEADS // 2)) for number in range(HEADS)], x, y, classes
    )
    loader = DataLoader(TensorDataset(x, y), RECIPE.batch_size, shuffle=True)

    def indexed() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in torch.randperm(len(y)).split(RECIPE.batch_size):
            yield x[batch], y[batch]

    return {
        "one head": lambda: one.train_epoch(x, 0),
        "its test curve": lambda: one.judge(tested, truth),
        f"{HEADS} heads together": lambda: many.train_epoch(x, 0),
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
    """Of an epoch of the end-to-end protocol, and of extraction, for a CIFAR ResNet-18; images decoded in memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    source = ArraySource("noise", pixels, np.arange(images) % 10, None, [str(row) for row in range(images)])
    encoder = Encoder(build_trunk("resnet18", "cifar"), "resnet18", "cifar").eval()
    common = (encoder, source, TRANSFORMS["cifar"])
    view = ViewExtraction(*common, ExtractionOptions(views=1), torch.device("cpu"))
    crop = Extraction(*common, ExtractionOptions(), torch.device("cpu"))
    few = set(range(32))
    view.view_features(few)
    list(crop.compute(crop.starts[:2]))
    return (
        _seconds(lambda: view.view_features(set(range(images)))) / images,
        _seconds(lambda: list(crop.compute(crop.starts))) / images,
    )


def _commands(rows: int, width: int, classes: int) -> tuple[float, float]:
    """Seconds of the command with one head, and of its sweep, on feature files of such numbers."""
    draw = np.random.default_rng(0)
    centers = 0.25 * draw.standard_normal((classes, width), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for split, count in (("train", rows), ("test", rows // 5)):
            labels = np.arange(count) % classes
            features = np.maximum(centers[labels] + draw.standard_normal((count, width), dtype=np.float32), 0)
            files.append(Path(folder, f"{split}.h5"))
            source = {"spec": split, "fingerprint": split, "class_names": [str(one) for one in range(classes)]}
            ids = [f"{split}{row}" for row in range(count)]
            write_features(files[-1], features, labels, ids, encoder={"arch": "none"}, source=source)
        cli = Path(__file__).parent.parent / "cli.py"
        command = [sys.executable, str(cli), "linear-eval", "--train", str(files[0]), "--test", str(files[1])]
        seconds: dict[tuple[str, ...], list[float]] = {(): [], ("--sweep",): []}
        for _ in range(3):
            for more, took in seconds.items():
                took.append(
                    _seconds(lambda more=more: subprocess.run([*command, *more], check=True, capture_output=True))
                )
        one, many = (statistics.median(took) for took in seconds.values())
        return one, many


def _parts(x: torch.Tensor, y: torch.Tensor, classes: int) -> dict[str, float]:
    """Seconds of the parts of a step, and of the obvious way of each."""
    rows = torch.randperm(len(x))[: RECIPE.batch_size]
    room = torch.empty(len(rows), x.shape[1])
    heads, labels = HEADS, y[rows]
    weight, off = torch.randn(heads * classes, x.shape[1]), torch.randn(heads * classes, len(rows))
    scores, turned = torch.randn(heads, classes, len(rows)), torch.randn(len(rows), heads, classes)
    parts = {
        "rows by index_select": lambda: torch.index_select(x, 0, rows, out=room),
        "rows by indexing": lambda: x[rows],
        "labels": lambda: y.index_select(0, rows),
        "scores of 13 heads": lambda: weight @ room.T,
        "their gradient": lambda: off @ room,
        "log_softmax of (13,10,B)": lambda: torch.log_softmax(scores, 1),
        "of (B,13,10)": lambda: torch.log_softmax(turned, 2),
        "exp": lambda: scores.exp(),
        "loss": lambda: scores.gather(1, labels.expand(heads, 1, -1)),
    }
    found = {}
    for name, run in parts.items():
        run()
        found[name] = statistics.median(_seconds(run) for _ in range(20))
    return found


if __name__ == "__main__":
    main()
