"""Linear probes: heads chosen on a part held out of the training set, refitted on all of it, and only then tested."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from simsiam_eval.errors import DataError
from simsiam_eval.features.splits import hold_out
from simsiam_eval.linear.heads import Head, HeadRecipe, HeadStack, stacks_of
from simsiam_eval.linear.state import ProbeState

Layers = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class ProbeData:
    """Features of one center crop per image by layer, (N,D) float32, and labels in 0..classes-1, all on one device."""

    train: Layers
    train_labels: torch.Tensor
    test: Layers
    test_labels: torch.Tensor
    class_names: Sequence[str]

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def device(self) -> torch.device:
        return self.train_labels.device


class Feed(Protocol):
    """What the heads are trained on.

    Attributes:
        name: crop, views or end-to-end.
        costly: whether an epoch of it costs so much that all heads are trained in one pass.
    """

    name: str
    costly: bool

    def __call__(self, epoch: int) -> Layers:
        """The training set's features by layer, for that epoch."""


class CropFeed:
    """The same features in every epoch."""

    name, costly = "crop", False

    def __init__(self, features: Layers) -> None:
        self._features = features

    def __call__(self, epoch: int) -> Layers:
        return self._features


class ViewFeed:
    """Another of V augmented views in every epoch, from the first again after the last: `views` (N,V,D) of one layer."""

    name, costly = "views", False

    def __init__(self, layer: str, views: torch.Tensor, device: torch.device) -> None:
        self._layer, self._views, self._device = layer, views, device

    def __call__(self, epoch: int) -> Layers:
        view = self._views[:, epoch % self._views.shape[1]].to(self._device, torch.float32)
        return {self._layer: view.contiguous()}


