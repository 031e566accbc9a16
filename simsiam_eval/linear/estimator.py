"""The linear probe of the `linear-eval` command as a scikit-learn estimator."""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from simsiam_eval.features.arrays import as_numpy
from simsiam_eval.features.unit_length import writable
from simsiam_eval.linear.heads import Head
from simsiam_eval.linear.probing import fit_linear
from simsiam_eval.linear.protocols import PROTOCOLS, Protocol
from simsiam_eval.runtime.device import resolve_device

_TUNED = ("lr", "batch_size", "epochs", "schedule", "momentum", "weight_decay", "scaling", "c")


class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Linear classifier on frozen features, trained by a published protocol; by default SimSiam's, with LARS.

    Its accuracy equals that of the command `linear-eval` with the same features, protocol and seed.

    Args:
        protocol: simsiam-code, simsiam-paper, moco-sgd, dino, small or logistic; docs/linear.md describes them.
        lr, weight_decay, scaling, c: override the protocol's; a list of several values is a sweep, whose best is chosen
            on held-out training rows and refitted on all.
        batch_size, epochs, schedule, momentum: override the protocol's.
        held_out: share of every class that a sweep is compared on.
        random_state: seed, an integer, of the initial weights and the order of the rows.
        device: auto, cpu, cuda or cuda:N.

    Attributes:
        classes_: (C,) the labels seen in `fit`.
        coef_, intercept_: (C,D) and (C,) float32: scores are X @ coef_.T + intercept_. Standard scaling is folded into
            them, l2 scaling is not: its rows of X are divided by their lengths first.
        loss_curve_: mean cross-entropy of each epoch; empty for logistic.
        recipe_: the hyperparameters that were used, of a sweep the chosen ones.
        n_features_in_: D.

    >>> import simsiam_eval as se
    >>> X, y = [[0.0, 1.0], [1.0, 0.0]] * 20, ["ant", "bee"] * 20
    >>> probe = se.LinearProbe(protocol="small").fit(X, y)
    >>> probe.score(X, y), probe.coef_.shape
    (1.0, (2, 2))
    """

    def __init__(
        self,
        protocol: str = "simsiam-code",
        *,
        lr: Any = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        schedule: str | None = None,
        momentum: float | None = None,
        weight_decay: Any = None,
        scaling: Any = None,
        c: Any = None,
        held_out: float = 0.1,
        random_state: int = 0,
        device: str = "auto",
    ) -> None:
        self.protocol = protocol
        self.lr = lr
        self.batch_size = batch_size
        self.epochs = epochs
        self.schedule = schedule
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.scaling = scaling
        self.c = c
        self.held_out = held_out
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any) -> Self:
        """Train on X (N,D), array, tensor or features on the disk, and labels y (N,) of any kind.

        Every value of y is a class, also the -1 of rows without a label: leave these out, as by
        `features.subset(features.y >= 0)`.

        Raises:
            ValueError: a parameter or a shape is wrong, a feature is not finite, or there is one class only.
            DataError: the training diverged.
        """
        protocol = self._protocol()
        X, y = validate_data(self, as_numpy(X), as_numpy(y), dtype=np.float32, order="C")
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a linear probe needs at least two classes, got one class: {self.classes_.tolist()[0]!r}")
        fit = fit_linear(
            X,
            labels,
            protocol.recipes(seed=int(self.random_state)),
            held_out=self.held_out,
            device=resolve_device(self.device),
        )
        self.coef_, self.intercept_ = _folded(fit.head)
        self.loss_curve_, self.recipe_ = fit.train_loss, fit.recipe
        cpu = torch.device("cpu")
        self._head = replace(
            fit.head, weight=fit.head.weight.cpu(), bias=fit.head.bias.cpu(), scaling=fit.head.scaling.to(cpu)
        )
        return self

    def decision_function(self, X: Any) -> NDArray[np.float32]:
        """Scores (M,C) of the rows of X (M,D); (M,) for two classes: of the second, less the first."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Probabilities (M,C) of the rows of X (M,D), by softmax."""
        probabilities: NDArray[np.float32] = torch.from_numpy(self._scores(X)).softmax(dim=1).numpy()
        return probabilities

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (M,) of the rows of X (M,D)."""
        best = self._scores(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def _scores(self, X: Any) -> NDArray[np.float32]:
        check_is_fitted(self)
        X = validate_data(self, as_numpy(X), dtype=np.float32, order="C", reset=False)
        scores: NDArray[np.float32] = self._head.scores(torch.from_numpy(writable(X))).numpy()
        return scores

    def _protocol(self) -> Protocol:
        if not isinstance(self.protocol, str) or self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {self.protocol!r}")
        protocol = PROTOCOLS[self.protocol]
        seed = self.random_state
        if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"random_state must be an integer of at least 0, got {seed!r}")
        if not isinstance(self.held_out, Real) or not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, got {self.held_out!r}")
        changed = {name: getattr(self, name) for name in _TUNED if getattr(self, name) is not None}
        for name, value in changed.items():
            if not hasattr(protocol, name):
                raise ValueError(f"{name} cannot be used with protocol={self.protocol!r}")
            if isinstance(getattr(protocol, name), tuple):
                changed[name] = (value,) if isinstance(value, str) or np.ndim(value) == 0 else tuple(value)
        return replace(protocol, **changed)


def _folded(head: Head) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (C,D) and biases (C,) of the unscaled features, where the scaling is not l2."""
    weight, bias = head.weight.cpu().double(), head.bias.cpu().double()
    if head.scaling.mean is not None and head.scaling.std is not None:
        weight = weight / head.scaling.std.cpu().double()
        bias = bias - weight @ head.scaling.mean.cpu().double()
    return weight.float().numpy(), bias.float().numpy()
