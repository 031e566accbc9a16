"""`--num-gpus N`: the same command, started by torchrun in N processes (design, contract 8: no launcher of our own)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from simsiam_eval.errors import UsageError
from simsiam_eval.runtime.machine import usable_cores

_COMMANDS = ("cli", "simsiam-eval")


def torchrun_group() -> tuple[int, int] | None:
    """The rank of this process and how many torchrun started, or None without it. (RANK alone is another scheduler's.)

    Raises:
        UsageError: the variables hold no such numbers.
    """
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world is None:
        return None
    try:
        found = int(rank), int(world)
    except ValueError:
        found = 0, 0
    if not 0 <= found[0] < found[1]:
        raise UsageError(
            f"RANK={rank} and WORLD_SIZE={world} are no group of processes: start torchrun, or unset them."
        )
    return found


def under_torchrun(count: int | None, device: str) -> None:
    """Go on where this is one of `count` processes (None: of any number); else become torchrun, which starts them.

    Raises:
        UsageError: torchrun started another number, there are not so many GPUs, or this is no command line.
    """
    if (group := torchrun_group()) is not None:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", group[1]))
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
    from simsiam_eval.runtime.device import resolve_device

    chosen = resolve_device(device)
    if chosen.type != "cuda":
        return
    import torch

    if chosen.index is not None:
        raise UsageError(f"--device {device} is one GPU and --num-gpus {count} are several: give --device cuda.")
    if count > torch.cuda.device_count():
        raise UsageError(f"--num-gpus {count}, but this machine shows {torch.cuda.device_count()}.")
