"""Scaling of features before a linear head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from simsiam_eval.features.unit_length import unit_length
from simsiam_eval.vocabulary import SCALINGS

_BLOCK = 1024  # rows


@dataclass(frozen=True)
class Scaling:
    """`none`; `l2`: rows of unit length; `standard`: features of mean 0 and standard deviation 1 over the training rows, by
    their `mean` and `std` (D,)."""

    name: str
    mean: torch.Tensor | None = None
    std: torch.Tensor | None = None

    @classmethod
    def fit(cls, name: str, features: torch.Tensor) -> Self:
        """The scaling `name` for training features (N,D); constant features are only centered.

        Raises:
            ValueError: there is no such scaling.
        """
        if name not in SCALINGS:
            raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, got {name!r}")
        if name != "standard":
            return cls(name)
        # In float64, where the squares neither overflow nor underflow; relative to the first row, so that the variance of a
        # constant feature is exactly 0.
        first, count = features[0].double(), len(features)
        total, squares = torch.zeros_like(first), torch.zeros_like(first)
        for block in features.split(_BLOCK):
            differences = block.double().sub_(first)
            total += differences.sum(dim=0)
            squares += differences.square_().sum(dim=0)
        mean, variance = total / count, (squares / count - (total / count).square_()).clamp_(min=0)
        std = variance.sqrt_().to(features)
        return cls(name, (mean + first).to(features), torch.where(std > 0, std, 1.0))

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(B,D) -> (B,D); `none` returns its argument."""
        if self.name == "l2":
            return unit_length(features)
        if self.mean is not None and self.std is not None:
            return (features - self.mean).div_(self.std)
        return features

    def to(self, device: torch.device) -> Scaling:
        moments = (None if moment is None else moment.to(device) for moment in (self.mean, self.std))
        return Scaling(self.name, *moments)
