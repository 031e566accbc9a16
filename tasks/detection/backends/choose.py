"""Choose the backend for an encoder."""

from __future__ import annotations

from simsiam_eval.errors import UsageError
from tasks.detection.backends.base import Backend
from tasks.detection.backends.detectron2.backend import Detectron2Backend
from tasks.detection.backends.torchvision.backend import TorchvisionBackend


def choose_backend(name: str, unsupported: str | None, bf16_on_cpu: bool = False) -> Backend:
    """The backend for the encoders of a command.

    Args:
        name: auto, detectron2 or torchvision.
        unsupported: why detectron2 cannot have their trunks, as from `unsupported_trunk`; None if it can.
        bf16_on_cpu: whether bf16 is requested without a GPU.

    Raises:
        UsageError: the backend cannot be used on this machine or for this encoder.
    """
    reference = Detectron2Backend()
    if name == "torchvision" or (name == "auto" and (reference.unavailable() or unsupported)):
        return TorchvisionBackend()
    reason = reference.unavailable()
    if reason:
        raise UsageError(reason)
    if unsupported:
        raise UsageError(unsupported)
    if bf16_on_cpu:
        raise UsageError(
            "detectron2 supports --precision bf16 on CUDA only; use --precision float32 or --backend torchvision."
        )
    return reference
