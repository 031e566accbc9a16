"""CIFAR-10, ResNet-18, the paper's recipe: pretraining time, kNN and linear accuracy beside published numbers.

python benchmarks/cifar10_headline.py --data cifar10:DIR --out FOLDER --epochs 800

A run that is cut off goes on where it was when the command is given again; its seconds are added up from its log. Where a
call may take ten minutes only, and only a folder $OUT comes back, with FOLDER outside it:

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

# docs/protocols.md of the field: (who, kNN %, linear %, minutes)
PUBLISHED = [
    ("paper, 800 epochs", "about 90 (a plot)", "91.8", ""),
    ("lightly, 800 epochs, batch 512 (best epoch)", "90.4", "", "333.7 (one A6000)"),
    ("lightly, 200 epochs, batch 512 (best epoch)", "76.4", "", "87.8 (one A6000)"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="cifar10:DIR")
    parser.add_argument("--out", type=Path, required=True, help="Run folder.")
    parser.add_argument("--epochs", type=int, default=800)
    parser.add_argument("--precision", default="bf16" if torch.cuda.is_available() else "float32")
    parser.add_argument("--compile", default="cuda-graphs" if torch.cuda.is_available() else "off")
    parser.add_argument("--knn-every", type=int, default=20)
    parser.add_argument("--batch-size", type=int, help="Default: the preset's.")
    parser.add_argument("--stem", default="cifar10", help="Name of the table and of the log beside it.")
    asked = parser.parse_args()
    size: dict[str, Any] = {"batch_size": asked.batch_size} if asked.batch_size else {}
    trained = pretrain(
        PretrainSettings(preset="cifar10", data=f"{asked.data}#train", val=f"{asked.data}#test", out=asked.out,
                         epochs=asked.epochs, precision=asked.precision, compile=asked.compile, checkpoint_every="2 minutes",
                         knn_every=asked.knn_every, keep=1, **size)
    )  # fmt: skip
    log = [json.loads(line) for line in (asked.out / "log.jsonl").read_text().splitlines()]
    epochs = [line for line in log if line["kind"] == "epoch"]
    minutes = sum(line["seconds"] for line in epochs) / 60
    sets: dict[str, Any] = {"train": f"{asked.data}#train", "test": f"{asked.data}#test"}
    sets |= {"checkpoint": Path(trained.files["checkpoint"])}
    near = knn(KnnSettings(k=(200,), temperature=(0.1, 0.2), **sets)).metrics["grid"]
    whole = trained.metrics["images"] == 50_000
    protocol = "simsiam-code" if whole else "small"  # 90 epochs of batch 4096 are 90 steps on a few thousand images
    linear = linear_eval(LinearEvalSettings(preset=protocol, **sets)).metrics
    found = " / ".join(percent(one["top1"], one["top1_interval"]) for one in near)
    settings = trained.settings
    who = f"this run, {trained.metrics['images']} images, {asked.epochs} epochs, batch {settings['batch_size']}"
    who += f", {asked.precision}"
    ours = (who, found, percent(linear["top1"], linear["top1_interval"]), f"{minutes:.1f}")
    path = write_table(
        f"{asked.stem}_{asked.epochs}_epochs",
        "CIFAR-10, ResNet-18",
        ("who", "kNN top-1 %, k 200, T .1 / .2", f"linear top-1 %, {protocol}", "minutes"),
        [ours, *(PUBLISHED if whole else [])],
        [
            "Minutes are of the training steps alone, compilation included, from the log. Where the images are the "
            "JPEG-re-encoded copy of CIFAR-10 (quality 75), accuracies are not strictly comparable with those on the "
            "original.",
        ],
    )
    path.with_suffix(".log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in epochs))


if __name__ == "__main__":
    run(main)