@dataclass(frozen=True)
class Probe:
    """One question: how good is the best of `recipes`, all different, for these training rows (default: all)?"""

    recipes: tuple[Any, ...]  # HeadRecipe or LogisticRecipe, of one kind and seed
    rows: NDArray[np.int64] | None = None

    def chooses(self, data: ProbeData) -> bool:
        """Whether there are recipes to choose from, and a class with two images to hold one out of."""
        if len(self.recipes) == 1:
            return False
        rows = self.all_rows(data)
        labels = data.train_labels if rows is None else data.train_labels[rows]
        return bool(labels.bincount().max() > 1)

    def halves(self, data: ProbeData, share: float) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Its rows without the held-out ones, and those, drawn by the recipes' seed; None where it does not choose."""
        if not self.chooses(data):
            return None
        labels = data.train_labels.cpu().numpy()
        rows = np.arange(len(labels)) if self.rows is None else self.rows
        kept, held = hold_out(labels[rows], share, self.recipes[0].seed)
        return torch.from_numpy(rows[kept]).to(data.device), torch.from_numpy(rows[held]).to(data.device)

    def middle(self) -> int:
        """Place of the recipe that is taken where none can be chosen: the middle lr or C of the first layer, scaling and
        weight decay. Of --sweep and of the C of `logistic` that is the protocol's own lr, and 1."""
        first = self.recipes[0].varied()
        fixed = [name for name in first if name not in ("lr", "c")]
        alike = [at for at, one in enumerate(self.recipes) if all(one.varied()[name] == first[name] for name in fixed)]
        return alike[len(alike) // 2]

    def all_rows(self, data: ProbeData) -> torch.Tensor | None:
        return None if self.rows is None else torch.from_numpy(self.rows).to(data.device)


@dataclass
class Fitted:
    """The answer: the best recipe's head, trained on all the probe's rows.

    Attributes:
        tried: what the held-out part said of every recipe; empty where there was one only, or nothing to hold out.
        train_loss, test_top1: by epoch.
    """

    head: Head
    recipe: Any
    tried: list[dict[str, Any]]
    train_loss: list[float]
    test_top1: list[float]


def fit_probes(
    probes: Sequence[Probe],
    data: ProbeData,
    feed: Feed,
    held_out: float,
    after_epoch: Callable[[str], None],
    kept: ProbeState | None = None,
) -> list[Fitted]:
    """Choose, refit and follow a head for every probe; the recipes of all have the same number of epochs.

    Args:
        held_out: share of a probe's rows by which its recipe is chosen, where there is more than one: the best top-1 after
            the last epoch, the smaller loss among equals.
        after_epoch: called with a note after every epoch, `passes(probes, data, feed)` times the epochs.
        kept: where a costly training is kept after every epoch, and goes on from.

    Raises:
        DataError: the head, or all of the heads to choose from, diverged; what was kept is of another training.
    """
    halves = {number: probe.halves(data, held_out) for number, probe in enumerate(probes)}
    splits = {number: both for number, both in halves.items() if both is not None}
    trials = {number: _Heads(probes[number].recipes, data, kept) for number, (kept, _) in splits.items()}
    tried: dict[int, list[dict[str, Any]]] = {}

    def best(number: int) -> int:
        """The place of the probe's best recipe."""
        if number not in splits:
            return probes[number].middle()
        tried[number] = trials[number].judged(data.train, data.train_labels, splits[number][1])
        if all(one["held_out_top1"] is None for one in tried[number]):
            raise DataError("All of the heads to choose from diverged: try smaller values of --lr.")
        return best_of(tried[number])

    if feed.costly:
        finals = [_Heads(probe.recipes, data, probe.all_rows(data)) for probe in probes]
        _train([*trials.values(), *finals], finals, data, feed, after_epoch, kept)
        chosen = [best(number) for number in range(len(probes))]
    else:
        if trials:
            _train(list(trials.values()), [], data, feed, after_epoch)
        won = [probe.recipes[best(number)] for number, probe in enumerate(probes)]
        finals = [_Heads((one,), data, probe.all_rows(data)) for one, probe in zip(won, probes, strict=True)]
        _train(finals, finals, data, feed, after_epoch)
        chosen = [0] * len(probes)
    pairs = enumerate(zip(finals, chosen, strict=True))
    return [heads.fitted(place, tried.get(number, []), data) for number, (heads, place) in pairs]


def passes(probes: Sequence[Probe], data: ProbeData, feed: Feed) -> int:
    """How many times `fit_probes` goes through the epochs."""
    return 2 if not feed.costly and any(probe.chooses(data) for probe in probes) else 1


class _Heads:
    """The heads of some recipes on the same rows, and their curves."""

    def __init__(self, recipes: Sequence[HeadRecipe], data: ProbeData, rows: torch.Tensor | None) -> None:
        self.stacks = stacks_of(recipes, data.train, data.train_labels, data.classes, rows)
        places = {one: (stack, number) for stack in self.stacks for number, one in enumerate(stack.recipes)}
        self.recipes, self.places = recipes, [places[one] for one in recipes]
        self.losses: list[dict[HeadStack, list[float]]] = []
        self.test_top1: list[dict[HeadStack, list[float]]] = []

    def train_epoch(self, features: Layers, epoch: int) -> float:
        """The smallest loss of a head."""
        now = {stack: stack.train_epoch(features[stack.recipe.layer], epoch).tolist() for stack in self.stacks}
        self.losses.append(now)
        finite = [loss for losses in now.values() for loss in losses if math.isfinite(loss)]
        if not finite:
            raise DataError(f"The linear head diverged in epoch {epoch}: try a smaller --lr.")
        return min(finite)

    def test(self, data: ProbeData) -> None:
        """Go on with the curves of the test set."""
        judged = {one: one.judge(data.test[one.recipe.layer], data.test_labels)[0].tolist() for one in self.stacks}
        self.test_top1.append(judged)

    def judged(self, features: Layers, labels: torch.Tensor, rows: torch.Tensor) -> list[dict[str, Any]]:
        """By recipe: what varies, top-1 and loss on `rows`."""
        found = {one: one.judge(features[one.recipe.layer][rows], labels[rows]) for one in self.stacks}
        return [
            recipe.varied() | _judged(float(found[stack][0][number]), float(found[stack][1][number]))
            for recipe, (stack, number) in zip(self.recipes, self.places, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """Heads and curves."""
        curves = {"losses": self.losses, "test_top1": self.test_top1}
        listed = {name: [[epoch[one] for one in self.stacks] for epoch in curve] for name, curve in curves.items()}
        return {"stacks": [stack.state() for stack in self.stacks], **listed}

    def restore(self, state: Mapping[str, Any]) -> None:
        for stack, one in zip(self.stacks, state["stacks"], strict=True):
            stack.restore(one)
        self.losses, self.test_top1 = (
            [dict(zip(self.stacks, epoch, strict=True)) for epoch in state[name]] for name in ("losses", "test_top1")
        )

    def fitted(self, place: int, tried: list[dict[str, Any]], data: ProbeData) -> Fitted:
        stack, number = self.places[place]
        losses = [epoch[stack][number] for epoch in self.losses]
        top1 = [epoch[stack][number] for epoch in self.test_top1]
        head = stack.head(number)
        # The loss is of before each step: the scores are of after the last.
        if not (math.isfinite(losses[-1]) and head.scores(data.test[head.layer]).isfinite().all()):
            which = (
                f"chosen head ({', '.join(f'{name} {value}' for name, value in self.recipes[place].varied().items())})"
            )
            raise DataError(f"The {which if tried else 'linear head'} diverged: try smaller values of --lr.")
        return Fitted(head, self.recipes[place], tried, losses, top1)


def _judged(top1: float, loss: float) -> dict[str, float | None]:
    """What the held-out part says of a recipe; of a head that diverged there is no accuracy."""
    return {"held_out_top1": top1 if math.isfinite(loss) else None, "held_out_loss": loss}


def _train(
    trained: Sequence[_Heads],
    tested: Sequence[_Heads],
    data: ProbeData,
    feed: Feed,
    after_epoch: Callable[[str], None],
    kept: ProbeState | None = None,
) -> None:
    first = 0
    if kept is not None and (there := kept.load()) is not None:
        first = there["epoch"]
        for heads, state in zip(trained, there["heads"], strict=True):
            heads.restore(state)
        for _ in range(first):
            after_epoch("")
    for epoch in range(first, trained[0].recipes[0].epochs):
        features = feed(epoch)
        loss = min(heads.train_epoch(features, epoch) for heads in trained)
        for heads in tested:
            heads.test(data)
        if kept is not None:
            kept.save(epoch + 1, [heads.state() for heads in trained])
        after_epoch(f"loss {loss:.4f}")


def best_of(tried: Sequence[dict[str, Any]]) -> int:
    """Place of the best head: by top-1, then by loss; a diverged one is worse than any other."""

    def worth(place: int) -> tuple[float, float]:
        top1, loss = (tried[place][name] for name in ("held_out_top1", "held_out_loss"))
        return (-1.0, 0.0) if top1 is None else (top1, -loss)

    return max(range(len(tried)), key=worth)


def judge(head: Head, features: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """A head's top-1 accuracy and mean loss on (N,D), (N,)."""
    scores = head.scores(features)
    right = (scores.argmax(dim=1) == labels).double().mean()
    return float(right), float(functional.cross_entropy(scores, labels))
