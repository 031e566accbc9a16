"""LARS as SimSiam's linear evaluation uses it: apex's LARC with clipping off, around SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class LARS(torch.optim.Optimizer):
    """SGD with a trust ratio per parameter tensor (You et al., arXiv 1708.03888, as LARC with clip=False).

    Where both |w| > 0 and |g| > 0:  g <- (g + wd w) * eta |w| / (|g| + wd |w| + eps), otherwise g is left as it is
    (without weight decay too); then SGD with momentum and no further weight decay. No tensor is excluded: a bias is
    adapted as soon as it is not zero, so its first step from zero is unscaled. The adaptation also happens at
    weight_decay = 0, where implementations that skip it would be plain SGD.

    Args:
        lr: learning rate, > 0 or 0.
        momentum: in [0, 1).
        weight_decay: wd above.
        trust_coefficient: eta above, apex's default.
        eps: apex's default.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
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
        gradient, decay = parameter.grad, group["weight_decay"]
        assert gradient is not None
        weight_norm, gradient_norm = parameter.norm(), gradient.norm()
        ratio = group["trust_coefficient"] * weight_norm / (gradient_norm + decay * weight_norm + group["eps"])
        adapted = (gradient + decay * parameter) * ratio
        # torch.where, not `if`: no wait for the device in the middle of a step.
        step = torch.where((weight_norm > 0) & (gradient_norm > 0), adapted, gradient)
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = step.clone()
        else:
            state["momentum_buffer"].mul_(group["momentum"]).add_(step)
        parameter.add_(state["momentum_buffer"], alpha=-group["lr"])
