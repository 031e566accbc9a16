"""Logistic regression on frozen features by scikit-learn's L-BFGS, its C chosen on a held-out part."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from simsiam_eval.linear.heads import Head
from simsiam_eval.linear.probing import Fitted, Probe, ProbeData, best_of, judge
from simsiam_eval.linear.scaling import Scaling
from simsiam_eval.runtime.progress import say

_MOST_STEPS = 1000


@dataclass(frozen=True)
class LogisticRecipe:
    """`c`: scikit-learn's inverse strength of the L2 penalty on the weights, beside the summed loss."""

    c: float
    seed: int = 0
    layer: str = "pool"
    scaling: str = "none"

    def varied(self) -> dict[str, float | str]:
        """What the heads of a sweep differ in."""
        return {name: getattr(self, name) for name in ("c", "layer", "scaling")}


def fit_logistic(
    probes: Sequence[Probe], data: ProbeData, held_out: float, after_fit: Callable[[str], None]
) -> list[Fitted]:
    """As `fit_probes`, for probes of LogisticRecipes; curves stay empty.

    Args:
        after_fit: called with a note after every fit.
    """
    answers = []
    for probe in probes:
        tried: list[dict[str, Any]] = []
        chosen = probe.recipes[probe.middle()]
        if (halves := probe.halves(data, held_out)) is not None:
            kept, held = halves
            for recipe in probe.recipes:
                head = _fit(recipe, data, kept)
                top1, loss = judge(head, data.train[recipe.layer][held], data.train_labels[held])
                tried.append(recipe.varied() | {"held_out_top1": top1, "held_out_loss": loss})
                after_fit(f"C {recipe.c:g} held-out top-1 {100 * top1:.2f}")
            chosen = probe.recipes[best_of(tried)]
        answers.append(Fitted(_fit(chosen, data, probe.all_rows(data)), chosen, tried, [], []))
        after_fit(f"C {chosen.c:g}")
    return answers


def fits(probes: Sequence[Probe], data: ProbeData) -> int:
    """How many fits `fit_logistic` makes."""
    return sum(1 + len(probe.recipes) * probe.chooses(data) for probe in probes)


def _fit(recipe: LogisticRecipe, data: ProbeData, rows: torch.Tensor | None) -> Head:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    features, labels = data.train[recipe.layer], data.train_labels
    if rows is not None:
        features, labels = features[rows], labels[rows]
    scaling = Scaling.fit(recipe.scaling, features)
    model = LogisticRegression(C=recipe.c, max_iter=_MOST_STEPS, random_state=recipe.seed)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(scaling(features).cpu().numpy(), labels.cpu().numpy())
    if any(issubclass(one.category, ConvergenceWarning) for one in told):
        say(f"C {recipe.c:g}: not converged after {_MOST_STEPS} steps; --scaling standard makes it easier.")
    weight, bias = (torch.from_numpy(one).to(features) for one in (model.coef_, model.intercept_))
    if len(weight) == 1:  # two classes: scikit-learn keeps the second's score against 0
        weight, bias = (torch.cat([torch.zeros_like(one), one]) for one in (weight, bias))
    return Head(weight, bias, recipe.layer, scaling)
