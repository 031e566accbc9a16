"""The demo for several seeds: does SimSiam beat the untrained encoder, and does it collapse without stop-gradient?"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import write_table

from simsiam_eval.wording import percent

CLI = Path(__file__).parent.parent / "cli.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Random seeds.")
    parser.add_argument(
        "--epochs", type=int, help="Number of pretraining epochs, for a short test run (default: the demo's)."
    )
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(CLI), "demo", "--out", f"{folder}/demo", "--seed", str(seed), "--json"]
            command += ["--epochs", str(args.epochs)] if args.epochs else []
            started = time.perf_counter()
            metrics = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["metrics"]
            seconds = time.perf_counter() - started
        for encoder, results in metrics.items():
            accuracies = [percent(results[name], results[f"{name}_interval"]) for name in ("knn_top1", "linear_top1")]
            std = "-" if results.get("output_std") is None else f"{results['output_std']:.3f}"
            rows.append([str(seed), encoder.replace("_", " "), *accuracies, std, f"{seconds:.0f}"])
    write_table(
        "demo_seeds",
        "The demo for several seeds",
        ("seed", "features", "kNN top-1 % [95 %]", "linear top-1 % [95 %]", "output std x sqrt(d)", "demo, s"),
        rows,
        [
            "The preset was chosen on the split val and seed 11; these are the test images.",
            f"OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY', 'PASSIVE (the default)')}.",
        ],
    )


if __name__ == "__main__":
    main()
