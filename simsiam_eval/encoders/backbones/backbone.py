"""What encoders from other libraries share: poolings, widths without a forward pass, and complete loading of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from simsiam_eval.encoders.architectures import TrunkVariant
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import CheckpointFile
from simsiam_eval.encoders.encoder import Encoder, checked_layers, checked_pooling
from simsiam_eval.encoders.recognition.file_settings import settings_of
from simsiam_eval.encoders.recognition.images import stated_orders
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.wording import first_few

_TRIAL_SIDE = 224  # pixels, of images that a network without a fixed size is tried on


@dataclass(frozen=True)
class Backbone:
    """An encoder from another library, and what was read for it.

    Attributes:
        encoder: in eval mode and float32 on the CPU.
        family: the library, "timm" or "huggingface".
        container: the entry of the file with the weights; "bare" if the file is itself the state dict.
        loaded: key in the file -> key in the network.
        skipped: key in the file -> why it is not loaded.
        preprocessing: of images, as from `Preprocessing.to_dict`; None if it is not known.
        preprocessing_from: what says so.
        assumptions: sentences on what no file says.
        branch: name of the network that was chosen.
        branches: names of the networks in the file that fit.
        epoch: number of completed epochs as recorded in the file; None if it says none.
    """

    encoder: Encoder
    family: str
    container: str
    loaded: dict[str, str]
    skipped: dict[str, str]
    preprocessing: dict[str, Any] | None = None
    preprocessing_from: str | None = None
    assumptions: tuple[str, ...] = ()
    branch: str | None = None
    branches: tuple[str, ...] = ()
    epoch: int | None = None


class LibraryEncoder(Encoder):
    """Base of encoders that other libraries compute.

    Args:
        trunk: the library's network.
        arch: `timm:NAME` or `hf:CLASS`.
        layer: one of `known`, or several.
        pooling: one that fits the network, or "auto".
        channels: of the images.
        side: (height, width) of images that the network takes; None: several.
        known: layers that the network has.

    Raises:
        UsageError: the layer or the pooling does not fit the network.
    """

    def __init__(
        self,
        trunk: nn.Module,
        arch: str,
        layer: str | Sequence[str],
        pooling: str,
        channels: int,
        side: tuple[int, int] | None,
        known: Sequence[str] = ("pool",),
    ) -> None:
        super().__init__()
        self.trunk, self.arch, self.stem, self.side = trunk, arch, None, side
        self.variant = TrunkVariant(channels=channels)
        self.layers = checked_layers(layer)
        for name in self.layers:
            if name not in known:
                raise UsageError(f"--layer {name} cannot be used with {arch}; expected {' or '.join(known)}.")
        shape = (2, channels, *(side or (_TRIAL_SIDE, _TRIAL_SIDE)))
        own, fitting = self.poolings(shape)
        self.pooling = checked_pooling(pooling, fitting, arch, own)
        self.use_pooling(own)
        with on_meta(trunk), torch.no_grad():
            features = self.all_layers(torch.zeros(shape, device="meta"))
        self._widths = tuple(output.shape[1] for output in features)

    @property
    def widths(self) -> tuple[int, ...]:
        return self._widths

    def poolings(self, shape: tuple[int, ...]) -> tuple[str, tuple[str, ...]]:
        """The network's own pooling, and all that fit it.

        Args:
            shape: of images, to try the network on.
        """
        raise NotImplementedError

    def use_pooling(self, own: str) -> None:
        """Prepare the network for `pooling`.

        Args:
            own: the network's own.
        """


def reject_bgr(file: CheckpointFile) -> None:
    """Check that a checkpoint does not say that its images are in another order than RGB. Raises DataError."""
    for source, order in stated_orders(settings_of(file, None)[0]).items():
        if order != "rgb":
            raise DataError(
                f"{file.path} says in {source} that its encoder takes {order.upper()} images; expected RGB, since only "
                "torchvision's ResNets are reversed on loading. Reverse the input channels of its first convolution "
                "(weight.flip(1)) and save its weights without this setting."
            )


def load_strictly(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy the weights into the network; only `num_batches_tracked` may be missing.

    Raises:
        ValueError, RuntimeError: another key is missing or unexpected, or a shape does not fit.
    """
    missing, unexpected = network.load_state_dict(dict(weights), strict=False)
    left = [key for key in missing if not key.endswith("num_batches_tracked")]
    if left or unexpected:
        raise ValueError(f"missing keys: {first_few(left) or 'none'}; unexpected: {first_few(unexpected) or 'none'}")


@contextmanager
def on_meta(module: nn.Module) -> Iterator[None]:
    """Within the block the module is in eval mode and its tensors are on the meta device, as copies."""
    modes = [(part, part.training) for part in module.modules()]
    tensors: list[tuple[dict[str, Any], str, Tensor]] = [
        (store, name, value)
        for part in module.modules()
        for store in (part._parameters, part._buffers)
        for name, value in store.items()
        if value is not None
    ]
    module.eval()
    for store, name, value in tensors:
        meta = value.detach().to("meta")
        store[name] = nn.Parameter(meta, requires_grad=False) if isinstance(value, nn.Parameter) else meta
    try:
        yield
    finally:
        for store, name, value in tensors:
            store[name] = value
        for part, training in modes:
            part.training = training


def token_features(tokens: Tensor, pooling: str, prefix_tokens: int) -> Tensor:
    """Tokens (B,N,D), the first of them the class token -> (B,D), or (B,2D) of "cls+mean".

    Args:
        pooling: "cls", "mean" or "cls+mean".
        prefix_tokens: number of tokens before those of the patches.
    """
    parts = {"cls": lambda: tokens[:, 0], "mean": lambda: tokens[:, prefix_tokens:].mean(dim=1)}
    return torch.cat([parts[name]() for name in pooling.split("+")], dim=1)
