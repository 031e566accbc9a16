"""The backends by name. Each says by itself whether its library is there."""

from __future__ import annotations

from simsiam_eval.errors import UsageError
from tasks.detection.backends.base import Backend
from tasks.detection.backends.detectron2.backend import Detectron2Backend
from tasks.detection.backends.detectron2.names import NO_CIFAR_STEM
from tasks.detection.backends.torchvision.backend import TorchvisionBackend


def choose_backend(name: str, stem: str, bf16_on_cpu: bool = False) -> Backend:
    """The backend of --backend for an encoder with this stem; `bf16_on_cpu`: with --precision bf16, without a GPU.

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
        raise UsageError(NO_CIFAR_STEM.format("--backend"))
    if bf16_on_cpu:
        raise UsageError(
            "detectron2 trains in bf16 on CUDA alone: leave out --precision bf16, or give --backend torchvision."
        )
    return reference
