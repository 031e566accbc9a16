"""The backends by name. Each says by itself whether its library is there."""

from __future__ import annotations

from simsiam_eval.errors import UsageError
from tasks.detection.backend import Backend
from tasks.detection.detectron2_backend import Detectron2Backend
from tasks.detection.torchvision_backend import TorchvisionBackend


def choose_backend(name: str, stem: str) -> Backend:
    """The backend of --backend for an encoder with this stem.

    Raises:
        UsageError: it cannot be used here; the sentence says what to do.
    """
    reference = Detectron2Backend()
    if name == "torchvision" or (name == "auto" and (reference.available() or stem == "cifar")):
        return TorchvisionBackend()
    why = reference.available()
    if why:
        raise UsageError(why)
    if stem == "cifar":
        raise UsageError(
            "detectron2's ResNets have a 7x7 stem, and this encoder has the 3x3 one of CIFAR: use --backend torchvision."
        )
    return reference
