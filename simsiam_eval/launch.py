"""`--num-gpus N`: the same command, started by torchrun in N processes (design, contract 8: no launcher of our own)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from simsiam_eval.cores import usable_cores
from simsiam_eval.errors import UsageError

_COMMANDS = ("cli", "simsiam-eval")


def under_torchrun(count: int | None, device: str) -> None:
    """Go on where this is one of `count` processes (None: of any number); else become torchrun, which starts them.

    Raises:
        UsageError: torchrun started another number, there are not so many GPUs, or this is no command line.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        if count not in (None, here):
            raise UsageError(f"--num-gpus {count}, but torchrun started {here} here: leave out one of the two.")
        return
    if count in (None, 1):
        return
    _check_devices(count, device)
    if Path(sys.argv[0]).stem not in _COMMANDS:
        raise UsageError(
            f"--num-gpus is of the command line: start this program with torchrun --nproc-per-node {count}."
        )
    # Without it torchrun gives each process one thread, and says so.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *torchrun, *sys.argv])


def _check_devices(count: int, device: str) -> None:
    from simsiam_eval.device import resolve_device

    chosen = resolve_device(device)
    if chosen.type != "cuda":
        return
    import torch

    if chosen.index is not None:
        raise UsageError(f"--device {device} is one GPU and --num-gpus {count} are several: give --device cuda.")
    if count > torch.cuda.device_count():
        raise UsageError(f"--num-gpus {count}, but this machine shows {torch.cuda.device_count()}.")
