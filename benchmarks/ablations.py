"""The paper's ablations: one short pretraining run per variant, then kNN and linear evaluation.

python benchmarks/ablations.py --data cifar10:DIR --epochs 100 --out FOLDER

An interrupted run resumes when the same command is run again. The table lists every variant evaluated so far in FOLDER.
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

# name: (settings that differ from the preset, the paper's ImageNet linear top-1 at 100 epochs)
VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "SimSiam, predictor lr constant": ({"predictor": "constant"}, "68.1"),
    "predictor lr cosine": ({"predictor": "cosine"}, "67.7"),
    "no stop-gradient": ({"stop_gradient": False}, "0.1"),
    "no predictor": ({"predictor": "none"}, "0.1"),
    "predictor fixed": ({"predictor": "fixed"}, "1.5"),
    "no BN in the heads": ({"projector_bn": "none", "predictor_bn": "none"}, "34.6"),
    "BN in hidden layers only": ({"projector_bn": "hidden"}, "67.4"),
    "BN at the predictor's output too": ({"predictor_bn": "all"}, "unstable"),
    "cross-entropy": ({"loss": "cross-entropy"}, "63.2"),
    "asymmetric": ({"symmetric": False}, "64.8"),
    "dim 256": ({"dim": 256}, "65.3"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Image source with training and test splits.")
    parser.add_argument("--preset", default="cifar10", help="Pretraining preset.")
    parser.add_argument("--linear", default="simsiam-code", help="Linear evaluation preset.")
    parser.add_argument("--epochs", type=int, required=True, help="Number of pretraining epochs.")
    parser.add_argument("--batch-size", type=int, help="Batch size (default: the preset's).")
    parser.add_argument("--precision", default="bf16" if torch.cuda.is_available() else "float32")
    parser.add_argument("--compile", default="cuda-graphs" if torch.cuda.is_available() else "off")
    parser.add_argument("--out", type=Path, required=True, help="Output folder, with one run folder per variant.")
    parser.add_argument(
        "--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="Variants to run (default: all)."
    )
    args = parser.parse_args()
    for name in args.only:
        if not result_file(args, name).exists():
            result_file(args, name).write_text(json.dumps(evaluate_variant(args, name)))
        rows = [
            json.loads(path.read_text())
            for path in (result_file(args, variant) for variant in VARIANTS)
            if path.exists()
        ]
        write_table(
            f"ablations_{args.preset}",
            f"Ablations, {args.epochs} epochs of {args.data}",
            ("variant", "kNN k 200 T .1 % [95 %]", f"linear {args.linear} % [95 %]", "output std x sqrt(d)", "loss",
             "paper (ImageNet, linear)"),
            rows,
        )  # fmt: skip


def run_folder(args: argparse.Namespace, name: str) -> Path:
    """Run folder of a variant."""
    folder: Path = args.out / name.replace(" ", "-").replace(",", "")
    return folder


def result_file(args: argparse.Namespace, name: str) -> Path:
    """JSON file with the table row of a variant; its name holds the epochs and the linear preset."""
    return run_folder(args, name) / f"judged-{args.epochs}-{args.linear}.json"


def evaluate_variant(args: argparse.Namespace, name: str) -> list[str]:
    """Pretrain a variant (or resume its run), evaluate it and return its table row."""
    torch.compiler.reset()  # otherwise it stops compiling after eight versions of the model
    overrides, paper_top1 = VARIANTS[name]
    size = {"batch_size": args.batch_size} if args.batch_size else {}
    trained = pretrain(
        PretrainSettings(preset=args.preset, data=f"{args.data}#train", epochs=args.epochs, precision=args.precision,
                         compile=args.compile, out=run_folder(args, name), **size, **overrides)
    )  # fmt: skip
    sets: dict[str, Any] = {"train": f"{args.data}#train", "test": f"{args.data}#test"}
    sets |= {"checkpoint": Path(trained.files["checkpoint"])}
    knn_metrics = knn(KnnSettings(preset="lightly", **sets)).metrics
    linear_metrics = linear_eval(LinearEvalSettings(preset=args.linear, **sets)).metrics
    return [name, percent(knn_metrics["top1"], knn_metrics["top1_interval"]),
            percent(linear_metrics["top1"], linear_metrics["top1_interval"]),
            f"{trained.metrics['output_std']:.3f}", f"{trained.metrics['loss']:.3f}", paper_top1]  # fmt: skip


if __name__ == "__main__":
    run(main)
