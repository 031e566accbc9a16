"""The linear protocol on center crops, on stored views and end to end: how far apart in accuracy, and in cost?

python benchmarks/linear_protocols.py --data cifar10-mini [--checkpoint FILE]

Without a checkpoint a short pretraining makes an encoder. Images are of --side pixels, so that the end-to-end runs take
minutes on two cores. Every run starts without a cache, so that its seconds hold the extraction.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from report import write_table

from pretrain.run import pretrain
from pretrain.settings import PretrainSettings
from simsiam_eval.encoders.checkpoint import inspect_checkpoint
from simsiam_eval.wording import percent
from tasks.linear.linear_eval import linear_eval
from tasks.linear.settings import LinearEvalSettings

WAYS: dict[str, dict[str, Any]] = {
    "center crop": {},
    "1 view": {"views": 1},
    "10 views": {"views": 10},
    "end to end": {"end_to_end": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="Folder with train/ and test/ (or val/), class sub-folders."
    )
    parser.add_argument("--checkpoint", type=Path, help="Encoder; default: a CIFAR ResNet-18 pretrained here.")
    parser.add_argument("--side", type=int, default=16, help="Pixels of a side.")
    parser.add_argument("--pretrain-epochs", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=30, help="Of the head.")
    parser.add_argument("--lr", type=float, default=10.0)
    asked = parser.parse_args()
    test = asked.data / ("test" if (asked.data / "test").is_dir() else "val")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = asked.checkpoint or _pretrained(asked, Path(folder) / "run")
        report, rows = inspect_checkpoint(checkpoint), []
        for name, way in WAYS.items():
            os.environ["SIMSIAM_EVAL_CACHE"] = f"{folder}/{name}"
            started = time.perf_counter()
            found = linear_eval(
                LinearEvalSettings(preset="small", lr=asked.lr, epochs=asked.epochs, train=f"folder:{asked.data / 'train'}",
                                   test=f"folder:{test}", checkpoint=checkpoint, resize=asked.side,
                                   crop=asked.side, **way)
            ).metrics  # fmt: skip
            rows.append(_row(name, found, time.perf_counter() - started))
    write_table(
        f"linear_protocols_{asked.data.name.replace('-', '_')}",
        f"Three ways of the linear protocol: {asked.data.name}, {found['train_images']} and {found['images']} images",
        ("trained on", "test top-1 % [95 %]", "against center crop [95 %, paired]", "train top-1 %", "s"),
        rows,
        [
            f"{report.arch} ({report.stem} stem) at {asked.side} px after {report.epoch} epochs of SimSiam; head: preset "
            f"small, lr {asked.lr:g}, {asked.epochs} epochs, one seed. Seconds are of the whole command without a cache, "
            "with the center-crop head for the difference.",
        ],
    )


def _pretrained(asked: argparse.Namespace, out: Path) -> Path:
    made = pretrain(
        PretrainSettings(preset="cifar10", data=f"folder:{asked.data / 'train'}", out=out, image_size=asked.side,
                         epochs=asked.pretrain_epochs, batch_size=128, tensorboard=False)
    )  # fmt: skip
    return Path(made.files["checkpoint"])


def _row(name: str, found: dict[str, Any], seconds: float) -> list[str]:
    gain = "-"
    if "difference_to_crop" in found:
        low, high = found["difference_to_crop_interval"]
        gain = f"{100 * found['difference_to_crop']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
    return [name, percent(found["top1"], found["top1_interval"]), gain, percent(found["train_top1"]), f"{seconds:.1f}"]


if __name__ == "__main__":
    main()
