"""Linear classifiers on frozen features, many trained at once, each like the fc layer of SimSiam's linear evaluation."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from simsiam_eval.linear.lars import larc
from simsiam_eval.linear.protocols import HeadRecipe
from simsiam_eval.linear.scaling import Scaling
from simsiam_eval.linear.schedule import epoch_lr, scaled_lr

_BLOCK = 8192  # rows scored at once, or fewer where there are many classes:
_SCORES = 1 << 26  # scores in memory at once, 256 MiB
# Probabilities below exp(-87) are subnormal, and so are their products with features from a little above: exp and matrix
# products are many times slower with subnormal numbers.
_MIN_LOG_PROBABILITY = -70.0


@dataclass(frozen=True)
class Head:
    """A linear classifier: `weight` (C,D) and `bias` (C,) for features of `layer` scaled by `scaling`."""

    weight: torch.Tensor
    bias: torch.Tensor
    layer: str
    scaling: Scaling

    @torch.no_grad()
    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N,D) -> logits (N,C)."""
        return torch.cat([scores for _, scores in self.score_blocks(features)])

    @torch.no_grad()
    def score_blocks(self, features: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Rows of the features (N,D) and their logits (B,C), for as many rows at a time as fit in memory for any C."""
        size = _rows_at_once(len(self.bias))
        for start in range(0, max(1, len(features)), size):
            rows = slice(start, start + size)
            yield rows, self.scaling(features[rows]) @ self.weight.T + self.bias

    def guesses(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N,D) -> the class with the highest score (N,)."""
        return torch.cat([scores.argmax(dim=1) for _, scores in self.score_blocks(features)])

    def correct(self, features: torch.Tensor, labels: torch.Tensor, tops: Sequence[int]) -> torch.Tensor:
        """Whether each label (N,) is among the first classes of its row of features (N,D): (N, len(tops)) bool."""
        return torch.cat([
            torch.stack([among_top(scores, labels[rows], top) for top in tops], dim=1)
            for rows, scores in self.score_blocks(features)
        ])  # fmt: skip


class HeadStack:
    """K heads on the same features, trained together by one matrix product per batch, each as if it were trained alone.

    Weights are initialized from N(0, .01), biases with 0 (paper, App. A). All heads of a stack start the same and see the
    same batches. The gradient of the cross-entropy is written out instead of using autograd, which saves copies. Scores are
    laid out as (K,C,B): for 10 classes the softmax over C is then 27 times as fast as over the last dimension. Rows are
    gathered by index_select, which takes a tenth of the time of indexing (benchmarks/linear_speed.py).

    Args:
        recipes: one per head, different only in lr and weight_decay.
        features: (N,D) float32, to fit `standard` scaling; training runs on their device.
        labels: (N,) int64 in 0..classes-1, on the same device.
        rows: (M,) rows to train on; default: all.

    Raises:
        ValueError: the recipes differ in more than lr and weight_decay.
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
        if any(replace(recipe, lr=first.lr, weight_decay=first.weight_decay) != first for recipe in recipes):
            raise ValueError("stacked heads may differ only in lr and weight_decay")
        self.recipes, self.labels, self.rows = tuple(recipes), labels, rows
        self.scaling = Scaling.fit(first.scaling, features if rows is None else features[rows])
        device, heads, width = features.device, len(recipes), features.shape[1]
        start = torch.empty(classes, width).normal_(0.0, 0.01, generator=torch.Generator().manual_seed(first.seed))
        self.weight = start.to(device).repeat(heads, 1, 1)  # (K,C,D)
        self.bias = torch.zeros(heads, classes, 1, device=device)
        self._velocity = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]
        # A separate generator, so that the order of the rows does not depend on D; seeds of users are below 2^32.
        self._order = torch.Generator().manual_seed(first.seed + 2**32)
        lrs, decays = torch.tensor([[r.lr, r.weight_decay] for r in recipes], device=device).T[:, :, None, None]
        self._lr, self._decay = lrs * scaled_lr(1.0, first.batch_size), decays
        self._buffer = torch.empty(min(first.batch_size, self.count), width, device=device)
        self._full_batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None  # of these features

    @property
    def count(self) -> int:
        """Number of rows it is trained on."""
        return len(self.labels) if self.rows is None else len(self.rows)

    @torch.no_grad()
    def train_epoch(self, features: torch.Tensor, epoch: int) -> torch.Tensor:
        """One pass over the rows of `features` (N,D) in a new random order; returns the mean losses (K,) before each step.

        With fewer rows than the batch size, the epoch is one step on all of them, at the learning rate of the full batch.
        """
        rate = epoch_lr(1.0, epoch, self.recipe.epochs, schedule=self.recipe.schedule)
        total = torch.zeros(len(self.recipes), device=features.device)
        for x, labels in self._batches(features):
            total += self._step(x, labels, rate)
        return total / self.count

    def _batches(self, features: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if self.recipe.batch_size >= self.count:  # the order does not matter
            if self._full_batch is None or self._full_batch[0] is not features:
                x, labels = (
                    (features, self.labels) if self.rows is None else (features[self.rows], self.labels[self.rows])
                )
                self._full_batch = (features, self.scaling(x), labels)
            yield self._full_batch[1:]
            return
        order = torch.randperm(self.count, generator=self._order).to(features.device)
        if self.rows is not None:
            order = self.rows[order]
        for batch in order.split(self.recipe.batch_size):
            x = torch.index_select(features, 0, batch, out=self._buffer[: len(batch)])
            yield self.scaling(x), self.labels.index_select(0, batch)

    def _step(self, x: torch.Tensor, labels: torch.Tensor, rate: float) -> torch.Tensor:
        """Update all heads by the batch (B,D), (B,); returns the summed losses (K,)."""
        size = _rows_at_once(self.bias.numel())
        parts = [self._gradients(*part) for part in zip(x.split(size), labels.split(size), strict=True)]
        loss, *gradients = (functools.reduce(torch.add, sums) for sums in zip(*parts, strict=True))
        for weight, gradient, velocity in zip((self.weight, self.bias), gradients, self._velocity, strict=True):
            gradient /= len(x)
            update = (
                larc(weight, gradient, self._decay, (1, 2)) if self.recipe.lars else gradient + self._decay * weight
            )
            velocity.mul_(self.recipe.momentum).add_(update)
            weight.addcmul_(self._lr, velocity, value=-rate)
        return loss

    def _gradients(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The summed losses (K,) of rows (B,D), (B,), and their gradients with respect to weight and bias."""
        heads = len(self.recipes)
        targets = labels.expand(heads, 1, -1)
        log_probabilities = torch.log_softmax(self._scores(x), dim=1)
        loss = log_probabilities.gather(1, targets).sum(dim=(1, 2)).neg_()
        # The gradient of the summed loss with respect to the scores: probabilities minus one-hot targets.
        errors = log_probabilities.clamp_(min=_MIN_LOG_PROBABILITY).exp_()
        errors.scatter_add_(1, targets, torch.full((), -1.0, device=x.device).expand(heads, 1, len(x)))
        return loss, (errors.view(-1, len(x)) @ x).view_as(self.weight), errors.sum(dim=2, keepdim=True)

    def _scores(self, x: torch.Tensor) -> torch.Tensor:
        """(B,D) -> (K,C,B)."""
        heads, classes, width = self.weight.shape
        return (self.weight.view(-1, width) @ x.T).view(heads, classes, len(x)).add_(self.bias)

    @torch.no_grad()
    def judge(self, features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Top-1 accuracy and mean loss of every head, (K,) each, on features (N,D) and labels (N,)."""
        heads = len(self.recipes)
        correct = torch.zeros(heads, dtype=torch.float64, device=features.device)
        loss = torch.zeros(heads, device=features.device)
        size = _rows_at_once(self.bias.numel())
        for x, targets in zip(features.split(size), labels.split(size), strict=True):
            log_probabilities = torch.log_softmax(self._scores(self.scaling(x)), dim=1)
            correct += (log_probabilities.argmax(dim=1) == targets).sum(dim=1)
            loss -= log_probabilities.gather(1, targets.expand(heads, 1, -1)).sum(dim=(1, 2))
        return correct / len(labels), loss / len(labels)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the next epoch depends on, copied to the CPU."""
        tensors = {
            "weight": self.weight,
            "bias": self.bias,
            "velocity": self._velocity[0],
            "bias_velocity": self._velocity[1],
        }
        return {name: tensor.cpu().clone() for name, tensor in tensors.items()} | {"order": self._order.get_state()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Return to a `state` of a stack of the same recipes."""
        self.weight.copy_(state["weight"])
        self.bias.copy_(state["bias"])
        for velocity, name in zip(self._velocity, ("velocity", "bias_velocity"), strict=True):
            velocity.copy_(state[name])
        self._order.set_state(state["order"])

    def head(self, index: int) -> Head:
        """A copy of head `index`."""
        bias = self.bias[index, :, 0].clone()
        return Head(self.weight[index].clone(), bias, self.recipe.layer, self.scaling)


def stacks_of(
    recipes: Sequence[HeadRecipe],
    features: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    classes: int,
    rows: torch.Tensor | None = None,
) -> list[HeadStack]:
    """The heads of the recipes in as few stacks as possible: one per layer (of `features`) and scaling."""
    groups: dict[HeadRecipe, list[HeadRecipe]] = {}
    for recipe in recipes:
        groups.setdefault(replace(recipe, lr=1.0, weight_decay=0.0), []).append(recipe)
    return [HeadStack(group, features[group[0].layer], labels, classes, rows) for group in groups.values()]


def _rows_at_once(classes: int) -> int:
    """Rows that are scored at once by heads of together so many classes."""
    return max(1, min(_BLOCK, _SCORES // classes))


def among_top(scores: torch.Tensor, labels: torch.Tensor, top: int) -> torch.Tensor:
    """Whether each label (N,) is among the `top` highest finite scores (N,C) of its row: (N,) bool. Ties go to the lower
    class."""
    of_label = scores.gather(1, labels[:, None])
    lower = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > of_label) | ((scores == of_label) & lower)).sum(dim=1) < top
