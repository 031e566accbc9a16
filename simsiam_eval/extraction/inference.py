"""The encoder made ready for speed: uint8 pixels in, float32 features out, nothing computed that is not needed."""

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

from simsiam_eval.encoders.checkpoint import weights_sha256
from simsiam_eval.encoders.encoder import Encoder
from simsiam_eval.extraction.fused_blocks import can_fuse, fuse_blocks
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.runtime.compiler import refuse_without_compiler


class FeatureModel:
    """What extraction calls for every block of images.

    The batch normalizations are folded into the convolutions, on a CPU ReLUs and sums too, and the memory format is
    channels-last: the same features up to float32's rounding. With `precision` bf16 weights and activations are bfloat16;
    pooling stays float32.

    Args:
        encoder: left as it is; a copy is changed.
        compile: through torch.compile instead, which takes a minute and a compiler.
        flip_average: features are the mean of those of the image and of its mirror image.
        normalize: features are scaled to length one, after the mean.

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
    ) -> None:
        if compile:
            refuse_without_compiler(device)
        self.device, self.preprocessing = device, preprocessing
        self.flip_average, self.normalize = flip_average, normalize
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        ready = copy.deepcopy(encoder).eval().requires_grad_(False)
        ready.trunk.fc = nn.Identity()  # type: ignore[assignment]  # a projector, while it is being pretrained
        ready = fold_batch_norms(ready)
        ready = ready.to(device=device, dtype=self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not compile and can_fuse(device, precision):
            fuse_blocks(ready.trunk)
        self._encoder = ready
        self._model: Any = _PooledInFloat32(ready)
        self._compiling = threading.Lock() if compile else None
        if compile:
            self._model = torch.compile(self._model, dynamic=False)

    def weights_sha256(self) -> str:
        """Of the weights with the batch normalizations in them, of which a CPU's kernels read a copy in their own order."""
        return weights_sha256(self._encoder.trunk.state_dict())

    def __call__(self, pixels: Tensor) -> list[NDArray[np.float32]]:
        """(B,3,H,W) uint8, of any device -> (B,D) of each layer of the encoder."""
        return self.start(pixels).read()

    def start(self, pixels: Tensor) -> PendingFeatures:
        """As a call, but on a GPU without waiting for the result."""
        # The first is alone: of threads that all find nothing compiled each would compile.
        with torch.no_grad(), self._compiling or nullcontext():
            images = self.preprocessing.normalize(pixels.to(self.device, non_blocking=True))
            images = images.to(self.dtype, memory_format=torch.channels_last)
            features: Sequence[Tensor] = self._model(images)
            if self.flip_average:
                mirrored = self._model(images.flip(3).contiguous(memory_format=torch.channels_last))
                features = [(one.float() + two.float()) / 2 for one, two in zip(features, mirrored, strict=True)]
            self._compiling = None
            if self.normalize:
                features = [nn.functional.normalize(one.float(), dim=1) for one in features]
            return PendingFeatures([one.float() for one in features])


class PendingFeatures:
    """Features that a device is still working on; `read` waits for them."""

    def __init__(self, features: Sequence[Tensor]) -> None:
        self._event = None
        if features[0].device.type == "cuda":
            self._features = [torch.empty(one.shape, pin_memory=True).copy_(one, non_blocking=True) for one in features]
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(features[0].device))
        else:
            self._features = list(features)

    def read(self) -> list[NDArray[np.float32]]:
        """(B,D) of each layer."""
        if self._event is not None:
            self._event.synchronize()
        return [one.numpy() for one in self._features]


class _PooledInFloat32(nn.Module):
    """All layers of the encoder. bfloat16 has 8 bits, and a mean over 49 positions has more to say."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.encoder.all_layers(images, pool_in=torch.float32)


def fold_batch_norms(model: Encoder) -> Encoder:
    """`model`, in eval mode, with every `bnK` in the `convK` before it, and those of the shortcuts; changed in place.

    A torchvision ResNet has BN nowhere else; the last lines make sure of it.
    """
    for parent in list(model.modules()):
        children = dict(parent.named_children())
        pairs = [(name, name.replace("conv", "bn")) for name in children if name.startswith("conv")]
        if isinstance(parent, nn.Sequential) and len(children) == 2 and isinstance(children.get("1"), _BatchNorm):
            pairs.append(("0", "1"))
        for conv, norm in pairs:
            setattr(parent, conv, fuse_conv_bn_eval(children[conv], children[norm]))  # type: ignore[arg-type, type-var]
            setattr(parent, norm, nn.Identity())
    left = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if left:
        raise ValueError(f"not a ResNet as torchvision builds it: {left[0]} follows no convolution")
    return model
