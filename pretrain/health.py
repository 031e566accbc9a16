"""Whether the output still spreads over the sphere, or has collapsed: to a point (paper, Sec. 4.1) or a few directions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn import functional

_ROWS = 512  # of a batch that are looked at: enough for the numbers to stand still, and a bound to their cost
_PATIENCE = 3  # looks in a row that must see the same collapse


@torch.no_grad()
def output_std(z: torch.Tensor) -> torch.Tensor:
    """Std of the L2-normalised output (B,d) over the batch, mean over channels, times sqrt(d): scalar.

    About 1 for outputs spread over the whole sphere, 0 when all are the same (Fig. 2, middle, there without sqrt(d)).
    """
    unit = functional.normalize(z.float(), dim=1)
    return unit.std(dim=0, unbiased=False).mean() * z.shape[1] ** 0.5


@dataclass(frozen=True)
class Health:
    """What one batch tells of a run.

    Attributes:
        output_std: of the outputs z, see output_std.
        output_rank, feature_rank: effective rank (RankMe, Garrido et al. 2023) of the outputs and of the features.
        feature_auc: area under the features' cumulative explained variance, in (0, 1]: .5 where every direction has as much,
            1 where one has all (Li, Efros and Pathak 2022, arXiv 2209.15007).
        alignment: mean squared distance of the two views' normalised outputs, in [0, 4].
        uniformity: log of the mean Gaussian potential exp(-2 |a - b|^2) of pairs of normalised outputs; the lower the more
            uniform, 0 where all are the same (both: Wang and Isola 2020).
    """

    output_std: float
    output_rank: float
    feature_rank: float
    feature_auc: float
    alignment: float
    uniformity: float

    def to_dict(self) -> dict[str, float]:
        """By name, for the log."""
        return asdict(self)


@torch.no_grad()
def measure(features: torch.Tensor, z1: torch.Tensor, z2: torch.Tensor) -> Health:
    """Health from what a training step has computed anyway: the first view's features (B,D), both views' outputs (B,d)."""
    features, z1, z2 = (x[:_ROWS].float() for x in (features, z1, z2))
    unit1, unit2 = functional.normalize(z1, dim=1), functional.normalize(z2, dim=1)
    similarities = unit1 @ unit1.T
    rows, columns = torch.triu_indices(len(z1), len(z1), 1, device=z1.device)
    pairs = (2 - 2 * similarities[rows, columns]).clamp_(min=0)
    values = (
        output_std(z1),
        effective_rank(z1),
        effective_rank(features),
        explained_variance_auc(features),
        (unit1 - unit2).square().sum(dim=1).mean(),
        (-2 * pairs).exp().mean().log(),
    )
    return Health(*torch.stack([value.double() for value in values]).tolist())


def effective_rank(rows: torch.Tensor) -> torch.Tensor:
    """RankMe of (B,D): exp of the entropy of the singular values over their sum; 1 to min(B,D), 0 for zeros."""
    singular = _spectrum(rows).sqrt()
    total = singular.sum()
    shares = singular / total.clamp(min=1e-30)
    return torch.where(total > 0, torch.special.entr(shares).sum().exp(), torch.zeros_like(total))


def explained_variance_auc(rows: torch.Tensor) -> torch.Tensor:
    """Mean over k of the share of the variance that the first k principal directions of (B,D) have; k to min(B - 1, D).

    1 where all rows are the same.
    """
    spectrum = (
        _spectrum(rows - rows.mean(dim=0)).sort(descending=True).values[: max(1, min(len(rows) - 1, rows.shape[1]))]
    )
    total = spectrum.sum()
    shares = spectrum.cumsum(0) / total.clamp(min=1e-30)
    return torch.where(total > 0, shares.mean(), torch.ones_like(total))


def _spectrum(rows: torch.Tensor) -> torch.Tensor:
    """Squared singular values of (B,D), by the smaller of the two Gram matrices; float64, noise below its accuracy is 0."""
    rows = rows.double()
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    found = torch.linalg.eigvalsh(gram).clamp(min=0)
    return torch.where(found > found.max() * 1e-12, found, torch.zeros_like(found))


class Doctor:
    """Tells a collapse from a bad moment: it must be seen several times in a row."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self._seen: dict[str, int] = {"full": 0, "partial": 0, **(state or {})}

    def to_dict(self) -> dict[str, int]:
        """State to go on from."""
        return dict(self._seen)

    def diagnose(self, health: Health) -> str:
        """What to tell the user after this look: empty, or once for each collapse what was seen and what usually helps."""
        kind = collapse_of(health)
        for name in self._seen:
            self._seen[name] = self._seen[name] + 1 if name == kind else 0
        if kind is None or self._seen[kind] != _PATIENCE:
            return ""
        return f"{_SEEN[kind].format(**health.to_dict())} {_HELPS}"


# Seen on handwritten digits (ResNet-18, d 512, batch 64, 162 steps, a look every 9): a healthy run keeps an output std
# above .98 and an effective rank of its outputs above 7.8; without stop-gradient the rank is below 2.5 from step 27 on (std
# .25 to .58: two clusters, kept apart by the projector's last BN), without a predictor from step 90 (std .43 to .83), with
# a fixed random one from step 153. Without that BN (projector_bn hidden) all outputs become one point: std below .1.
_FULL_STD, _PARTIAL_RANK = 0.1, 2.5
_SEEN = {
    "full": "The output has collapsed to a point (std x sqrt(d) {output_std:.3f}; 1 is spread over the sphere).",
    "partial": "The output has collapsed to a few directions (effective rank {output_rank:.1f}, std x sqrt(d) "
    "{output_std:.2f}; features: effective rank {feature_rank:.1f}, explained-variance AUC {feature_auc:.3f}).",
}
_HELPS = (
    "What usually helps: a smaller --lr or a larger --batch-size, --predictor constant, a smaller --weight-decay; "
    "stop-gradient and a trained predictor must be on."
)


def collapse_of(health: Health) -> str | None:
    """`full`: all outputs are one point; `partial`: they lie on a few directions; None: neither."""
    if health.output_std < _FULL_STD:
        return "full"
    return "partial" if health.output_rank < _PARTIAL_RANK else None
