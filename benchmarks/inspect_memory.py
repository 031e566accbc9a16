"""Memory and processor time of `inspect`, for a checkpoint with and without 2 GB of optimizer state.

Each row is one process: the imports of torch and torchvision alone, and the whole command.

    python benchmarks/inspect_memory.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from report import write_table

ROOT = Path(__file__).parent.parent
TENSORS, NUMBERS = 20, 25_000_000  # of the optimizer state: 2 GB
CHILD = """
import json, sys, time
exec(sys.argv[1])
# Not ru_maxrss, which a process inherits from the one that started it.
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([peak, time.process_time()]))
"""
INSPECT = """
import cli, contextlib, io
with contextlib.redirect_stdout(io.StringIO()):
    cli.main(["inspect", sys.argv[2]], standalone_mode=False)
"""


def measure(code: str, *arguments: str) -> tuple[float, float]:
    """Peak memory in GB and processor time in seconds of a process that runs the code."""
    command = [sys.executable, "-c", CHILD, code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    peak, seconds = json.loads(done.stdout.splitlines()[-1])
    return peak / 1e9, seconds


def checkpoint(path: Path, optimizer_tensors: int) -> str:
    """Write a checkpoint of the reference with a ResNet-50; returns its path."""
    import torch

    from simsiam_eval.encoders.encoder import build_trunk

    state = {f"module.encoder.{key}": value for key, value in build_trunk("resnet50").state_dict().items()}
    momentum = {number: {"momentum_buffer": torch.randn(NUMBERS)} for number in range(optimizer_tensors)}
    optimizer = {"state": momentum, "param_groups": [{"lr": 0.1, "params": list(momentum)}]}
    torch.save({"epoch": 99, "arch": "resnet50", "state_dict": state, "optimizer": optimizer}, path)
    return str(path)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        small, large = checkpoint(Path(folder, "small.pth"), 0), checkpoint(Path(folder, "large.pth"), TENSORS)
        runs = {
            "import torch": ("import torch",),
            "import torchvision": ("import torchvision",),
            "inspect, 0.1 GB file": (INSPECT, small),
            "inspect, 2.1 GB file": (INSPECT, large),
        }
        measured = {name: measure(*run) for name, run in runs.items()}
    rows = [[name, f"{peak:.2f} GB", f"{seconds:.1f} s"] for name, (peak, seconds) in measured.items()]
    write_table("inspect_memory", "Memory of inspect", ["process", "peak memory", "processor time"], rows)


if __name__ == "__main__":
    main()
