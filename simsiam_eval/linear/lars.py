"""LARS as in SimSiam's linear evaluation: SGD wrapped in apex's LARC with clipping off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim.optimizer import ParamsT

TRUST_COEFFICIENT, EPS = 0.001, 1e-8  # apex's defaults


def larc(
    weight: torch.Tensor,
    gradient: torch.Tensor,
    weight_decay: torch.Tensor | float,
    dim: Sequence[int] | None = None,
    trust_coefficient: float = TRUST_COEFFICIENT,
    eps: float = EPS,
) -> torch.Tensor:
    """Scale a gradient by LARC's trust ratio (see `LARS`), as SGD then uses it.

    Args:
        weight, gradient: of the same shape.
        weight_decay: a number, or a tensor that broadcasts to the norms.
        dim: dimensions that the norms are taken over; default: all. Several weights stacked in one tensor lie along the
            other dimensions, each with its own trust ratio.
    """
    axes = list(range(weight.dim()) if dim is None else dim)
    weight_norm = torch.linalg.vector_norm(weight, dim=axes, keepdim=True)
    gradient_norm = torch.linalg.vector_norm(gradient, dim=axes, keepdim=True)
    ratio = trust_coefficient * weight_norm / (gradient_norm + weight_decay * weight_norm + eps)
    # torch.where instead of `if`: the step never waits for the device.
    adapt = (weight_norm > 0) & (gradient_norm > 0)
    factor = torch.where(adapt, ratio, 1.0)
    return torch.addcmul(gradient * factor, weight, factor * weight_decay * adapt)


class LARS(torch.optim.Optimizer):
    """SGD with momentum and a separate learning rate for every parameter tensor (You et al., arXiv 1708.03888).

    It computes what apex's LARC with ``clip=False`` around ``torch.optim.SGD`` computes. For each parameter tensor w with
    gradient g, where both |w| > 0 and |g| > 0:

        g <- trust_coefficient * |w| / (|g| + weight_decay * |w| + eps) * (g + weight_decay * w)

    Otherwise g stays as it is, without weight decay. Then v <- momentum * v + g and w <- w - lr * v.

    Three differences from other implementations, which matter in SimSiam's linear evaluation:

    - The gradient is also scaled at ``weight_decay=0``. lightly's LARS, and timm's by default, skip the scaling there, which
      makes them plain SGD.
    - No tensor is excluded: biases and normalization weights are scaled as well.
    - A tensor that is zero, as a bias at its start, takes its first step unscaled.

    Args:
        params: parameters to optimize, or dicts that define parameter groups.
        lr: learning rate.
        momentum: momentum factor.
        weight_decay: L2 penalty, which is part of the trust ratio.
        trust_coefficient: the eta of the paper.
        eps: added to the denominator of the trust ratio.
        nesterov: use Nesterov momentum.

    Raises:
        ValueError: a value is negative, or `nesterov` is used without momentum.

    >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = LARS([weight], lr=1.0)
    >>> weight.grad = torch.tensor([0.6, 0.8])
    >>> optimizer.step()  # the trust ratio is 0.001 * 5 / 1
    >>> weight.data
    tensor([2.9970, 3.9960])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = TRUST_COEFFICIENT,
        eps: float = EPS,
        nesterov: bool = False,
    ) -> None:
        defaults = dict(
            lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient, eps=eps
        )
        for name, value in defaults.items():
            if not value >= 0:
                raise ValueError(f"Invalid {name}: {value}")
        if nesterov and momentum == 0:
            raise ValueError("Nesterov momentum requires a momentum")
        super().__init__(params, defaults | {"nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        Args:
            closure: reevaluates the model and returns the loss.

        Raises:
            RuntimeError: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        if gradient.is_sparse:
            raise RuntimeError("LARS does not support sparse gradients")
        update = larc(parameter, gradient, group["weight_decay"], None, group["trust_coefficient"], group["eps"])
        if momentum := group["momentum"]:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = update.clone()
            else:
                state["momentum_buffer"].mul_(momentum).add_(update)
            buffer = state["momentum_buffer"]
            update = update.add(buffer, alpha=momentum) if group["nesterov"] else buffer
        parameter.add_(update, alpha=-group["lr"])
