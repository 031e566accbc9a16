"""torchvision's ResNets with random weights, and their maps before pooling, for cases that wrap them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import get_model

from tests.encoders.cases import randomize


def network(arch: str = "resnet18", classes: int = 10) -> nn.Module:
    """A randomized torchvision network in eval mode, with a classifier."""
    return randomize(get_model(arch, weights=None, num_classes=classes))


def without_fc(arch: str = "resnet18") -> nn.Module:
    """The same whose `fc` is nn.Identity()."""
    model = network(arch)
    model.fc = nn.Identity()
    return model


def maps(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """torchvision's forward pass up to layer4, in float32."""

    def encode(images: Tensor) -> Tensor:
        output = model.maxpool(model.relu(model.bn1(model.conv1(images))))
        for index in range(1, 5):
            output = getattr(model, f"layer{index}")(output)
        return output

    return encode


def state(arch: str = "resnet18") -> tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]:
    """A trunk's state dict without classifier, and its encoder."""
    model = without_fc(arch)
    return dict(model.state_dict()), maps(model)


def prefixed(state_dict: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The state dict with a prefix before every key."""
    return {f"{prefix}{key}": value for key, value in state_dict.items()}


def linear(inputs: int, outputs: int) -> dict[str, Tensor]:
    """A random linear layer's state dict."""
    return dict(torch.nn.Linear(inputs, outputs).state_dict())
