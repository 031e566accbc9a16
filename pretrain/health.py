"""Collapse detection: the output may collapse to a point (paper, Sec. 4.1) or to a few directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch.nn import functional

from pretrain.callback import Callback, Position, StepResult
from pretrain.log import RunLog
from simsiam_eval.metrics.spread import area_of, output_std, rankme_of, singular_values, uniformity
from simsiam_eval.runtime.progress import say

# Spectra are of the first rows only, which bounds their cost: (512, 2048) takes 37 ms on one CPU core, 110 ms with all rows.
# Far above the ranks that are called a collapse.
_MAX_ROWS = 256


@dataclass(frozen=True)
class Health:
    """Measures of one batch; all but output_std are of its first 256 rows.

    Attributes:
        output_std: see `output_std`, of the first view.
        output_rank: RankMe (see `effective_rank`) of the first view's outputs.
        rank_limit: upper bound of output_rank: the smaller of the number of rows and d.
        feature_rank: RankMe of the first view's features.
        feature_auc: see `explained_variance_auc`, of the first view's features.
        alignment: mean squared distance of an image's two L2-normalized outputs, in [0, 4].
        uniformity: log of the mean over pairs of images of exp(-2 x squared distance) of their L2-normalized outputs, mean
            over the two views, in [-8, 0]; nearly -4 when spread evenly in many dimensions, 0 when all are the same.

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
    """The health of a training step, from tensors that it has computed anyway.

    Args:
        features: (B,D) of the first view, before the projector; all three of any float dtype.
        z1, z2: (B,d), the projector's outputs of the two views, not normalized; B is at least 2.

    Everything stays on its device until the result is read, once. Input that is not finite gives NaN.

    Raises:
        ValueError: other shapes.
    """
    if not (features.ndim == z1.ndim == 2 and z1.shape == z2.shape and len(features) == len(z1) >= 2):
        raise ValueError(
            "expected features (B,D), z1 (B,d) and z2 (B,d) with B >= 2, "
            f"got {tuple(features.shape)}, {tuple(z1.shape)}, {tuple(z2.shape)}."
        )
    std = output_std(z1)
    features, z1, z2 = (x.detach()[:_MAX_ROWS] for x in (features, z1, z2))
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
    std_value, output_rank, feature_rank, area, alignment, evenness = torch.where(finite, values, torch.nan).tolist()
    return Health(std_value, output_rank, float(min(z1.shape)), feature_rank, area, alignment, evenness)


# Thresholds of a collapse, from runs of ResNet-18 with this repository's loop on one CPU thread. Healthy: the minimum over
# the whole run, including its untrained start; collapsing: minimum and maximum over the last five checks.
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
# The projector's BN keeps every channel's std at 1, so a collapse leaves one direction, along which nearly all images are
# at one point and a few far away (std .3), or in two clusters (std up to 1); without that BN the std falls to .01.
# The perceptron of tests/pretrain/test_health.py, healthy, minimum of 3 seeds: rank 9.6 at batch 64, 3.9 at 16, 2.6 at 8.
_MIN_OUTPUT_STD = 0.5  # for similar channels: a mean cosine of two outputs above .75
_MIN_OUTPUT_RANK = (
    3.0  # 4 would detect a missing predictor on CIFAR-10 earlier, but data of few classes may not have more
)
# Never seen to fall before output_rank does. RankMe is not centered: a large mean alone gives about 1.
_MIN_FEATURE_RANK = 2.0
_MIN_RANK_SHARE = 0.2  # of rank_limit: bounds both ranks for batches under 15, as a healthy batch of 8 has rank 2.6
_PATIENCE = 3  # consecutive checks; see CollapseMonitor


