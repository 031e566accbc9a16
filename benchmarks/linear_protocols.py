"""Linear evaluation on center crops, on stored views and end to end: accuracy and cost.

python benchmarks/linear_protocols.py --data cifar10-mini [--checkpoint FILE]

Without --checkpoint, a short pretraining run trains an encoder. Images are resized to --side pixels, so that end-to-end
runs take minutes on two cores. Every run starts with an empty cache, so its time includes extraction.
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

VARIANTS: dict[str, dict[str, Any]] = {
    "center crop": {},
    "1 view": {"views": 1},
    "10 views": {"views": 10},
    "end to end": {"end_to_end": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="Folder with train/ and test/ (or val/), each with one folder per class.",
    )
    parser.add_argument("--checkpoint", type=Path, help="Encoder checkpoint (default: pretrain a CIFAR ResNet-18).")
    parser.add_argument("--side", type=int, default=16, help="Image side in pixels.")
    parser.add_argument("--pretrain-epochs", type=int, default=4, help="Pretraining epochs without --checkpoint.")
    parser.add_argument("--epochs", type=int, default=30, help="Training epochs of the head.")
    parser.add_argument("--lr", type=float, default=10.0, help="Learning rate of the head.")
    args = parser.parse_args()
    test = args.data / ("test" if (args.data / "test").is_dir() else "val")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = args.checkpoint or _pretrained(args, Path(folder) / "run")
        report, rows = inspect_checkpoint(checkpoint), []
        for name, overrides in VARIANTS.items():
            os.environ["SIMSIAM_EVAL_CACHE"] = f"{folder}/{name}"
            started = time.perf_counter()
            metrics = linear_eval(
                LinearEvalSettings(preset="small", lr=args.lr, epochs=args.epochs, train=f"folder:{args.data / 'train'}",
                                   test=f"folder:{test}", checkpoint=checkpoint, resize=args.side,
                                   crop=args.side, **overrides)
            ).metrics  # fmt: skip
            rows.append(_row(name, metrics, time.perf_counter() - started))
    write_table(
        f"linear_protocols_{args.data.name.replace('-', '_')}",
        f"Variants of linear evaluation: {args.data.name}, {metrics['train_images']} training and "
        f"{metrics['images']} test images",
        ("trained on", "test top-1 % [95 %]", "difference to center crop [95 %, paired]", "train top-1 %", "s"),
        rows,
        [
            f"{report.arch} ({report.stem} stem) at {args.side} px after {report.epoch} epochs of SimSiam; head: preset "
            f"small, lr {args.lr:g}, {args.epochs} epochs, one seed. Times cover the whole command with an empty "
            "cache, including the center-crop head for the difference.",
        ],
    )


def _pretrained(args: argparse.Namespace, out: Path) -> Path:
    result = pretrain(
        PretrainSettings(preset="cifar10", data=f"folder:{args.data / 'train'}", out=out, image_size=args.side,
                         epochs=args.pretrain_epochs, batch_size=128, tensorboard=False)
    )  # fmt: skip
    return Path(result.files["checkpoint"])


def _row(name: str, metrics: dict[str, Any], seconds: float) -> list[str]:
    difference = "-"
    if "difference_to_crop" in metrics:
        low, high = metrics["difference_to_crop_interval"]
        difference = f"{100 * metrics['difference_to_crop']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
    return [
        name,
        percent(metrics["top1"], metrics["top1_interval"]),
        difference,
        percent(metrics["train_top1"]),
        f"{seconds:.1f}",
    ]


if __name__ == "__main__":
    main()
