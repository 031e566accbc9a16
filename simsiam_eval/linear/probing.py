"""Linear probes: choose the best recipe on held-out training rows and refit it on all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from simsiam_eval.errors import DataError
from simsiam_eval.linear.feeds import CropFeed, Feed
from simsiam_eval.linear.heads import Head
from simsiam_eval.linear.logistic import fit_logistic
from simsiam_eval.linear.protocols import ONE_LAYER, HeadRecipe, LogisticRecipe, Recipe
from simsiam_eval.linear.selection import Candidate, Probe, best_of
from simsiam_eval.linear.state import ProbeState
from simsiam_eval.linear.training import HeadGroup, LabeledFeatures, train_heads

_MAX_FEATURE = 1e15  # squares of gradients beyond it overflow float32, and the trust ratio would be 0

Array = NDArray[Any] | torch.Tensor


@dataclass(frozen=True)
class LinearFit:
    """A head trained on all rows of its probe.

    Attributes:
        head: `weight` (C,D) and `bias` (C,) float32, on the device it was trained on, and the scaling of the features.
        recipe: the recipe it was trained by.
        classes: (C,) int64, sorted: the label of each row of `weight`.
        candidates: the recipes it was chosen from; empty where there was only one, or no image to hold out.
        train_loss: mean cross-entropy by epoch, before each step; empty for logistic regression.
        test_top1: accuracy on the test set by epoch; empty for logistic regression and without a test set.
    """

    head: Head
    recipe: Recipe
    classes: NDArray[np.int64]
    candidates: tuple[Candidate, ...]
    train_loss: list[float]
    test_top1: list[float]


def fit_linear(
    features: Array | Mapping[str, Array],
    labels: Array,
    recipes: Sequence[Recipe],
    *,
    rows: NDArray[np.int64] | None = None,
    held_out: float = 0.1,
    device: torch.device | str = "cpu",
    feed: Feed | None = None,
    test: LabeledFeatures | None = None,
    after_step: Callable[[str], None] = lambda note: None,
) -> LinearFit:
    """Train a linear head on frozen features; with several recipes, the best on held-out rows, refitted on all.

    `linear-eval` and `LinearProbe` both train by this function.

    Args:
        features: (N,D), or layer -> (N,D) for recipes of several layers.
        labels: (N,) integers; at least two different ones.
        recipes: of `PROTOCOLS[name].recipes(seed, layers)`, which draws everything random from the seed.
        rows: (M,) rows to train on, all classes among them; default: all.
        held_out: share of every class that several recipes are compared on: by top-1, then by loss.
        feed: the features of each epoch; default: `features` in all of them.
        test: a test set whose accuracy is followed by epoch; labels are indices into the sorted classes.
        after_step: called with a note after every epoch, or every logistic regression.

    Raises:
        DataError: the head diverged, or the features are too large for float32.

    >>> from simsiam_eval.linear.protocols import PROTOCOLS
    >>> X, y = np.array([[0.0, 1.0], [1.0, 0.0]] * 20, dtype=np.float32), np.array([3, 8] * 20)
    >>> fit = fit_linear(X, y, PROTOCOLS["small"].recipes(seed=0))
    >>> fit.classes[fit.head.scores(torch.from_numpy(X[:2])).argmax(dim=1).numpy()]
    array([3, 8])
    """
    train, classes = labeled_features(features, labels, device)
    check_range(train, recipes)
    probe = Probe(tuple(recipes), rows)
    feed = feed or CropFeed(train.layers)
    recipe = probe.recipes[probe.middle()]
    candidates: tuple[Candidate, ...] = ()
    if (split := probe.split(train, held_out)) is not None:
        candidates = _compare(probe.recipes, train, len(classes), split, feed, after_step)
        recipe = best_of(candidates).recipe
    if isinstance(recipe, LogisticRecipe):
        head = _logistic(recipe, train, probe.rows_on(train.device))
        after_step(f"C {recipe.c:g}")
        return LinearFit(head, recipe, classes, candidates, [], [])
    group = HeadGroup([recipe], train, len(classes), probe.rows_on(train.device))
    train_heads([group], feed, after_step, test, [group])
    return _fit_of(group, 0, classes, candidates, train if test is None else test)


def fit_in_one_pass(
    probes: Sequence[Probe],
    train: LabeledFeatures,
    feed: Feed,
    *,
    test: LabeledFeatures,
    held_out: float = 0.1,
    state: ProbeState | None = None,
    after_step: Callable[[str], None] = lambda note: None,
) -> list[LinearFit]:
    """As `fit_linear` for each probe of HeadRecipes, but all heads train at once: for a feed whose epochs are costly.

    Besides the candidates on their part of the rows, a head of every recipe is trained on all of them, since the choice
    is only known at the end.

    Args:
        state: where the heads are saved after every epoch, and resumed from.

    Raises:
        DataError: a head, or all candidates of a probe, diverged; the saved state belongs to another training.
    """
    classes = torch.unique(train.labels).cpu().numpy()
    for probe in probes:
        check_range(train, probe.recipes)
    splits = {index: split for index, probe in enumerate(probes) if (split := probe.split(train, held_out)) is not None}
    trials = {index: _group(probes[index].recipes, train, len(classes), kept) for index, (kept, _) in splits.items()}
    finals = [_group(probe.recipes, train, len(classes), probe.rows_on(train.device)) for probe in probes]
    train_heads([*trials.values(), *finals], feed, after_step, test, finals, state)
    fits = []
    for index, (probe, final) in enumerate(zip(probes, finals, strict=True)):
        chosen = probe.middle()
        candidates: tuple[Candidate, ...] = ()
        if index in splits:
            candidates = _candidates(trials[index], train, splits[index][1])
            chosen = probe.recipes.index(best_of(candidates).recipe)
        fits.append(_fit_of(final, chosen, classes, candidates, test))
    return fits


def labeled_features(
    features: Array | Mapping[str, Array], labels: Array, device: torch.device | str
) -> tuple[LabeledFeatures, NDArray[np.int64]]:
    """Features as float32 tensors on `device` with labels as indices into the sorted classes, and the classes (C,)."""
    layers = features if isinstance(features, Mapping) else {ONE_LAYER[0]: features}
    classes, indices = torch.unique(_tensor(labels), return_inverse=True)
    tensors = {layer: _tensor(values).to(device, torch.float32) for layer, values in layers.items()}
    return LabeledFeatures(tensors, indices.to(device)), classes.cpu().numpy()


def _tensor(array: Array) -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        return array
    return torch.from_numpy(np.require(array, requirements=("C", "W")))  # torch warns of arrays that are read-only


def check_range(train: LabeledFeatures, recipes: Sequence[Recipe]) -> None:
    """Reject features so large that their gradients overflow float32.

    Raises:
        DataError: those of a layer that a recipe reads unscaled.
    """
    for layer in dict.fromkeys(recipe.layer for recipe in recipes if recipe.scaling == "none"):
        if (largest := max(abs(float(bound)) for bound in train.layers[layer].aminmax())) > _MAX_FEATURE:
            raise DataError(
                f"The training features of layer {layer} reach {largest:.1e}; gradients of features beyond "
                f"{_MAX_FEATURE:g} overflow float32. Use l2 or standard scaling (--scaling)."
            )


def judge(head: Head, features: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Top-1 accuracy and mean cross-entropy of a head on features (N,D) and labels (N,)."""
    correct, loss = 0, 0.0
    for rows, scores in head.score_blocks(features):
        correct += int((scores.argmax(dim=1) == labels[rows]).sum())
        loss += float(functional.cross_entropy(scores, labels[rows], reduction="sum"))
    return correct / len(labels), loss / len(labels)


