"""The ablations that made the paper, beside its signs: one short pretraining each, kNN and LARS linear evaluation.

python benchmarks/ablations.py --data cifar10:DIR --epochs 100 --out FOLDER

A stopped one goes on where it was; the table has every variant that was judged so far, in FOLDER.
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

# name: (what differs from the preset, the paper's ImageNet linear top-1 at 100 epochs)
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
    parser.add_argument("--data", required=True, help="Image source with a training and a test split.")
    parser.add_argument("--preset", default="cifar10")
    parser.add_argument("--linear", default="simsiam-code", help="Preset of the linear evaluation.")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, help="Default: the preset's.")
    parser.add_argument("--precision", default="bf16" if torch.cuda.is_available() else "float32")
    parser.add_argument("--compile", default="cuda-graphs" if torch.cuda.is_available() else "off")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the runs.")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    asked = parser.parse_args()
    for name in asked.only:
        if not judged_file(asked, name).exists():
            judged_file(asked, name).write_text(json.dumps(judged(asked, name)))
        rows = [json.loads(path.read_text()) for path in (judged_file(asked, one) for one in VARIANTS) if path.exists()]
        write_table(
            f"ablations_{asked.preset}",
            f"Ablations, {asked.epochs} epochs of {asked.data}",
            ("variant", "kNN k 200 T .1 % [95 %]", f"linear {asked.linear} % [95 %]", "output std x sqrt(d)", "loss",
             "paper (ImageNet, linear)"),
            rows,
        )  # fmt: skip


def folder_of(asked: argparse.Namespace, name: str) -> Path:
    """Run folder of a variant."""
    folder: Path = asked.out / name.replace(" ", "-").replace(",", "")
    return folder


def judged_file(asked: argparse.Namespace, name: str) -> Path:
    """Where the line of a variant is kept, under the epochs and protocol that it was judged by."""
    return folder_of(asked, name) / f"judged-{asked.epochs}-{asked.linear}.json"


def judged(asked: argparse.Namespace, name: str) -> list[str]:
    """Pretrain a variant, as far as it is not yet, and judge it: its line of the table."""
    torch.compiler.reset()  # which gives up on a model that it has seen in eight forms
    changed, paper = VARIANTS[name]
    size = {"batch_size": asked.batch_size} if asked.batch_size else {}
    trained = pretrain(
        PretrainSettings(preset=asked.preset, data=f"{asked.data}#train", epochs=asked.epochs, precision=asked.precision,
                         compile=asked.compile, out=folder_of(asked, name), **size, **changed)
    )  # fmt: skip
    sets: dict[str, Any] = {"train": f"{asked.data}#train", "test": f"{asked.data}#test"}
    sets |= {"checkpoint": Path(trained.files["checkpoint"])}
    near = knn(KnnSettings(preset="lightly", **sets)).metrics
    linear = linear_eval(LinearEvalSettings(preset=asked.linear, **sets)).metrics
    return [name, percent(near["top1"], near["top1_interval"]), percent(linear["top1"], linear["top1_interval"]),
            f"{trained.metrics['output_std']:.3f}", f"{trained.metrics['loss']:.3f}", paper]  # fmt: skip


if __name__ == "__main__":
    run(main)
