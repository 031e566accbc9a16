"""Encoders that are named, not recognized: `timm:NAME`, `timm:NAME@FILE` and `hf:FOLDER`; and those in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from simsiam_eval.encoders.backbones.backbone import Backbone
from simsiam_eval.encoders.backbones.huggingface import load_hugging_face
from simsiam_eval.encoders.backbones.timm_backbone import TimmEncoder
from simsiam_eval.encoders.backbones.timm_weights import load_timm
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.encoder import Encoder, ResNetEncoder
from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import HUGGING_FACE, TIMM


def load_backbone(choice: EncoderChoice, layer: str | Sequence[str] = "pool", pooling: str = "auto") -> Backbone:
    """The encoder of a named checkpoint.

    Raises:
        DataError: the weights are missing or are not complete.
        UsageError: the library is missing, or it has no such network, or an option, the layer or the pooling does not fit.
    """
    choice.reject_trunk_options()
    if choice.branch is not None and choice.checkpoint.startswith(HUGGING_FACE):
        raise UsageError(f"--branch cannot be used with {choice.checkpoint}, a folder with one network.")
    load = load_timm if choice.checkpoint.startswith(TIMM) else load_hugging_face
    return load(choice, layer, pooling)


def encoder_in_training(trunk: Any, arch: str, stem: str | None) -> Encoder:
    """The encoder of a trunk that is being trained, a ResNet of torchvision or a network of timm."""
    if stem is None:
        network: nn.Module = trunk
        return TimmEncoder(network, arch)
    return ResNetEncoder(trunk, arch, stem)
