"""Whether the output still spreads over the sphere or has collapsed: to a point (paper, Sec. 4.1) or a few directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch.nn import functional

from simsiam_eval.metrics.spread import area_of, output_std, rankme_of, singular_values, uniformity

# Rows of a batch whose spectrum is taken, far above the ranks at which the doctor speaks. Bounds the cost: (512, 2048) takes
# 37 ms on one CPU core, with 512 rows 110.
_ROWS = 256


@dataclass(frozen=True)
class Health:
    """What one batch says about a run; the ranks and the AUC are of its first 256 rows.

    Attributes:
        output_std: see `output_std`, of the first view.
        output_rank: RankMe (see `effective_rank`) of the first view's outputs.
        rank_limit: the most that output_rank can be: the smaller of the rows and d.
        feature_rank: RankMe of the first view's features.
        feature_auc: see `explained_variance_auc`, of the first view's features.
        alignment: mean squared distance of an image's two L2-normalized outputs, in [0, 4].
        uniformity: log of the mean over pairs of images of exp(-2 x squared distance) of their L2-normalized outputs, mean
            over the two views, in [-8, 0]; -4 (nearly) when spread evenly in many dimensions, 0 when all are the same.

    Alignment and uniformity: Wang and Isola, arXiv 2005.10242, with their alpha = 2 and t = 2.
    """

    output_std: float
    output_rank: float
    rank_limit: float
    feature_rank: float
    feature_auc: float
    alignment: float
    uniformity: float

    def to_dict(self) -> dict[str, float]:
        """By name, for the log."""
        return asdict(self)


@torch.no_grad()
def measure(features: torch.Tensor, z1: torch.Tensor, z2: torch.Tensor) -> Health:
    """The health of a training step, from what it has computed anyway.

    Args:
        features: (B,D) of the first view, before the projector; any float dtype, as all three.
        z1, z2: (B,d), the projector's outputs of the two views, not normalized; B is at least 2.

    Everything stays on its device until the result is read, once. Input that is not finite gives NaN, no error.
    """
    if not (features.ndim == z1.ndim == 2 and z1.shape == z2.shape and len(features) == len(z1) >= 2):
        raise ValueError(
            "features (B,D), z1 (B,d) and z2 (B,d) with B >= 2 are wanted, "
            f"got {tuple(features.shape)}, {tuple(z1.shape)}, {tuple(z2.shape)}."
        )
    std = output_std(z1)
    features, z1, z2 = (x.detach()[:_ROWS] for x in (features, z1, z2))
    unit1, unit2 = (functional.normalize(z.float(), dim=1) for z in (z1, z2))
    output_values, _ = singular_values(z1)
    feature_values, centered_values = singular_values(features)
    values = torch.stack(
        [
            std.double(),
            rankme_of(output_values),
            rankme_of(feature_values),
            area_of(centered_values),
            (unit1 - unit2).square().sum(dim=1).mean().double(),
            (uniformity(unit1) + uniformity(unit2)) / 2,
        ]
    )
    finite = features.isfinite().all() & z1.isfinite().all() & z2.isfinite().all()
    std_read, output_rank, feature_rank, area, alignment, evenness = torch.where(finite, values, torch.nan).tolist()
    return Health(std_read, output_rank, float(min(z1.shape)), feature_rank, area, alignment, evenness)


# What the doctor calls a collapse, from runs of ResNet-18 with this repository's loop on one CPU thread. Healthy: the least
# of the whole run, its untrained start included; collapsing: the least and the most of the last five looks.
#   data, pixels, batch, steps                         output_std    output_rank    feature_rank
#   healthy           digits   10   64  162               .98           10.1           17.2
#                     digits    8   16  148               .73            4.3            7.2
#                     digits    8    8  149               .90            3.8            4.2
#                     digits    8   64   72, d 2048       .68           12.2           15.3
#                     CIFAR-10 16   64  155, lr 1         .96           28.2           27.5
#                     CIFAR-10 32   32   30               .98           25.2           16.2
#   fixed predictor   digits   10   64  162               .86 - .95      7.3 - 8.4      8.2 - 9.1
#   no predictor      digits   10   64  162               .63 - .70      1.8 - 1.9     12.7 - 15.0
#                     CIFAR-10 16   64  155, lr 1         .50 - .64      2.5 - 3.9     13.8 - 17.1
#   no stop-gradient  digits   10   64  162               .25 - .48      1.2 - 1.3      9.5 - 14.2
#                     CIFAR-10 16   64  155, lr 1         .34 - .47      1.4 - 3.7      7.8 - 20.4
# The projector's BN keeps every channel's std at 1, so that what is left of a collapse is one direction, on which nearly all
# images are at one point and a few far off (std .3), or two clusters (std up to 1); without that BN the std falls to .01.
# The perceptron of tests/pretrain/test_health.py, healthy, least of 3 seeds, rank 9.6 at batch 64, 3.9 at 16, 2.6 at 8.
_SAME = 0.5  # output_std: where channels are alike, a mean cosine of two outputs above .75
_FEW = 3.0  # output_rank. 4 would have seen no predictor on CIFAR-10 earlier, but data of few classes may have no more.
# feature_rank: never seen before the outputs go. RankMe is not centered: a large mean alone gives about 1.
_FEW_FEATURES = 2.0
_SHARE = 0.2  # of rank_limit at most, for batches under 15: a batch of 8 has rank 2.6 in health
_PATIENCE = 3  # looks in a row; see Doctor


class Doctor:
    """Says when a run has collapsed, given its `Health` every so many steps.

    Full collapse: nearly all outputs are the same point. Partial, or dimensional, collapse: they differ, but along a few
    directions only, or the features do. Either must be found in 3 looks in a row before it is said; a look that finds
    nothing ends it. What lasts is said again after 6, 12, 24, ... looks, and when partial has become full. A look that is
    not finite is passed over.

    Attributes:
        finding: what holds now: "full", "partial", or "" for nothing.

    Args:
        state: from `to_dict`, of the run that is continued.
        stop_gradient, predictor: whether the run has them, and trains the predictor; for the advice only.

    >>> sick = Health(output_std=0.3, output_rank=1.2, rank_limit=64, feature_rank=11, feature_auc=0.9, alignment=0.1,
    ...               uniformity=-0.1)
    >>> doctor = Doctor(stop_gradient=False)
    >>> [doctor.diagnose(sick)[:13] for _ in range(4)]
    ['', '', 'Full collapse', '']
    >>> doctor.to_dict()
    {'full': 4, 'any': 4, 'finding': 'full'}
    """

    def __init__(
        self, state: Mapping[str, int | str] | None = None, *, stop_gradient: bool = True, predictor: bool = True
    ) -> None:
        state = state or {}
        self._full, self._any = int(state.get("full", 0)), int(state.get("any", 0))
        self.finding = str(state.get("finding", ""))
        self._missing = [
            name for name, there in (("stop-gradient", stop_gradient), ("trained predictor", predictor)) if not there
        ]

    def to_dict(self) -> dict[str, int | str]:
        """State to go on from: looks in a row that found a full collapse, or any, and the finding."""
        return {"full": self._full, "any": self._any, "finding": self.finding}

    def diagnose(self, health: Health) -> str:
        """Take one look in; the warning, two sentences, or "" where there is nothing (new) to say."""
        if not all(map(math.isfinite, health.to_dict().values())):
            return ""
        found, before = collapse_of(health), self.finding
        self._full = self._full + 1 if found == "full" else 0
        self._any = self._any + 1 if found else 0
        if not found:
            self.finding = ""
        elif self._full >= _PATIENCE:
            self.finding = (
                "full"  # and stays so while there is any: outputs that jump between two clusters are not news
            )
        elif self._any >= _PATIENCE:
            self.finding = before or "partial"
        doubled = self._any % _PATIENCE == 0 and (self._any // _PATIENCE).bit_count() == 1
        if not self.finding or (self.finding == before and not doubled):
            return ""
        return f"{_seen(self.finding, health)} {self._advice()}"

    def _advice(self) -> str:
        if self._missing:
            return f"This run has no {' and no '.join(self._missing)}: SimSiam collapses without."
        return (
            "What usually helps: a smaller --lr or --weight-decay, a larger --batch-size, a constant learning rate of the "
            "predictor."
        )


def collapse_of(health: Health) -> str:
    """What a single look finds: "full", "partial" or ""; the `Doctor` waits for more."""
    if health.output_std < _SAME:
        return "full"
    possible = _SHARE * health.rank_limit
    few_outputs = health.output_rank < min(_FEW, possible)
    few_features = health.feature_rank < min(_FEW_FEATURES, possible)
    return "partial" if few_outputs or few_features else ""


def _seen(finding: str, health: Health) -> str:
    numbers = (
        f"output std x sqrt(d) {health.output_std:.2f} (healthy: about 1), effective rank of the outputs "
        f"{health.output_rank:.1f} of {health.rank_limit:.0f} and of the features {health.feature_rank:.1f}"
    )
    if finding == "full":
        return f"Full collapse: nearly all outputs are the same; {numbers}."
    return f"Partial (dimensional) collapse: the outputs or features vary along a few directions only; {numbers}."