class CollapseMonitor:
    """Detect a collapse from the `Health` measured at regular intervals.

    Full collapse: nearly all outputs are the same point. Partial, or dimensional, collapse: outputs or features vary along
    a few directions only. A collapse is reported when 3 consecutive checks find it, again after 6, 12, 24, ... checks while
    it lasts, and when partial becomes full. It ends with the first check that does not find it. A check with values that
    are not finite does not count.

    Attributes:
        collapse: The current collapse: "full", "partial", or "" for none.

    Args:
        state: from `to_dict`, of the run that is resumed.
        stop_gradient, trained_predictor: whether the run has them; for the advice only.

    >>> health = Health(output_std=0.3, output_rank=1.2, rank_limit=64, feature_rank=11, feature_auc=0.9, alignment=0.1,
    ...                 uniformity=-0.1)
    >>> monitor = CollapseMonitor(stop_gradient=False)
    >>> [monitor.check(health)[:13] for _ in range(4)]
    ['', '', 'Full collapse', '']
    >>> monitor.to_dict()
    {'full': 4, 'any': 4, 'collapse': 'full'}
    """

    def __init__(
        self,
        state: Mapping[str, int | str] | None = None,
        *,
        stop_gradient: bool = True,
        trained_predictor: bool = True,
    ) -> None:
        state = state or {}
        self._full, self._any = int(state.get("full", 0)), int(state.get("any", 0))
        self.collapse = str(state.get("collapse", ""))
        parts = {"stop-gradient": stop_gradient, "trained predictor": trained_predictor}
        self._missing = [name for name, is_there in parts.items() if not is_there]

    def to_dict(self) -> dict[str, int | str]:
        """State to resume from: consecutive checks that found a full collapse, those that found any, and the current one."""
        return {"full": self._full, "any": self._any, "collapse": self.collapse}

    def check(self, health: Health) -> str:
        """The warning, two sentences, or "" if there is nothing new to report."""
        if not all(map(math.isfinite, health.to_dict().values())):
            return ""
        kind, before = collapse_of(health), self.collapse
        self._full = self._full + 1 if kind == "full" else 0
        self._any = self._any + 1 if kind else 0
        if not kind:
            self.collapse = ""
        elif self._full >= _PATIENCE:
            self.collapse = "full"  # stays full until a check finds no collapse: outputs may jump between two clusters
        elif self._any >= _PATIENCE:
            self.collapse = before or "partial"
        is_repeated = self._any % _PATIENCE == 0 and (self._any // _PATIENCE).bit_count() == 1
        if not self.collapse or (self.collapse == before and not is_repeated):
            return ""
        return f"{_description(self.collapse, health)} {self._advice()}"

    def _advice(self) -> str:
        if self._missing:
            return f"This run has no {' and no '.join(self._missing)}, which SimSiam needs to avoid collapse."
        return "Try a smaller --lr or --weight-decay, a larger --batch-size, or --predictor constant."


def collapse_of(health: Health) -> str:
    """The result of a single check, "full", "partial" or ""; `CollapseMonitor` waits for several checks."""
    if health.output_std < _MIN_OUTPUT_STD:
        return "full"
    bound = _MIN_RANK_SHARE * health.rank_limit
    low_outputs = health.output_rank < min(_MIN_OUTPUT_RANK, bound)
    low_features = health.feature_rank < min(_MIN_FEATURE_RANK, bound)
    return "partial" if low_outputs or low_features else ""


def _description(collapse: str, health: Health) -> str:
    numbers = (
        f"output std x sqrt(d) {health.output_std:.2f} (healthy: about 1), effective rank of the outputs "
        f"{health.output_rank:.1f} of {health.rank_limit:.0f} and of the features {health.feature_rank:.1f}"
    )
    if collapse == "full":
        return f"Full collapse: nearly all outputs are equal; {numbers}."
    return f"Partial (dimensional) collapse: the outputs or features vary only along a few directions; {numbers}."


class HealthCheck(Callback):
    """Measure the health every N steps, log it, and warn about a collapse; in the main process only.

    Attributes:
        reason_to_stop: With `stop_on_collapse`, the warning about the current collapse; "" if there is none.

    Args:
        steps: per epoch.
        every: N, in steps of the whole run; 0 for no check.
    """

    def __init__(
        self,
        position: Position,
        steps: int,
        every: int,
        monitor: CollapseMonitor,
        run_log: RunLog | None,
        stop_on_collapse: bool = False,
    ) -> None:
        self._position, self._steps, self._every = position, steps, every
        self._monitor, self._run_log, self._stop_on_collapse = monitor, run_log, stop_on_collapse
        self.reason_to_stop = ""

    def after_step(self, result: StepResult) -> None:
        steps_done = self._position.steps_done(self._steps)
        if not self._every or self._run_log is None or steps_done % self._every:
            return
        health = measure(result.features, result.z1, result.z2)
        warning = self._monitor.check(health)
        self._position.health = self._monitor.to_dict()
        self._run_log.write("health", steps_done, health.to_dict() | {"collapse": self._monitor.collapse})
        if warning:
            say(f"Warning: step {steps_done}: {warning}")
        if self._stop_on_collapse and self._monitor.collapse:  # perhaps since before a resume
            self.reason_to_stop = warning or f"the {self._monitor.collapse} collapse continues"