def _compare(
    recipes: Sequence[Recipe],
    train: LabeledFeatures,
    classes: int,
    split: tuple[torch.Tensor, torch.Tensor],
    feed: Feed,
    after_step: Callable[[str], None],
) -> tuple[Candidate, ...]:
    """Train all recipes on the first part of the split, and judge them on the second."""
    kept, held_out = split
    if isinstance(recipes[0], LogisticRecipe):
        candidates = []
        for recipe in recipes:
            assert isinstance(recipe, LogisticRecipe)
            head = _logistic(recipe, train, kept)
            top1, loss = judge(head, train.layers[recipe.layer][held_out], train.labels[held_out])
            candidates.append(_candidate(recipe, top1, loss))
            after_step(f"C {recipe.c:g} held-out top-1 {100 * top1:.2f}")
        return tuple(candidates)
    group = _group(recipes, train, classes, kept)
    train_heads([group], feed, after_step)
    return _candidates(group, train, held_out)


def _group(recipes: Sequence[Recipe], train: LabeledFeatures, classes: int, rows: torch.Tensor | None) -> HeadGroup:
    return HeadGroup([recipe for recipe in recipes if isinstance(recipe, HeadRecipe)], train, classes, rows)


def _candidates(group: HeadGroup, train: LabeledFeatures, held_out: torch.Tensor) -> tuple[Candidate, ...]:
    judged = zip(group.recipes, group.judge(train, held_out), strict=True)
    return tuple(_candidate(recipe, top1, loss) for recipe, (top1, loss) in judged)


def _candidate(recipe: Recipe, top1: float, loss: float) -> Candidate:
    return Candidate(recipe, top1 if math.isfinite(loss) else None, loss)


def _logistic(recipe: LogisticRecipe, train: LabeledFeatures, rows: torch.Tensor | None) -> Head:
    features, labels = train.layers[recipe.layer], train.labels
    return (
        fit_logistic(recipe, features, labels) if rows is None else fit_logistic(recipe, features[rows], labels[rows])
    )


def _fit_of(
    group: HeadGroup,
    index: int,
    classes: NDArray[np.int64],
    candidates: tuple[Candidate, ...],
    scored: LabeledFeatures,
) -> LinearFit:
    """The group's head `index`, unless it diverged: then a DataError."""
    head, recipe = group.head(index), group.recipes[index]
    train_loss, test_top1 = group.curves(index)
    # Losses are taken before each step; the scores are of the head after the last.
    if not (math.isfinite(train_loss[-1]) and _all_finite(head, scored.layers[head.layer])):
        values = ", ".join(f"{name} {value}" for name, value in recipe.varied().items())
        name = f"chosen head ({values})" if candidates else "linear head"
        raise DataError(f"The {name} diverged. Try smaller learning rates (--lr).")
    return LinearFit(head, recipe, classes, candidates, train_loss, test_top1)


def _all_finite(head: Head, features: torch.Tensor) -> bool:
    return all(bool(scores.isfinite().all()) for _, scores in head.score_blocks(features))
