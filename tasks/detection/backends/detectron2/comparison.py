"""Check that a converted trunk has the same outputs in detectron2 as in torchvision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from simsiam_eval.encoders.encoder import ResNetEncoder
from simsiam_eval.errors import DataError
from simsiam_eval.wording import first_few

TOLERANCE = 1e-4


def largest_difference(encoder: ResNetEncoder, weights: Mapping[str, Tensor], model: Any, heads: str) -> float:
    """`compared_stages` on random images, with the encoder's weights under detectron2's names loaded into `model`.

    Raises:
        DataError: the weights do not fit the detector.
    """
    _load(weights, model)
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    return compared_stages(encoder, model, heads, images)[0]


@torch.no_grad()
def compared_stages(
    encoder: ResNetEncoder,
    model: Any,
    heads: str,
    images: Tensor,
    pixels: Tensor | None = None,
) -> tuple[float, Tensor]:
    """Compare the stem and res2 to res5 of detectron2 with torchvision's trunk.

    Args:
        encoder: has torchvision's trunk.
        model: a detectron2 detector with the encoder's weights.
        heads: c4 or fpn.
        images: (B,3,H,W) float32, normalized.
        pixels: the same images before that, (B,3,H,W) uint8, which `model` normalizes as its config says; default: it takes
            `images`.

    Returns:
        The largest absolute difference, relative to the largest value of a feature map if that is above 1; and the average
        (B,D) of detectron2's res5.
    """
    trunk = encoder.trunk.eval()
    device = next(trunk.parameters()).device
    model.eval().to(device)
    bottom = model.backbone if heads == "c4" else model.backbone.bottom_up
    expected = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images.to(device)))))
    converted = bottom.stem(images.to(device) if pixels is None else _normalized_by(model, pixels))
    largest = _difference(expected, converted)
    for stage in (1, 2, 3, 4):
        expected = getattr(trunk, f"layer{stage}")(expected)
        if heads == "c4" and stage == 4:
            blocks = (block for name, block in model.roi_heads.res5.named_children() if name != "norm")
        else:
            blocks = iter(getattr(bottom, f"res{stage + 1}"))
        for block in blocks:
            converted = block(converted)
        largest = max(largest, _difference(expected, converted))
    return largest, converted.mean(dim=(2, 3))


def _load(weights: Mapping[str, Tensor], model: Any) -> None:
    """Load the trunk's weights, all of them, into a detector. Raises DataError if they do not fit."""
    result = model.load_state_dict(dict(weights), strict=False)
    extra_norm = "roi_heads.res5.norm."  # the protocol's BN, which no encoder has
    missing = [
        key for key in result.missing_keys if re.search(r"(stem\.|\.res\d\.)", key) and not key.startswith(extra_norm)
    ]
    if result.unexpected_keys or missing:
        raise DataError(
            "The converted weights do not fit the detector (unexpected keys: "
            f"{first_few(result.unexpected_keys) or 'none'}; missing keys: {first_few(missing) or 'none'})."
        )


def _normalized_by(model: Any, pixels: Tensor) -> Tensor:
    """(B,3,H,W) uint8 -> float32, as the detector normalizes images, without its padding."""
    images: Tensor = model.preprocess_image([{"image": image} for image in pixels]).tensor
    return images[:, :, : pixels.shape[2], : pixels.shape[3]]


def _difference(expected: Tensor, converted: Tensor) -> float:
    if expected.shape != converted.shape:
        return float("inf")
    return float((expected - converted).abs().max() / max(1.0, float(expected.abs().max())))


def check_difference(largest: float) -> None:
    """Raise DataError if stem or stages differ by more than TOLERANCE."""
    if not largest <= TOLERANCE:
        raise DataError(
            f"detectron2's backbone and torchvision's trunk differ by {largest:.2g} (tolerance: "
            f"{TOLERANCE:g}). The config does not match this encoder (see STRIDE_IN_1X1); nothing was written."
        )
