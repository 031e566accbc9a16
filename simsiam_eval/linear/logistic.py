"""Logistic regression on frozen features with scikit-learn's L-BFGS."""

from __future__ import annotations

import warnings

import torch

from simsiam_eval.linear.heads import Head
from simsiam_eval.linear.protocols import LogisticRecipe
from simsiam_eval.linear.scaling import Scaling
from simsiam_eval.runtime.progress import say

_MAX_ITER = 1000


def fit_logistic(recipe: LogisticRecipe, features: torch.Tensor, labels: torch.Tensor) -> Head:
    """Fit features (N,D) float32 and labels (N,) int64 in 0..C-1, on the CPU; warns where it does not converge."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    scaling = Scaling.fit(recipe.scaling, features)
    model = LogisticRegression(C=recipe.c, max_iter=_MAX_ITER, random_state=recipe.seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(scaling(features).cpu().numpy(), labels.cpu().numpy())
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        say(f"C {recipe.c:g}: not converged after {_MAX_ITER} iterations. Standard scaling usually helps.")
    weight, bias = (torch.from_numpy(array).to(features) for array in (model.coef_, model.intercept_))
    if len(weight) == 1:  # two classes: scikit-learn keeps the score of the second against 0
        weight, bias = (torch.cat([torch.zeros_like(tensor), tensor]) for tensor in (weight, bias))
    return Head(weight, bias, recipe.layer, scaling)
