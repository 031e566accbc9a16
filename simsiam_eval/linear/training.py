"""The training loop of linear heads, with the curves of every head."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from simsiam_eval.errors import DataError
from simsiam_eval.linear.feeds import Feed, Layers
from simsiam_eval.linear.heads import Head, HeadStack, stacks_of
from simsiam_eval.linear.protocols import HeadRecipe
from simsiam_eval.linear.state import ProbeState


@dataclass(frozen=True)
class LabeledFeatures:
    """Features of one center crop per image and their classes, on one device.

    Attributes:
        layers: layer -> (N,D) float32.
        labels: (N,) int64 in 0..C-1.
    """

    layers: Layers
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.labels.device


class HeadGroup:
    """The heads of several recipes on the same rows of the training set, and their curves.

    Args:
        recipes: equal but for learning rate, weight decay, layer and scaling.
        classes: number of classes.
        rows: (M,) int64 rows to train on; default: all.
    """

    def __init__(
        self, recipes: Sequence[HeadRecipe], train: LabeledFeatures, classes: int, rows: torch.Tensor | None
    ) -> None:
        self.stacks = stacks_of(recipes, train.layers, train.labels, classes, rows)
        positions = {recipe: (stack, k) for stack in self.stacks for k, recipe in enumerate(stack.recipes)}
        self.recipes, self.positions = recipes, [positions[recipe] for recipe in recipes]
        self.train_loss: list[dict[HeadStack, list[float]]] = []
        self.test_top1: list[dict[HeadStack, list[float]]] = []

    @property
    def epochs(self) -> int:
        return self.recipes[0].epochs

    def train_epoch(self, layers: Layers, epoch: int) -> float:
        """One pass over the rows; returns the smallest mean loss of a head.

        Raises:
            DataError: every head has diverged.
        """
        losses = {stack: stack.train_epoch(layers[stack.recipe.layer], epoch).tolist() for stack in self.stacks}
        self.train_loss.append(losses)
        finite = [loss for of_stack in losses.values() for loss in of_stack if math.isfinite(loss)]
        if not finite:
            raise DataError(f"The linear head diverged in epoch {epoch}. Try a smaller learning rate (--lr).")
        return min(finite)

    def test(self, test: LabeledFeatures) -> None:
        """Append the current top-1 accuracies to `test_top1`."""
        self.test_top1.append({
            stack: stack.judge(test.layers[stack.recipe.layer], test.labels)[0].tolist() for stack in self.stacks
        })  # fmt: skip

    def judge(self, train: LabeledFeatures, rows: torch.Tensor) -> list[tuple[float, float]]:
        """Top-1 accuracy and mean loss of every recipe's head on these rows."""
        judged = {
            stack: stack.judge(train.layers[stack.recipe.layer][rows], train.labels[rows]) for stack in self.stacks
        }
        return [(float(judged[stack][0][k]), float(judged[stack][1][k])) for stack, k in self.positions]

    def curves(self, index: int) -> tuple[list[float], list[float]]:
        """Training loss and test top-1 by epoch of the head of recipe `index`."""
        stack, k = self.positions[index]
        return [losses[stack][k] for losses in self.train_loss], [top1[stack][k] for top1 in self.test_top1]

    def head(self, index: int) -> Head:
        """The head of recipe `index`."""
        stack, k = self.positions[index]
        return stack.head(k)

    def state(self) -> dict[str, Any]:
        """Heads and curves as tensors and lists, for a file."""
        curves = {"losses": self.train_loss, "test_top1": self.test_top1}
        listed = {
            name: [[values[stack] for stack in self.stacks] for values in curve] for name, curve in curves.items()
        }
        return {"stacks": [stack.state() for stack in self.stacks], **listed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a `state` of a group of the same recipes."""
        for stack, saved in zip(self.stacks, state["stacks"], strict=True):
            stack.restore(saved)
        self.train_loss, self.test_top1 = (
            [dict(zip(self.stacks, values, strict=True)) for values in state[name]] for name in ("losses", "test_top1")
        )


def train_heads(
    groups: Sequence[HeadGroup],
    feed: Feed,
    after_epoch: Callable[[str], None],
    test: LabeledFeatures | None = None,
    tested: Sequence[HeadGroup] = (),
    state: ProbeState | None = None,
) -> None:
    """Train all groups, which have the same number of epochs, in one pass over the feed.

    Args:
        after_epoch: called with a note after every epoch.
        test, tested: the test set, and the groups whose accuracy on it is followed.
        state: where the heads are saved after every epoch, and resumed from.

    Raises:
        DataError: every head of a group diverged; the saved state belongs to another training.
    """
    first = 0
    if state is not None and (saved := state.load()) is not None:
        first = saved["epoch"]
        for group, of_group in zip(groups, saved["heads"], strict=True):
            group.restore(of_group)
        for _ in range(first):
            after_epoch("")
    for epoch in range(first, groups[0].epochs):
        layers = feed(epoch)
        loss = min(group.train_epoch(layers, epoch) for group in groups)
        if test is not None:
            for group in tested:
                group.test(test)
        if state is not None:
            state.save(epoch + 1, [group.state() for group in groups])
        after_epoch(f"loss {loss:.4f}")
