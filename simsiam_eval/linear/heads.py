"""Linear classifiers on frozen features, trained as SimSiam's linear evaluation trains its fc layer, many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from simsiam_eval.linear.lars import larc
from simsiam_eval.linear.protocols import HeadRecipe
from simsiam_eval.linear.scaling import Scaling
from simsiam_eval.linear.schedule import epoch_lr, scaled_lr
from simsiam_eval.runtime.matmul import times_transposed

_BLOCK = 8192  # rows that are scored at once
# Logarithm of the smallest probability. Below -87 it would be subnormal, which makes exp and products many times slower, as
# an exp of -inf does; the rest is for the products with features.
_LEAST = -70.0


@dataclass(frozen=True)
class Head:
    """A trained classifier: `weight` (C,D) and `bias` (C,) on features of `layer`, scaled by `scaling`."""

    weight: torch.Tensor
    bias: torch.Tensor
    layer: str
    scaling: Scaling

    @torch.no_grad()
    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """(N,D) -> (N,C)."""
        blocks = [self.scaling(block) @ self.weight.T + self.bias for block in features.split(_BLOCK)]
        return torch.cat(blocks)


class HeadStack:
    """K heads on the same features, trained together by products of one matrix, each as if it were alone.

    Weights start as N(0, .01), biases at 0 (paper, App. A); every head of a seed starts the same and sees the same
    batches. The gradient of the cross-entropy is written out: an epoch has no autograd and, but for the batches, no
    copies. Scores lie as (K,C,B), whose softmax over C is 27 times as fast as over the last dimension for 10 classes, and
    rows are taken by index_select, a tenth of the time of indexing (benchmarks/linear_speed.py).

    Args:
        recipes: one per head, equal but for lr and weight_decay.
        features: (N,D) float32, what `standard` scaling is fitted on; where it runs.
        labels: (N,) int64 in 0..classes-1, on the same device.
        rows: the rows to train on; default: all.
    """

    def __init__(
        self,
        recipes: Sequence[HeadRecipe],
        features: torch.Tensor,
        labels: torch.Tensor,
        classes: int,
        rows: torch.Tensor | None = None,
    ) -> None:
        first = self.recipe = recipes[0]
        if any(replace(one, lr=first.lr, weight_decay=first.weight_decay) != first for one in recipes):
            raise ValueError("heads of a stack differ in lr and weight_decay only")
        self.recipes, self.labels, self.rows = tuple(recipes), labels, rows
        self.scaling = Scaling.fit(first.scaling, features if rows is None else features[rows])
        device, heads, width = features.device, len(recipes), features.shape[1]
        start = torch.empty(classes, width).normal_(0.0, 0.01, generator=torch.Generator().manual_seed(first.seed))
        self.weight = start.to(device).repeat(heads, 1, 1)  # (K,C,D)
        self.bias = torch.zeros(heads, classes, 1, device=device)
        self._velocity = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]
        # Of its own, so that the order of the rows does not depend on D; seeds of users end below 2^32.
        self._order = torch.Generator().manual_seed(first.seed + 2**32)
        column = torch.tensor([[one.lr, one.weight_decay] for one in recipes], device=device).T[:, :, None, None]
        self._lr, self._decay = column[0] * scaled_lr(1.0, first.batch_size), column[1]
        self._room = torch.empty(min(first.batch_size, self.count), width, device=device)
        self._whole: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    @property
    def count(self) -> int:
        """How many rows it is trained on."""
        return len(self.labels) if self.rows is None else len(self.rows)

    @torch.no_grad()
    def train_epoch(self, features: torch.Tensor, epoch: int) -> torch.Tensor:
        """One pass over the rows of `features` (N,D) in a new random order: the mean loss (K,), before each step.

        A batch larger than the rows is one step on all of them, its lr still that of the batch.
        """
        rate = epoch_lr(1.0, epoch, self.recipe.epochs, schedule=self.recipe.schedule)
        total = torch.zeros(len(self.recipes), device=features.device)
        for x, labels in self._batches(features):
            total += self._step(x, labels, rate)
        return total / self.count

    def _batches(self, features: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if self.recipe.batch_size >= self.count:  # their order means nothing
            if self._whole is None or self._whole[0] is not features:
                part = (features, self.labels) if self.rows is None else (features[self.rows], self.labels[self.rows])
                self._whole = (features, self.scaling(part[0]), part[1])
            yield self._whole[1:]
            return
        order = torch.randperm(self.count, generator=self._order).to(features.device)
        if self.rows is not None:
            order = self.rows[order]
        for batch in order.split(self.recipe.batch_size):
            x = torch.index_select(features, 0, batch, out=self._room[: len(batch)])
            yield self.scaling(x), self.labels.index_select(0, batch)

    def _step(self, x: torch.Tensor, labels: torch.Tensor, rate: float) -> torch.Tensor:
        """One update of all heads by the batch (B,D), (B,): the summed loss (K,)."""
        heads = len(self.recipes)
        scores = self._scores(x)
        chosen = labels.expand(heads, 1, -1)
        logs = torch.log_softmax(scores, dim=1)
        loss = logs.gather(1, chosen).sum(dim=(1, 2)).neg_()
        # Probabilities, then the gradient of the summed loss by the scores.
        off = logs.clamp_(min=_LEAST).exp_()
        off.scatter_add_(1, chosen, torch.full((), -1.0, device=x.device).expand(heads, 1, len(x)))
        for weight, gradient, velocity in (
            (self.weight, times_transposed(off.view(-1, len(x)), x.T).view_as(self.weight), self._velocity[0]),
            (self.bias, off.sum(dim=2, keepdim=True), self._velocity[1]),
        ):
            gradient /= len(x)
            step = larc(weight, gradient, self._decay, (1, 2)) if self.recipe.lars else gradient + self._decay * weight
            velocity.mul_(self.recipe.momentum).add_(step)
            weight.addcmul_(self._lr, velocity, value=-rate)
        return loss

    def _scores(self, x: torch.Tensor) -> torch.Tensor:
        """(B,D) -> (K,C,B)."""
        heads, classes, width = self.weight.shape
        return times_transposed(self.weight.view(-1, width), x).view(heads, classes, len(x)).add_(self.bias)

    @torch.no_grad()
    def judge(self, features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Every head's top-1 accuracy and mean loss, (K,) each, on (N,D), (N,)."""
        heads = len(self.recipes)
        right = torch.zeros(heads, dtype=torch.float64, device=features.device)
        loss = torch.zeros(heads, device=features.device)
        for x, truth in zip(features.split(_BLOCK), labels.split(_BLOCK), strict=True):
            logs = torch.log_softmax(self._scores(self.scaling(x)), dim=1)
            right += (logs.argmax(dim=1) == truth).sum(dim=1)
            loss -= logs.gather(1, truth.expand(heads, 1, -1)).sum(dim=(1, 2))
        return right / len(labels), loss / len(labels)

    def state(self) -> dict[str, torch.Tensor]:
        """All that the next epoch depends on: copies, on the CPU."""
        tensors = {
            "weight": self.weight,
            "bias": self.bias,
            "velocity": self._velocity[0],
            "bias_velocity": self._velocity[1],
        }
        return {name: one.cpu().clone() for name, one in tensors.items()} | {"order": self._order.get_state()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go back to a `state` of a stack of the same recipes."""
        self.weight.copy_(state["weight"])
        self.bias.copy_(state["bias"])
        for velocity, name in zip(self._velocity, ("velocity", "bias_velocity"), strict=True):
            velocity.copy_(state[name])
        self._order.set_state(state["order"])

    def head(self, number: int) -> Head:
        """Head `number` as it is now."""
        bias = self.bias[number, :, 0].clone()
        return Head(self.weight[number].clone(), bias, self.recipe.layer, self.scaling)


def stacks_of(
    recipes: Sequence[HeadRecipe],
    features: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    classes: int,
    rows: torch.Tensor | None = None,
) -> list[HeadStack]:
    """The recipes' heads in as few stacks as can be: one for each layer, of `features`, and scaling."""
    groups: dict[HeadRecipe, list[HeadRecipe]] = {}
    for one in recipes:
        groups.setdefault(replace(one, lr=1.0, weight_decay=0.0), []).append(one)
    return [HeadStack(group, features[group[0].layer], labels, classes, rows) for group in groups.values()]


def among_top(scores: torch.Tensor, labels: torch.Tensor, top: int) -> torch.Tensor:
    """Whether each row's label (N,) is among the `top` highest of its scores (N,C), finite: (N,) bool; of equal
    ones the lower class goes first."""
    own = scores.gather(1, labels[:, None])
    lower = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & lower)).sum(dim=1) < top
