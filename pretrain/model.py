"""SimSiam: encoder, projector, predictor, loss (Chen and He, arXiv 2011.10566, Sec. 3), and the paper's ablations."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from simsiam_eval.encoders.architectures import feature_width
from simsiam_eval.encoders.encoder import build_trunk, pooled_features

if TYPE_CHECKING:
    from pretrain.settings import PretrainSettings


class Outputs(NamedTuple):
    """Of both views: predictions p, projections z, each (B,dim), and the encoder's features (B,D) of the first."""

    p1: torch.Tensor
    p2: torch.Tensor
    z1: torch.Tensor
    z2: torch.Tensor
    features: torch.Tensor


class SimSiam(nn.Module):
    """The trunk with its projector in the place of `fc`, and the predictor; state dict as the reference names it.

    Args:
        arch, stem: of the trunk; its last BN of every residual block starts at zero.
        dim: width of the projector's output.
        pred_dim: hidden width of the predictor.
        projector_layers: linear layers, 3 on ImageNet and 2 on CIFAR.
        projector_hidden: their hidden width, 0 for the trunk's feature width.
        projector_bn, predictor_bn: where the MLPs have BN: none, hidden (layers only) or all (Sec. 4.4).
        predictor: none (p = z), fixed (random, never trained), or trained, by whatever schedule (Sec. 4.2).
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
    ) -> None:
        super().__init__()
        width = feature_width(arch)
        self.encoder = build_trunk(arch, stem, zero_init_residual=True)
        hidden = [projector_hidden or width] * (projector_layers - 1)
        projector = _mlp([width, *hidden, dim], projector_bn, last_affine=False)
        if projector_bn == "all":
            # The BN after it removes any bias; it stays, untrained, for the reference's keys.
            projector[-2].bias.requires_grad = False  # type: ignore[union-attr]
        self.encoder.fc = projector  # type: ignore[assignment]
        self.predictor = _mlp([dim, pred_dim, dim], predictor_bn) if predictor != "none" else nn.Sequential()
        if predictor == "fixed":
            self.predictor.requires_grad_(False)

    @classmethod
    def of(cls, settings: PretrainSettings) -> SimSiam:
        """The model that the settings describe."""
        return cls(
            settings.arch,
            settings.stem,
            settings.dim,
            settings.pred_dim,
            settings.projector_layers,
            settings.projector_hidden,
            settings.projector_bn,
            settings.predictor_bn,
            settings.predictor,
        )

    def forward(self, view1: torch.Tensor, view2: torch.Tensor) -> Outputs:
        """Views (B,3,H,W) -> Outputs. Each view is a forward pass of its own: it has its own BN statistics."""
        features1, features2 = pooled_features(self.encoder, view1), pooled_features(self.encoder, view2)
        z1, z2 = self.encoder.fc(features1), self.encoder.fc(features2)
        return Outputs(self.predictor(z1), self.predictor(z2), z1, z2, features1)


def _mlp(widths: list[int], norms: str, last_affine: bool = True) -> nn.Sequential:
    """Linear layers with ReLU between them; BN after the hidden ones (`hidden`), after each (`all`), or `none`.

    A linear layer before a BN has no bias, except the last one, as in the reference.
    """
    steps: list[nn.Module] = []
    for width, hidden in pairwise(widths[:-1]):
        steps.append(nn.Linear(width, hidden, bias=norms == "none"))
        steps += [nn.BatchNorm1d(hidden)] * (norms != "none") + [nn.ReLU(inplace=True)]
    steps.append(nn.Linear(widths[-2], widths[-1]))
    steps += [nn.BatchNorm1d(widths[-1], affine=last_affine)] * (norms == "all")
    return nn.Sequential(*steps)


def simsiam_loss(
    outputs: Outputs, stop_gradient: bool = True, similarity: str = "cosine", symmetric: bool = True
) -> torch.Tensor:
    """1/2 D(p1, sg z2) + 1/2 D(p2, sg z1), mean over the batch (Eq. 4): a scalar, computed in float32 or wider.

    Args:
        outputs: p and z of both views, (B,dim).
        stop_gradient: sg; without it the gradient also goes through z, and the output collapses.
        similarity: D is -cos(p, z), in [-1, 1], or the cross-entropy of softmax(p) under softmax(z) (Sec. 4.5).
        symmetric: False: D(p1, sg z2) alone (Sec. 4.6).
    """
    p1, p2, z1, z2 = (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in outputs[:4])
    if stop_gradient:
        z1, z2 = z1.detach(), z2.detach()
    distance = _negative_cosine if similarity == "cosine" else _cross_entropy
    if not symmetric:
        return distance(p1, z2)
    return 0.5 * (distance(p1, z2) + distance(p2, z1))


def _negative_cosine(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return -functional.cosine_similarity(p, z).mean()


def _cross_entropy(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return -(z.softmax(dim=1) * p.log_softmax(dim=1)).sum(dim=1).mean()


def parameter_groups(model: SimSiam, predictor: str, warmup: bool = False) -> list[dict[str, object]]:
    """All parameters, weight decay on every one; a predictor whose lr is another's is apart: a `constant` one, marked
    `fix_lr`, as in the reference's --fix-pred-lr, and with `warmup` any, which has none, as in the paper."""
    if not (predictor == "constant" or (warmup and predictor == "cosine")):
        return [{"params": list(model.parameters())}]
    return [
        {"params": list(model.encoder.parameters()), "fix_lr": False},
        {"params": list(model.predictor.parameters()), "fix_lr": predictor == "constant", "warms_up": False},
    ]
