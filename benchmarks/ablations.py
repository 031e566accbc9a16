"""The ablations that made the paper, beside its signs: one short pretraining each, kNN and LARS linear evaluation.

python benchmarks/ablations.py --data cifar10:DIR --epochs 100 --out FOLDER     (a stopped one goes on where it was)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from report import write_table

from pretrain.loop import pretrain
from pretrain.recipe import PretrainSettings
from simsiam_eval.result import percent
from tasks.knn import KnnSettings, knn
from tasks.linear_eval import linear_eval
from tasks.linear_settings import LinearEvalSettings

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
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the runs.")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    asked = parser.parse_args()
    size = {"batch_size": asked.batch_size} if asked.batch_size else {}
    rows = []
    for name in asked.only:
        changed, paper = VARIANTS[name]
        run = pretrain(
            PretrainSettings(preset=asked.preset, data=f"{asked.data}#train", epochs=asked.epochs, precision=asked.precision,
                             out=asked.out / name.replace(" ", "-").replace(",", ""), **size, **changed)
        )  # fmt: skip
        sets: dict[str, Any] = {"train": f"{asked.data}#train", "test": f"{asked.data}#test"}
        sets |= {"checkpoint": Path(run.files["checkpoint"])}
        near = knn(KnnSettings(preset="lightly", **sets)).metrics
        linear = linear_eval(LinearEvalSettings(preset=asked.linear, **sets)).metrics
        rows.append(
            [name, percent(near["top1"], near["top1_interval"]), percent(linear["top1"], linear["top1_interval"]),
             f"{run.metrics['output_std']:.3f}", f"{run.metrics['loss']:.3f}", paper]
        )  # fmt: skip
        write_table(
            f"ablations_{asked.preset}",
            f"Ablations, {asked.epochs} epochs of {asked.data}",
            ("variant", "kNN k 200 T .1 % [95 %]", f"linear {asked.linear} % [95 %]", "output std x sqrt(d)", "loss",
             "paper (ImageNet, linear)"),
            rows,
        )  # fmt: skip


if __name__ == "__main__":
    main()
