"""The processes of torchrun, from the point of view of one of them; a single process is a group of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from simsiam_eval.errors import UsageError
from simsiam_eval.runtime.device import resolve_device
from simsiam_eval.runtime.launch import torchrun_group

# The others wait while one process reads a whole dataset (fingerprint, online kNN), which can take longer than torch's
# default of 30 minutes. If a process dies, torchrun ends the others.
_PATIENCE = timedelta(days=7)
T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of this run, as one of them sees it.

    Attributes:
        device: where this process computes.
        rank, world: index of this process, and their number.
        control: gloo group for flags, which must not wait for a GPU; None on CPUs, whose default group is gloo.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    control: Any = None

    @property
    def main(self) -> bool:
        """Whether this is the main process (rank 0), which writes files and messages."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This process's part of a batch of `rows`, a multiple of `world`."""
        part = rows // self.world
        return slice(self.rank * part, (self.rank + 1) * part)

    def largest(self, value: int) -> int:
        """The largest `value` of all processes; every process gets the same answer."""
        if self.world == 1:
            return value
        flag = torch.tensor(value)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.control)
        return int(flag)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            dist.barrier(group=self.control)

    def first_text(self, text: str) -> str:
        """The first nonempty `text` in order of rank; every process gets the same answer."""
        return next(filter(None, self.gathered(text)), "")

    def gathered(self, value: T) -> list[T]:
        """The `value` of each process, in order of rank; every process gets the same list."""
        if self.world == 1:
            return [value]
        values = [value] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values

    def total(self, values: Tensor) -> Tensor:
        """Sum of `values` over the processes."""
        if self.world == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the process group that torchrun describes in the environment; a single process without it.

    Under torchrun `auto` and `cuda` mean the GPU of the local rank. Processes communicate by NCCL on GPUs, gloo on CPUs.

    Raises:
        UsageError: the device does not exist, or the environment has only some of torchrun's variables.
    """
    group = torchrun_group()
    if group is None or group[1] == 1:
        yield Processes(resolve_device(device))
        return
    names = ["MASTER_ADDR", "MASTER_PORT", *(["LOCAL_RANK"] if resolve_device(device).type == "cuda" else [])]
    if missing := [name for name in names if name not in os.environ]:
        raise UsageError(
            f"WORLD_SIZE={group[1]} is set but {missing[0]} is not: start the command with torchrun, or unset WORLD_SIZE."
        )
    chosen = resolve_device(device)
    if chosen.type == "cuda":
        chosen = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        control = dist.new_group(backend="gloo", timeout=_PATIENCE) if chosen.type == "cuda" else None
        yield Processes(chosen, dist.get_rank(), dist.get_world_size(), control)
    finally:
        dist.destroy_process_group()
