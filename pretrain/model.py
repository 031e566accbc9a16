"""SimSiam: encoder, projector and predictor (Chen and He, arXiv 2011.10566, Sec. 3)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn

from simsiam_eval.encoders.architectures import TRUNK, TrunkVariant, feature_width
from simsiam_eval.encoders.backbones.timm_backbone import TimmEncoder, build_timm
from simsiam_eval.encoders.encoder import build_trunk, pooled_features
from simsiam_eval.encoders.resnet import ResNet
from simsiam_eval.vocabulary import TIMM


class Outputs(NamedTuple):
    """Predictions p and projections z of both views, (B,dim) each, and the encoder's features (B,D) of the first view."""

    p1: torch.Tensor
    p2: torch.Tensor
    z1: torch.Tensor
    z2: torch.Tensor
    features: torch.Tensor


class SimSiam(nn.Module):
    """The trunk with the projector as its `fc`, and the predictor; the state dict has the reference's keys.

    Args:
        arch, stem, variant: of the trunk; the last BN of every residual block starts at zero. Of `timm:NAME`, which has
            none of the latter two, timm decides the initialization.
        dim: width of the projector's output.
        pred_dim: hidden width of the predictor.
        projector_layers: number of linear layers: 3 on ImageNet, 2 on CIFAR.
        projector_hidden: their hidden width; 0 for the trunk's feature width.
        projector_bn, predictor_bn: which layers of the MLP have BN: none, hidden or all (Sec. 4.4).
        predictor: none (p = z), fixed (random, never trained), or anything else for a trained one (Sec. 4.2).
        image_size: side of the views, for networks of timm with a fixed size.
    """

    def __init__(
        self,
        arch: str,
        stem: str = "imagenet",
        dim: int = 2048,
        pred_dim: int = 512,
        projector_layers: int = 3,
        projector_hidden: int = 0,
        projector_bn: str = "all",
        predictor_bn: str = "hidden",
        predictor: str = "cosine",
        variant: TrunkVariant = TRUNK,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder, width = _trunk(arch, stem, variant, image_size)
        hidden = [projector_hidden or width] * (projector_layers - 1)
        projector = _mlp([width, *hidden, dim], projector_bn, last_affine=False)
        if projector_bn == "all":
            # The BN after it removes any bias; it stays, untrained, for the reference's keys.
            projector[-2].bias.requires_grad = False  # type: ignore[union-attr]
        self.encoder.fc = projector
        self.predictor = _mlp([dim, pred_dim, dim], predictor_bn) if predictor != "none" else nn.Sequential()
        if predictor == "fixed":
            self.predictor.requires_grad_(False)

    def forward(self, view1: torch.Tensor, view2: torch.Tensor) -> Outputs:
        """Views (B,3,H,W) -> Outputs. Each view has its own forward pass, and so its own BN statistics."""
        features1, features2 = self._features(view1), self._features(view2)
        z1, z2 = self.encoder.fc(features1), self.encoder.fc(features2)
        return Outputs(self.predictor(z1), self.predictor(z2), z1, z2, features1)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) -> (B,D), the input of the projector."""
        if isinstance(self.encoder, ResNet):
            return pooled_features(self.encoder, images)
        features: torch.Tensor = self.encoder.forward_head(self.encoder.forward_features(images), pre_logits=True)
        return features


def _trunk(arch: str, stem: str, variant: TrunkVariant, image_size: int | None) -> tuple[Any, int]:
    """A new trunk, and the width of its features."""
    if not arch.startswith(TIMM):
        return build_trunk(arch, stem, zero_init_residual=True, variant=variant), feature_width(arch)
    trunk = build_timm(arch, image_size)
    return trunk, TimmEncoder(trunk, arch).width


def _mlp(widths: list[int], norms: str, last_affine: bool = True) -> nn.Sequential:
    """Linear layers with ReLU between them; BN after the hidden ones (`hidden`), after each (`all`), or `none`.

    A linear layer before a BN has no bias, except the last one, as in the reference.
    """
    layers: list[nn.Module] = []
    for width, hidden in pairwise(widths[:-1]):
        layers.append(nn.Linear(width, hidden, bias=norms == "none"))
        layers += [nn.BatchNorm1d(hidden)] * (norms != "none") + [nn.ReLU(inplace=True)]
    layers.append(nn.Linear(widths[-2], widths[-1]))
    layers += [nn.BatchNorm1d(widths[-1], affine=last_affine)] * (norms == "all")
    return nn.Sequential(*layers)


def parameter_groups(model: SimSiam, predictor: str, warmup: bool = False) -> list[dict[str, object]]:
    """The optimizer's parameter groups: one, or encoder and predictor if these have different learning rates.

    Those of a `constant` predictor are marked `fix_lr`, as by the reference's --fix-pred-lr; with `warmup` those of any
    trained predictor, which has no warm-up in the paper, `warms_up` False. Weight decay is on every parameter.
    """
    if not (predictor == "constant" or (warmup and predictor == "cosine")):
        return [{"params": list(model.parameters())}]
    return [
        {"params": list(model.encoder.parameters()), "fix_lr": False},
        {"params": list(model.predictor.parameters()), "fix_lr": predictor == "constant", "warms_up": False},
    ]
