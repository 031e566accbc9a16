"""Algorithm 1 of SimSiam (Chen and He, arXiv 2011.10566), with the paper's ablations.

`train` is the algorithm. Below it: the similarity D, how a batch is computed, and the learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from pretrain.callback import Callback, Position, StepResult
from pretrain.model import Outputs
from simsiam_eval.linear.schedule import epoch_lr
from simsiam_eval.runtime.device import autocast


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs, steps: number of epochs, and of steps in each.
        lr: learning rate of the whole batch (the paper's lr x batch / 256).
        warmup_epochs: epochs of linear warm-up before the cosine schedule.
        loss: cosine (the negative cosine similarity) or cross-entropy (Sec. 4.5).
        stop_gradient: without it the output collapses (Sec. 4.1).
        symmetric: both views predict each other, or the first predicts the second (Sec. 4.6).
        accumulate: number of parts that a batch is computed in, one after another.
        precision: float32 or bf16 (autocast of the forward pass).
        channels_last: memory format of the views.
        cuda_graphs: the model is compiled to CUDA graphs.
    """

    epochs: int
    steps: int
    lr: float
    warmup_epochs: int = 0
    loss: str = "cosine"
    stop_gradient: bool = True
    symmetric: bool = True
    accumulate: int = 1
    precision: str = "float32"
    channels_last: bool = False
    cuda_graphs: bool = False


def train(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[Tensor, Tensor]],
    recipe: Recipe,
    position: Position,
    callbacks: Callback,
) -> None:
    """Train from `position` to the end of the recipe.

    Args:
        model: `SimSiam`, or DistributedDataParallel around it: f (encoder and projector) and h (predictor).
        optimizer: over the groups of `parameter_groups`.
        batches: two views of the images of each step, (B,3,S,S) float32 each; of this process's part of the batch.
        position: advanced with every step.
        callbacks: log, health, checkpoint.
    """
    D = negative_similarity(recipe.loss, recipe.stop_gradient)
    for epoch in range(position.epoch, recipe.epochs):
        set_learning_rate(optimizer, recipe, epoch)
        callbacks.before_epoch()
        for step in range(position.step, recipe.steps):
            views = next(batches)
            loss = torch.zeros((), device=views[0].device)
            for x1, x2, gradient_exchange in parts(model, views, recipe.accumulate):
                with gradient_exchange:
                    p1, p2, z1, z2, features = forward(model, x1, x2, recipe)  # z = f(x), p = h(z)
                    part_loss = 0.5 * (D(p1, z2) + D(p2, z1)) if recipe.symmetric else D(p1, z2)
                    part_loss = part_loss / recipe.accumulate
                    part_loss.backward()
                loss += part_loss.detach()
            optimizer.step()
            optimizer.zero_grad()
            position.step = step + 1
            callbacks.after_step(StepResult(loss, features.detach(), z1.detach(), z2.detach()))
        summary: dict[str, Any] = {"epoch": epoch}
        callbacks.end_epoch(summary)
        position.complete_epoch(summary)
        callbacks.after_epoch(summary)


def negative_similarity(loss: str = "cosine", stop_gradient: bool = True) -> Callable[[Tensor, Tensor], Tensor]:
    """D(p, z) of (B,d) predictions and projections: a scalar, the mean over the batch, in float32 or wider.

    Args:
        loss: cosine: -cos(p, z), in [-1, 1]; cross-entropy: of softmax(p) under softmax(z).
        stop_gradient: z is a constant.
    """
    distance = _negative_cosine if loss == "cosine" else _cross_entropy

    def D(p: Tensor, z: Tensor) -> Tensor:
        p, z = (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in (p, z))
        if stop_gradient:
            z = z.detach()
        return distance(p, z)

    return D


def _negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    return -F.cosine_similarity(p, z).mean()


def _cross_entropy(p: Tensor, z: Tensor) -> Tensor:
    return -(z.softmax(dim=1) * p.log_softmax(dim=1)).sum(dim=1).mean()


def parts(
    model: torch.nn.Module, views: tuple[Tensor, Tensor], count: int
) -> Iterator[tuple[Tensor, Tensor, AbstractContextManager[Any]]]:
    """A batch in `count` equal parts, for gradient accumulation, each with the context of its backward pass.

    Gradients are those of the mean over the whole batch, but BN sees one part at a time. Processes exchange gradients
    once per step, in the last part.
    """
    for number, (x1, x2) in enumerate(zip(*(view.chunk(count) for view in views), strict=True), start=1):
        waits = number < count and isinstance(model, DistributedDataParallel)
        yield x1, x2, model.no_sync() if waits else nullcontext()  # type: ignore[operator]


def forward(model: torch.nn.Module, x1: Tensor, x2: Tensor, recipe: Recipe) -> Outputs:
    """Projections and predictions of two views (B,3,S,S), in the precision and memory format of the recipe."""
    if recipe.cuda_graphs:
        torch.compiler.cudagraph_mark_step_begin()
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    with autocast(x1.device, recipe.precision):
        outputs: Outputs = model(x1.contiguous(memory_format=layout), x2.contiguous(memory_format=layout))
    return outputs


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: int) -> None:
    """Set the learning rate of an epoch: linear warm-up, then cosine over the remaining epochs.

    A group marked `fix_lr` keeps `recipe.lr`; one with `warms_up` False skips the warm-up (see `parameter_groups`).
    """
    warming = epoch < recipe.warmup_epochs
    lr = epoch_lr(recipe.lr, epoch, recipe.epochs, recipe.warmup_epochs)
    for group in optimizer.param_groups:
        constant = group.get("fix_lr") or (warming and not group.get("warms_up", True))
        group["lr"] = recipe.lr if constant else lr
