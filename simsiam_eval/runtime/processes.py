"""Several processes under torchrun: who this one is, and BN over all of them on any device. One process needs none of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from simsiam_eval.errors import UsageError
from simsiam_eval.runtime.device import resolve_device
from simsiam_eval.runtime.launch import torchrun_group

# One process may have to read a whole dataset (its fingerprint, the online kNN) while the others wait, longer than torch's
# half an hour; where one dies torchrun ends the others.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """The processes of this run, as one of them sees it.

    Attributes:
        rank, world: number of this process, and how many there are.
        device: where this one computes.
        control: a gloo group for flags, which need no GPU and must not wait for one.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    control: Any = None

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This process's part of a batch of `rows`, which `world` divides."""
        part = rows // self.world
        return slice(self.rank * part, (self.rank + 1) * part)

    def largest(self, value: int) -> int:
        """The largest `value` that any process gave: every process gets the same answer."""
        if self.world == 1:
            return value
        flag = torch.tensor(value)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.control)
        return int(flag)

    def first_text(self, text: str) -> str:
        """The `text` of the first process that has one: every process gets the same answer."""
        if self.world == 1:
            return text
        texts = [""] * self.world
        dist.all_gather_object(texts, text, group=self.control)
        return next(filter(None, texts), "")

    def total(self, values: Tensor) -> Tensor:
        """Sum of `values` over the processes."""
        if self.world == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the group that torchrun describes in the environment; alone without it.

    Under torchrun `auto` and `cuda` mean the GPU of the local rank; on the CPU the processes talk by gloo.

    Raises:
        UsageError: no such device here, or a part only of what torchrun sets in the environment.
    """
    group = torchrun_group()
    if group is None or group[1] == 1:
        yield Processes(resolve_device(device))
        return
    names = ["MASTER_ADDR", "MASTER_PORT", *(["LOCAL_RANK"] if resolve_device(device).type == "cuda" else [])]
    if missing := [name for name in names if name not in os.environ]:
        raise UsageError(f"WORLD_SIZE={group[1]} is set and {missing[0]} is not: start torchrun, or unset it.")
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


def synchronize_bn(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with BN statistics over all processes; its state dict is unchanged."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, _CpuSyncBatchNorm):
                setattr(parent, name, _CpuSyncBatchNorm.like(child))
    return model


class _Sum(torch.autograd.Function):
    """Sum over the processes; every process's gradient reaches every process's input."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # type: ignore[override]
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


class _CpuSyncBatchNorm(_BatchNorm):
    """What torch.nn.SyncBatchNorm, which wants CUDA, does: statistics over the batches of all processes."""

    @classmethod
    def like(cls, norm: _BatchNorm) -> _CpuSyncBatchNorm:
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for kept in (*norm._parameters, *norm._buffers):
            setattr(made, kept, getattr(norm, kept))
        return made

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        dtype = input.dtype
        input = input.float() if dtype.itemsize < 4 else input  # under autocast: a sum of bfloat16 would be none
        dims = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        # The processes' parts need not be equal: a detector's images and regions are of all sizes and numbers.
        sums = _Sum.apply(torch.cat((input.sum(dims), input.new_tensor([input.numel() // input.shape[1]]))))
        mean, count = sums[:-1] / sums[-1].detach(), sums[-1].detach()
        centered = input - mean.view(shape)
        variance = _Sum.apply(centered.square().sum(dims)) / count
        with torch.no_grad():
            assert self.num_batches_tracked is not None and self.running_mean is not None
            assert self.running_var is not None
            self.num_batches_tracked += 1
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
        out = centered * torch.rsqrt(variance + self.eps).view(shape)
        return (out if not self.affine else out * self.weight.view(shape) + self.bias.view(shape)).to(dtype)
