"""Networks of timm as encoders: build them, pool as they do, and load their weights from a file or the local cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simsiam_eval.encoders.backbones.backbone import (
    LibraryEncoder,
    load_strictly,
    on_meta,
    token_features,
)
from simsiam_eval.encoders.float_weights import float_weights
from simsiam_eval.encoders.timm_library import import_timm, timm_config
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.vocabulary import LAYERS, MAP_POOLINGS, TIMM, TOKEN_POOLINGS

_TOKEN_NAMES = {"token": "cls", "avg": "mean"}  # timm's name of a pooling of tokens -> ours


def build_timm(arch: str, image_size: int | None = None, channels: int = 3, **arguments: Any) -> nn.Module:
    """A network of timm without its classifier, with random weights; nothing is downloaded.

    Args:
        arch: `timm:NAME` or NAME.
        image_size: side of the images, for networks with a fixed size; default: the network's own.
        channels: of the images.
        arguments: of the network, as a hub folder records them.

    Raises:
        UsageError: timm is missing, has no such network, or the network cannot have this image size.
    """
    config, timm, name = timm_config(arch), import_timm(), arch.removeprefix(TIMM)
    if image_size is not None and config.fixed_input_size:
        arguments = {"img_size": image_size, **arguments}
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=0, **({"in_chans": channels} if channels != 3 else {}), **arguments
        )
    except (AssertionError, ValueError, TypeError, RuntimeError) as error:
        given = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise UsageError(f"timm cannot build {name} with {given or 'its own arguments'}: {error}.") from error
    if image_size is not None:
        settings: Any = network.pretrained_cfg
        settings["input_size"] = (channels, image_size, image_size)
    return network


class TimmEncoder(LibraryEncoder):
    """A network of timm without its classifier.

    With the pooling that timm's network has, the features are those of `timm.create_model(NAME, num_classes=0)`.

    Args:
        trunk: from `build_timm`; its pooling is changed to `pooling`.
        arch: `timm:NAME`.
        layer: "pool"; of timm's ResNets also "stem" and "layer1" to "layer4".
        pooling: "avg" or "max" of networks with feature maps; "cls", "mean" or "cls+mean" of those with tokens; "auto": the
            network's own, which other networks always use.
        channels: of the images.

    Raises:
        UsageError: the layer or the pooling does not fit the network.
    """

    def __init__(
        self,
        trunk: nn.Module,
        arch: str,
        layer: str | Sequence[str] = "pool",
        pooling: str = "auto",
        channels: int = 3,
    ) -> None:
        known = LAYERS if is_timm_resnet(trunk) else ("pool",)
        super().__init__(trunk, arch, layer, pooling, channels, _image_side(trunk), known)

    def poolings(self, shape: tuple[int, ...]) -> tuple[str, tuple[str, ...]]:
        trunk: Any = self.trunk
        return _poolings(trunk, _feature_dimensions(trunk, shape))

    def use_pooling(self, own: str) -> None:
        trunk: Any = self.trunk
        self._pools_itself = self.pooling == own
        if self.pooling in MAP_POOLINGS and not self._pools_itself:
            trunk.reset_classifier(0, self.pooling)
            self._pools_itself = True

    def all_layers(self, images: Tensor, pool_in: torch.dtype | None = None) -> tuple[Tensor, ...]:
        trunk: Any = self.trunk
        if self.side is not None and tuple(images.shape[2:]) != self.side:
            raise UsageError(
                f"{self.arch} takes images of {self.side[0]} x {self.side[1]} pixels, got {images.shape[2]} x "
                f"{images.shape[3]}; use --crop {self.side[0]}."
            )
        if self.layers == ("pool",):
            return (self._pooled(trunk.forward_features(images), pool_in),)
        maps = trunk.maxpool(trunk.act1(trunk.bn1(trunk.conv1(images))))
        features = {}
        for name in LAYERS[: 1 + max(LAYERS.index(layer) for layer in self.layers)]:
            if name.startswith("layer"):
                maps = getattr(trunk, name)(maps)
            features[name] = self._pooled(maps, pool_in) if name == "pool" else self._pooled_maps(maps, pool_in)
        return tuple(features[layer] for layer in self.layers)

    def _pooled(self, features: Tensor, pool_in: torch.dtype | None) -> Tensor:
        trunk: Any = self.trunk
        if self._pools_itself:
            pooled: Tensor = trunk.forward_head(features, pre_logits=True)
            return pooled
        count = (
            trunk.num_prefix_tokens if getattr(trunk, "num_prefix_tokens", None) is not None else _class_tokens(trunk)
        )
        norm = getattr(trunk, "fc_norm", None) or nn.Identity()
        parts = [norm(token_features(features, name, count)) for name in self.pooling.split("+")]
        return torch.cat(parts, dim=1)

    def _pooled_maps(self, maps: Tensor, pool_in: torch.dtype | None) -> Tensor:
        maps = maps if pool_in is None else maps.to(pool_in)
        return maps.amax(dim=(2, 3)) if self.pooling == "max" else maps.mean(dim=(2, 3))


def timm_encoder(
    arch: str,
    state_dict: Mapping[str, Tensor],
    in_chans: int = 3,
    layers: str | Sequence[str] = "pool",
    pooling: str = "auto",
) -> TimmEncoder:
    """The encoder of a state dict that has exactly the keys of a network of timm without its classifier.

    Args:
        arch: `timm:NAME` or NAME.
        in_chans: channels of the images.

    Returns:
        The encoder, in eval mode and float32 on the CPU. The global random state is not changed.

    Raises:
        DataError: keys or shapes are not those of the network, or weights cannot be used.
        UsageError: timm is missing or has no such network, or the layer or pooling does not fit.
    """
    name = TIMM + arch.removeprefix(TIMM)
    with torch.random.fork_rng(devices=[]):
        network = build_timm(name, image_size_of(name, state_dict), in_chans)
    try:
        load_strictly(network, float_weights(state_dict, name))
    except (RuntimeError, ValueError) as error:
        raise DataError(f"The weights are not those of {name}: {error}.") from error
    return TimmEncoder(network, name, layers, pooling, in_chans).eval()


def image_size_of(arch: str, state_dict: Mapping[str, Any], arguments: Mapping[str, Any] | None = None) -> int | None:
    """Side in pixels of the images that weights with absolute position embeddings were trained on; None without them.

    Args:
        arguments: of the network, as in `build_timm`.
    """
    positions = next((value for key, value in state_dict.items() if key.split(".")[-1] == "pos_embed"), None)
    if positions is None or positions.ndim != 3 or not timm_config(arch).fixed_input_size:
        return None
    with torch.device("meta"):
        network: Any = build_timm(arch, **(arguments or {}))
    patches = getattr(network, "patch_embed", None)
    own = getattr(network, "pos_embed", None)
    if patches is None or own is None or own.ndim != 3 or not hasattr(patches, "num_patches"):
        return None
    side = (positions.shape[1] - (own.shape[1] - patches.num_patches)) ** 0.5
    return round(side) * int(patches.patch_size[0]) if side == round(side) else None


def is_timm_resnet(network: nn.Module) -> bool:
    """Whether the network is a ResNet of timm: with a stem and four stages."""
    return all(
        hasattr(network, name) for name in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer4", "global_pool")
    )


def _class_tokens(network: nn.Module) -> int:
    return sum(getattr(network, name, None) is not None for name in ("cls_token", "dist_token"))


def _image_side(network: nn.Module) -> tuple[int, int] | None:
    """The only (height, width) of images that the network takes; None if it takes several."""
    patches: Any = getattr(network, "patch_embed", None)
    side = getattr(patches, "img_size", None)
    config: Any = getattr(network, "pretrained_cfg", {})
    if side is None and config.get("fixed_input_size"):
        side = config["input_size"][1:]
    if side is None or not getattr(patches, "strict_img_size", True):
        return None
    return (int(side[0]), int(side[1]))


def _poolings(network: nn.Module, dimensions: int | None) -> tuple[str, tuple[str, ...]]:
    """The network's own pooling by our names, "auto" for one without a name, and all that fit.

    Args:
        dimensions: as from `_feature_dimensions`.
    """
    pool: Any = getattr(network, "global_pool", None)
    if pool is None:
        pool = getattr(getattr(network, "head", None), "global_pool", None)
    name = getattr(pool, "pool_type", pool)
    if dimensions == 4 and name in MAP_POOLINGS:
        return name, MAP_POOLINGS
    if dimensions != 3:
        return "auto", ("auto",)
    fitting = TOKEN_POOLINGS if _class_tokens(network) else ("mean",)
    own = "auto" if _class_tokens(network) > 1 else _TOKEN_NAMES.get(name, "auto")  # distilled: the mean of two tokens
    return (own, fitting) if own in fitting else ("auto", ("auto", *fitting))


def _feature_dimensions(network: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Number of dimensions of the features before the pooling: 4 for maps, 3 for tokens; None if they are no tensor."""
    trunk: Any = network
    try:
        with on_meta(network), torch.no_grad():
            features = trunk.forward_features(torch.zeros(shape, device="meta"))
    except Exception as error:  # of every kind
        raise UsageError(f"timm's {type(network).__name__} cannot be used as an encoder ({error}).") from error
    return features.ndim if isinstance(features, Tensor) else None
