"""Batch normalization (BN): statistics averaged over many batches, or computed over all processes on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def mean_bn_statistics(model: nn.Module) -> Iterator[None]:
    """Within the block the running statistics of every BN are the mean over the block's batches, not a moving average.

    For weights that do not change: an untrained encoder, or a trained one with few images per step.

    >>> norm = nn.BatchNorm1d(1)
    >>> with mean_bn_statistics(norm):
    ...     for value in (1.0, 2.0, 6.0):
    ...         _ = norm(torch.full((4, 1), value))
    >>> norm.running_mean.item(), norm.momentum
    (3.0, 0.1)
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # in PyTorch: the cumulative mean
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def synchronize_bn(model: nn.Module, device: torch.device) -> nn.Module:
    """Give `model` BN statistics over all processes; its state dict is unchanged."""
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
    """Statistics over the batches of all processes on a CPU; torch.nn.SyncBatchNorm requires CUDA."""

    @classmethod
    def like(cls, norm: _BatchNorm) -> _CpuSyncBatchNorm:
        synchronized = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name in (*norm._parameters, *norm._buffers):
            setattr(synchronized, name, getattr(norm, name))
        return synchronized

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        dtype = input.dtype
        input = input.float() if dtype.itemsize < 4 else input  # under autocast: bfloat16 is too coarse for sums
        dims = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        # Batches may differ in size between processes: a detector's images and regions do.
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
