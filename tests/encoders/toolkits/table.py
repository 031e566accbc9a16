"""All builders; importing the modules registers their cases."""

from tests.encoders.cases import BUILDERS
from tests.encoders.toolkits import (
    containers,
    formats,
    huggingface,
    lightly,
    lightly_train,
    objects,
    segmentation,
    timm,
    torchvision,
)

__all__ = [
    "BUILDERS",
    "containers",
    "formats",
    "huggingface",
    "lightly",
    "lightly_train",
    "objects",
    "segmentation",
    "timm",
    "torchvision",
]
