"""Choose the backend for an encoder."""

from __future__ import annotations

from simsiam_eval.errors import UsageError
from tasks.detection.backends.base import Backend
from tasks.detection.backends.detectron2.backend import Detectron2Backend
from tasks.detection.backends.detectron2.weights import NO_CIFAR_STEM
from tasks.detection.backends.torchvision.backend import TorchvisionBackend


def choose_backend(name: str, stem: str, bf16_on_cpu: bool = False) -> Backend:
    """The backend for an encoder with this stem.

    Args:
        name: auto, detectron2 or torchvision.
        stem: imagenet or cifar.
        bf16_on_cpu: whether bf16 is requested without a GPU.

    Raises:
        UsageError: the backend cannot be used on this machine or for this encoder.
    """
    reference = Detectron2Backend()
    if name == "torchvision" or (name == "auto" and (reference.unavailable() or stem == "cifar")):
        return TorchvisionBackend()
    reason = reference.unavailable()
    if reason:
        raise UsageError(reason)
    if stem == "cifar":
        raise UsageError(NO_CIFAR_STEM.format("--backend"))
    if bf16_on_cpu:
        raise UsageError(
            "detectron2 supports --precision bf16 on CUDA only; use --precision float32 or --backend torchvision."
        )
    return reference
