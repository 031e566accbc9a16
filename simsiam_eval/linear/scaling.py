"""What happens to features before a linear head reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from simsiam_eval.features.unit_length import unit_length
from simsiam_eval.vocabulary import SCALINGS

_BLOCK = 1024  # rows


@dataclass(frozen=True)
class Scaling:
    """`none`; `l2`: every row to length one; `standard`: every feature to mean 0 and standard deviation 1 over the
    training rows, whose `mean` and `std` (D,) are kept."""

    name: str
    mean: torch.Tensor | None = None
    std: torch.Tensor | None = None

    @classmethod
    def fit(cls, name: str, features: torch.Tensor) -> Self:
        """The scaling `name` for training features (N,D); a feature that is constant keeps its spread."""
        if name not in SCALINGS:
            raise ValueError(f"no scaling {name!r}: {', '.join(SCALINGS)}")
        if name != "standard":
            return cls(name)
        # In float64, whose squares neither overflow nor underflow; off the first row, so that a constant is exactly one.
        first, count = features[0].double(), len(features)
        total, squares = torch.zeros_like(first), torch.zeros_like(first)
        for block in features.split(_BLOCK):
            off = block.double().sub_(first)
            total += off.sum(dim=0)
            squares += off.square_().sum(dim=0)
        mean, variance = total / count, (squares / count - (total / count).square_()).clamp_(min=0)
        std = variance.sqrt_().to(features)
        return cls(name, (mean + first).to(features), torch.where(std > 0, std, 1.0))

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(B,D) -> (B,D); `none` gives back what it was given."""
        if self.name == "l2":
            return unit_length(features)
        if self.mean is not None and self.std is not None:
            return (features - self.mean).div_(self.std)
        return features

    def to(self, device: torch.device) -> Scaling:
        tensors = (None if one is None else one.to(device) for one in (self.mean, self.std))
        return Scaling(self.name, *tensors)
