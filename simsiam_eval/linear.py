"""A linear classifier on frozen features, trained as SimSiam's linear evaluation trains its fc layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from simsiam_eval.lars import LARS
from simsiam_eval.schedule import cosine_lr


@dataclass(frozen=True)
class HeadRecipe:
    """Settings of one head; `lr` is per 256 images, so the optimiser sees lr * batch_size / 256."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    lars: bool
    seed: int


def train_linear_head(
    features: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    recipe: HeadRecipe,
    after_epoch: Callable[[int, torch.nn.Linear, float], None],
) -> torch.nn.Linear:
    """Train Linear(D, classes) with cross-entropy; weight N(0, .01), bias 0, cosine once an epoch (paper, App. A).

    Args:
        features: (N,D) float32 on the device to train on.
        labels: (N,) int64 in 0..classes-1.
        after_epoch: called with the epoch (from 0), the head and the mean training loss.

    Returns:
        The head of the last epoch. A batch larger than N is one step on all rows, its lr still that of the batch.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    head = torch.nn.Linear(features.shape[1], classes, device=features.device)
    with torch.no_grad():
        head.weight.copy_(torch.empty(head.weight.shape).normal_(0.0, 0.01, generator=generator))
        head.bias.zero_()
    optimiser_class = LARS if recipe.lars else torch.optim.SGD
    lr = recipe.lr * recipe.batch_size / 256
    optimiser = optimiser_class(head.parameters(), lr=lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    for epoch in range(recipe.epochs):
        for group in optimiser.param_groups:
            group["lr"] = cosine_lr(lr, epoch, recipe.epochs)
        order = torch.randperm(len(features), generator=generator).to(features.device)
        total_loss = torch.zeros((), device=features.device)
        for rows in order.split(recipe.batch_size):
            loss = functional.cross_entropy(head(features[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total_loss += loss.detach() * len(rows)
        after_epoch(epoch, head, float(total_loss) / len(features))
    return head


@torch.no_grad()
def correct_predictions(head: torch.nn.Linear, features: torch.Tensor, labels: torch.Tensor, top: int) -> torch.Tensor:
    """Whether each row's label is among the `top` highest scores: (N,) bool."""
    best = [head(block).topk(min(top, head.out_features), dim=1).indices for block in features.split(8192)]
    return (torch.cat(best) == labels[:, None]).any(dim=1)
