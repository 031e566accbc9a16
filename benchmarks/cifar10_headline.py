"""CIFAR-10, ResNet-18, the paper's recipe: pretraining time, kNN and linear accuracy, and published results.

python benchmarks/cifar10_headline.py --data cifar10:DIR --out FOLDER --epochs 800

An interrupted run resumes when the same command is run again; the training time is summed from its log. On a machine
that limits a command to ten minutes and returns only the folder $OUT, keep FOLDER outside $OUT:

timeout --foreground -s TERM 560 python benchmarks/cifar10_headline.py ...
cp FOLDER/log.jsonl benchmarks/results/cifar10_* $OUT
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from report import run, write_table

from pretrain.run import pretrain
from pretrain.settings import PretrainSettings
from simsiam_eval.wording import percent
from tasks.knn import KnnSettings, knn
from tasks.linear.linear_eval import linear_eval
from tasks.linear.settings import LinearEvalSettings

# (run, kNN %, linear %, minutes)
PUBLISHED = [
    ("paper, 800 epochs", "about 90 (a plot)", "91.8", ""),
    ("lightly, 800 epochs, batch 512 (best epoch)", "90.4", "", "333.7 (one A6000)"),
    ("lightly, 200 epochs, batch 512 (best epoch)", "76.4", "", "87.8 (one A6000)"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10 as cifar10:DIR.")
    parser.add_argument("--out", type=Path, required=True, help="Run folder, resumed if it exists.")
    parser.add_argument("--epochs", type=int, default=800, help="Number of pretraining epochs.")
    parser.add_argument("--precision", default="bf16" if torch.cuda.is_available() else "float32")
    parser.add_argument("--compile", default="cuda-graphs" if torch.cuda.is_available() else "off")
    parser.add_argument("--knn-every", type=int, default=20, help="Run the online kNN every N epochs.")
    parser.add_argument("--batch-size", type=int, help="Batch size (default: the preset's).")
    parser.add_argument("--stem", default="cifar10", help="File name prefix of the table and of its log.")
    args = parser.parse_args()
    size: dict[str, Any] = {"batch_size": args.batch_size} if args.batch_size else {}
    trained = pretrain(
        PretrainSettings(preset="cifar10", data=f"{args.data}#train", val=f"{args.data}#test", out=args.out,
                         epochs=args.epochs, precision=args.precision, compile=args.compile, checkpoint_every="2 minutes",
                         knn_every=args.knn_every, keep=1, **size)
    )  # fmt: skip
    log = [json.loads(line) for line in (args.out / "log.jsonl").read_text().splitlines()]
    epochs = [line for line in log if line["kind"] == "epoch"]
    minutes = sum(line["seconds"] for line in epochs) / 60
    sets: dict[str, Any] = {"train": f"{args.data}#train", "test": f"{args.data}#test"}
    sets |= {"checkpoint": Path(trained.files["checkpoint"])}
    knn_grid = knn(KnnSettings(k=(200,), temperature=(0.1, 0.2), **sets)).metrics["grid"]
    full_dataset = trained.metrics["images"] == 50_000
    # On a few thousand images, 90 epochs of batch 4096 are only 90 steps.
    protocol = "simsiam-code" if full_dataset else "small"
    linear_metrics = linear_eval(LinearEvalSettings(preset=protocol, **sets)).metrics
    knn_cell = " / ".join(percent(cell["top1"], cell["top1_interval"]) for cell in knn_grid)
    settings = trained.settings
    run_name = f"this run, {trained.metrics['images']} images, {args.epochs} epochs, batch {settings['batch_size']}"
    run_name += f", {args.precision}"
    measured = (run_name, knn_cell, percent(linear_metrics["top1"], linear_metrics["top1_interval"]), f"{minutes:.1f}")
    path = write_table(
        f"{args.stem}_{args.epochs}_epochs",
        "CIFAR-10, ResNet-18",
        ("run", "kNN top-1 %, k 200, T .1 / .2", f"linear top-1 %, {protocol}", "minutes"),
        [measured, *(PUBLISHED if full_dataset else [])],
        [
            "Minutes cover the training steps only, including compilation, and come from the log. If the images are the "
            "JPEG re-encoded copy of CIFAR-10 (quality 75), accuracies are not strictly comparable with those on the "
            "original.",
        ],
    )
    path.with_suffix(".log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in epochs))


if __name__ == "__main__":
    run(main)
