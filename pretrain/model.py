"""SimSiam: encoder, projector, predictor, loss (Chen and He, arXiv 2011.10566, Sec. 3)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from simsiam_eval.architectures import feature_width
from simsiam_eval.encoder import build_trunk


class SimSiam(nn.Module):
    """The trunk with its projector in the place of `fc`, and the predictor; state dict as the reference names it.

    Args:
        arch, stem: of the trunk; its last BN of every residual block starts at zero.
        dim: width of the projector's output.
        pred_dim: hidden width of the predictor.
        projector_layers: linear layers, 3 on ImageNet and 2 on CIFAR.
        projector_hidden: their hidden width, 0 for the trunk's feature width.
    """

    def __init__(
        self,
        arch: str,
        stem: str = "imagenet",
        dim: int = 2048,
        pred_dim: int = 512,
        projector_layers: int = 3,
        projector_hidden: int = 0,
    ) -> None:
        super().__init__()
        width = feature_width(arch)
        self.encoder = build_trunk(arch, stem, zero_init_residual=True)
        self.encoder.fc = _projector(width, projector_hidden or width, dim, projector_layers)  # type: ignore[assignment]
        self.predictor = nn.Sequential(
            nn.Linear(dim, pred_dim, bias=False),
            nn.BatchNorm1d(pred_dim),
            nn.ReLU(inplace=True),
            nn.Linear(pred_dim, dim),
        )

    def forward(self, view1: torch.Tensor, view2: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Views (B,3,H,W) -> p1, p2, z1, z2, each (B,dim). Each view is a forward pass of its own: own BN statistics."""
        z1, z2 = self.encoder(view1), self.encoder(view2)
        return self.predictor(z1), self.predictor(z2), z1, z2


def _projector(width: int, hidden: int, dim: int, layers: int) -> nn.Sequential:
    steps: list[nn.Module] = []
    for _ in range(layers - 1):
        steps += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
        width = hidden
    last = nn.Linear(width, dim)
    assert last.bias is not None
    last.bias.requires_grad = False  # the BN after it removes any bias; kept for the reference's keys
    return nn.Sequential(*steps, last, nn.BatchNorm1d(dim, affine=False))


def simsiam_loss(
    p1: torch.Tensor, p2: torch.Tensor, z1: torch.Tensor, z2: torch.Tensor, stop_gradient: bool = True
) -> torch.Tensor:
    """-1/2 (cos(p1, sg z2) + cos(p2, sg z1)), mean over the batch (Eq. 4); all (B,dim), the loss a scalar in [-1, 1]."""
    if stop_gradient:
        z1, z2 = z1.detach(), z2.detach()
    return -0.5 * (functional.cosine_similarity(p1, z2).mean() + functional.cosine_similarity(p2, z1).mean())
