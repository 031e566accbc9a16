"""LARS as SimSiam's linear evaluation uses it: apex's LARC with clipping off, around SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

TRUST_COEFFICIENT, EPS = 0.001, 1e-8  # apex's defaults


def larc(
    weight: torch.Tensor,
    gradient: torch.Tensor,
    decay: torch.Tensor | float,
    dim: Sequence[int] | None = None,
    trust_coefficient: float = TRUST_COEFFICIENT,
    eps: float = EPS,
) -> torch.Tensor:
    """The gradient as LARC (You et al., arXiv 1708.03888, as apex has it with clip=False) hands it to SGD.

    Where both |w| > 0 and |g| > 0:  (g + wd w) * eta |w| / (|g| + wd |w| + eps), otherwise g as it is, without weight
    decay too.

    Args:
        weight, gradient: of one shape.
        decay: wd, a number or a tensor that broadcasts to the norms.
        dim: dimensions that the norms are taken over; default: all. Several weights in one tensor, each with its own
            trust ratio, lie along the other dimensions.
    """
    axes = list(range(weight.dim()) if dim is None else dim)
    weight_norm = torch.linalg.vector_norm(weight, dim=axes, keepdim=True)
    gradient_norm = torch.linalg.vector_norm(gradient, dim=axes, keepdim=True)
    ratio = trust_coefficient * weight_norm / (gradient_norm + decay * weight_norm + eps)
    # Tensors, not `if`: no wait for the device in the middle of a step.
    adapt = (weight_norm > 0) & (gradient_norm > 0)
    factor = torch.where(adapt, ratio, 1.0)
    return torch.addcmul(gradient * factor, weight, factor * decay * adapt)


class LARS(torch.optim.Optimizer):
    """SGD with LARC's trust ratio per parameter tensor (`larc`), momentum, and no further weight decay.

    No tensor is excluded: a bias is adapted as soon as it is not zero, so its first step from zero is unscaled. The
    adaptation also happens at weight_decay = 0, where implementations that skip it would be plain SGD.

    Args:
        lr: learning rate, > 0 or 0.
        momentum: in [0, 1).
        weight_decay, trust_coefficient, eps: of `larc`.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = TRUST_COEFFICIENT,
        eps: float = EPS,
    ) -> None:
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(f"impossible lr {lr}, momentum {momentum} or weight_decay {weight_decay}")
        defaults = dict(
            lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient, eps=eps
        )
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; gradients are left as they were."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        step = larc(parameter, parameter.grad, group["weight_decay"], None, group["trust_coefficient"], group["eps"])
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = step.clone()
        else:
            state["momentum_buffer"].mul_(group["momentum"]).add_(step)
        parameter.add_(state["momentum_buffer"], alpha=-group["lr"])
