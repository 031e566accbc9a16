"""Training features of each epoch: the same in every epoch, or augmented views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

Layers = Mapping[str, torch.Tensor]


class Feed(Protocol):
    """The training features of each epoch.

    Attributes:
        name: `crop`, `views` or `end-to-end`.
        costly: whether computing an epoch's features takes much longer than training the heads on them.
    """

    name: str
    costly: bool

    def __call__(self, epoch: int) -> Layers:
        """Layer -> (N,D) float32 features of the training set for that epoch."""


class CropFeed:
    """The same features in every epoch."""

    name, costly = "crop", False

    def __init__(self, features: Layers) -> None:
        self._features = features

    def __call__(self, epoch: int) -> Layers:
        return self._features


class ViewFeed:
    """Stored views (N,V,D) of one layer, one per epoch in turn."""

    name, costly = "views", False

    def __init__(self, layer: str, views: torch.Tensor, device: torch.device) -> None:
        self._layer, self._views, self._device = layer, views, device

    def __call__(self, epoch: int) -> Layers:
        view = self._views[:, epoch % self._views.shape[1]].to(self._device, torch.float32)
        return {self._layer: view.contiguous()}
