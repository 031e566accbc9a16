"""float32 matrix products on a CPU by the fastest library."""

from __future__ import annotations

from functools import cache

import torch


def times_transposed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a (M,K) times b (N,K) transposed: (M,N) float32, without gradients; b may be a transposed view.

    torch.mm calls MKL, which uses half of what an AMD processor can do; oneDNN, which torch brings along for its
    convolutions, does not (benchmarks/results/linear_speed.md has the ratio).
    """
    if a.device.type == "cpu" and _onednn_multiplies():
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return a @ b.T


@cache
def _onednn_multiplies() -> bool:
    """Whether this torch has the operator, and it is right."""
    a, b = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(3, 4).T
    try:
        return torch.equal(torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""), a @ b.T)
    except (AttributeError, RuntimeError, TypeError):
        return False
