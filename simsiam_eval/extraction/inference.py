"""The encoder prepared for fast inference: pixels in, float32 features out."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from simsiam_eval.encoders.encoder import Encoder, ResNetEncoder
from simsiam_eval.encoders.report import weights_sha256
from simsiam_eval.extraction.fused_blocks import can_fuse, fuse_blocks
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.runtime.compiler import require_compiler


class FeatureModel:
    """An encoder optimized for extracting features.

    The memory format is channels-last. In ResNets of torchvision, batch normalizations are folded into the convolutions,
    and on a CPU also ReLUs and residual sums (fused_blocks.py). Features are the same up to rounding. With `precision`
    bf16, weights and activations are bfloat16; pooling stays float32, except inside the models of other libraries.

    Args:
        encoder: is copied, not changed.
        preprocessing: of the images; here only the normalization.
        device: runs the encoder.
        precision: float32 or bf16.
        compile: whether to use torch.compile, which takes a minute and requires a compiler; blocks are then not fused.
        flip_average: whether to average the features of the image and its mirror image.
        normalize: whether to L2-normalize the features, after averaging.
        fuse: whether to fuse blocks where the processor supports it.

    Raises:
        UsageError: `compile` without a compiler.
    """

    def __init__(
        self,
        encoder: Encoder,
        preprocessing: Preprocessing,
        device: torch.device,
        precision: str = "float32",
        compile: bool = False,
        flip_average: bool = False,
        normalize: bool = False,
        fuse: bool = True,
    ) -> None:
        if compile:
            require_compiler(device)
        self.device, self.preprocessing = device, preprocessing
        self.flip_average, self.normalize = flip_average, normalize
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        model = copy.deepcopy(encoder).eval().requires_grad_(False)
        if isinstance(model, ResNetEncoder):
            model.trunk.fc = nn.Identity()  # type: ignore[assignment]  # during pretraining it is the projector
            model = fold_batch_norms(model)
        model = model.to(device=device, dtype=self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if fuse and isinstance(model, ResNetEncoder) and not compile and can_fuse(device, precision):
            fuse_blocks(model.trunk)
        self._encoder = model
        self._model: Any = _PooledInFloat32(model)
        self._compiling = threading.Lock() if compile else None
        if compile:
            self._model = torch.compile(self._model, dynamic=False)

    def weights_sha256(self) -> str:
        """Hash of the weights, with the batch normalizations folded into them."""
        return weights_sha256(self._encoder.trunk.state_dict(), {})

    def __call__(self, pixels: Tensor) -> list[NDArray[np.float32]]:
        """Images (B,C,H,W), resized and cropped, on any device -> features (B,D) of each layer of the encoder."""
        return self.start(pixels).read()

    def start(self, pixels: Tensor) -> PendingFeatures:
        """Like a call, but on a GPU without waiting for the result."""
        # One thread makes the first call; otherwise every thread would compile.
        with torch.no_grad(), self._compiling or nullcontext():
            images = self.preprocessing.normalize(pixels.to(self.device, non_blocking=True))
            images = images.to(self.dtype, memory_format=torch.channels_last)
            features: Sequence[Tensor] = self._model(images)
            if self.flip_average:
                mirrored = self._model(images.flip(3).contiguous(memory_format=torch.channels_last))
                features = [
                    (plain.float() + flipped.float()) / 2 for plain, flipped in zip(features, mirrored, strict=True)
                ]
            self._compiling = None
            if self.normalize:
                features = [nn.functional.normalize(layer.float(), dim=1) for layer in features]
            return PendingFeatures([layer.float() for layer in features])


class PendingFeatures:
    """Features that a device may still be computing; `read` waits for them."""

    def __init__(self, features: Sequence[Tensor]) -> None:
        self._event = None
        if features[0].device.type == "cuda":
            self._features = [
                torch.empty(layer.shape, pin_memory=True).copy_(layer, non_blocking=True) for layer in features
            ]
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(features[0].device))
        else:
            self._features = list(features)

    def read(self) -> list[NDArray[np.float32]]:
        """Features (B,D) of each layer."""
        if self._event is not None:
            self._event.synchronize()
        return [layer.numpy() for layer in self._features]


class _PooledInFloat32(nn.Module):
    """All layers of the encoder, pooled in float32: bfloat16 is too coarse for a mean over 49 positions."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.encoder.all_layers(images, pool_in=torch.float32)


def fold_batch_norms(model: ResNetEncoder) -> ResNetEncoder:
    """Fold the batch normalizations of a ResNet in eval mode into the convolutions before them, in place.

    Raises:
        ValueError: a batch normalization follows no convolution, unlike in torchvision's ResNets.
    """
    for parent in list(model.modules()):
        children = dict(parent.named_children())
        pairs = [(name, name.replace("conv", "bn")) for name in children if name.startswith("conv")]
        if isinstance(parent, nn.Sequential) and len(children) == 2 and isinstance(children.get("1"), _BatchNorm):
            pairs.append(("0", "1"))
        for conv, norm in pairs:
            setattr(parent, conv, fuse_conv_bn_eval(children[conv], children[norm]))  # type: ignore[arg-type, type-var]
            setattr(parent, norm, nn.Identity())
    unfolded = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if unfolded:
        raise ValueError(f"not a ResNet of torchvision: {unfolded[0]} follows no convolution")
    return model
