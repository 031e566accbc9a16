"""The kNN classifier of the `knn` command as a scikit-learn estimator."""

from __future__ import annotations

import warnings
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from simsiam_eval.features.arrays import as_numpy
from simsiam_eval.features.rows import FeatureRows
from simsiam_eval.neighbors.classify import classify
from simsiam_eval.neighbors.exact import search, search_blocks
from simsiam_eval.neighbors.votes import vote_shares
from simsiam_eval.runtime.device import resolve_device
from simsiam_eval.vocabulary import METRICS


class KNNClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Weighted k-nearest-neighbor classifier on frozen features (InstDisc, Wu et al. 2018), searched exactly.

    Its accuracy equals that of the command `knn` with the same features, k and temperature.

    Args:
        n_neighbors: k; with fewer training rows all of them vote, which is warned of.
        temperature: T > 0 of a vote's weight exp(similarity / T); None: one neighbor, one vote.
        metric: "cosine", or "l2": minus half the squared distance.
        device: auto, cpu, cuda or cuda:N, where similarities are computed.

    Attributes:
        classes_: (C,) the labels seen in `fit`.
        n_features_in_: D.

    >>> import simsiam_eval as se
    >>> X, y = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], ["ant", "ant", "bee"]
    >>> se.KNNClassifier(n_neighbors=1).fit(X, y).predict([[0.2, 1.0]]).tolist()
    ['bee']
    """

    def __init__(
        self,
        n_neighbors: int = 20,
        *,
        temperature: float | None = 0.07,
        metric: str = "cosine",
        device: str = "auto",
    ) -> None:
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        self.metric = metric
        self.device = device

    def fit(self, X: Any, y: Any) -> Self:
        """Keep the training features.

        Args:
            X: (N,D) array, tensor, or features on the disk (`open_features(...).X`), which stay there.
            y: (N,) labels of any kind. Every value is a class, also the -1 of rows without a label: leave these out, as by
                `features.subset(features.y >= 0)`.

        Raises:
            ValueError: a parameter or a shape is wrong, or a feature is not finite.
        """
        self._check_parameters()
        if isinstance(X, FeatureRows):
            y = np.asarray(as_numpy(y))
            if y.shape != (len(X),):
                raise ValueError(f"X has {len(X)} rows and y has shape {y.shape}")
            self._bank: Any = X
            self.n_features_in_ = X.shape[1]
        else:
            self._bank, y = validate_data(self, as_numpy(X), as_numpy(y), dtype=np.float32, order="C")
        check_classification_targets(y)
        self.classes_, self._labels = np.unique(y, return_inverse=True)
        if self.n_neighbors > len(self._bank):
            warnings.warn(
                f"n_neighbors={self.n_neighbors}, but there are only {len(self._bank)} training rows; all of them vote",
                stacklevel=2,
            )
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels (M,) of the rows of X (M,D)."""
        queries = self._queries(X)
        ranked = classify(
            self._bank,
            self._labels,
            queries,
            [int(self.n_neighbors)],
            [self.temperature],
            self.metric,
            resolve_device(self.device),
            top=1,
        ).ranked
        (best,) = ranked.values()
        labels: NDArray[Any] = self.classes_[best[:, 0]]
        return labels

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Each class's share of the votes (M,C), in the order of `classes_`; `predict` gives the class of the largest."""
        queries = self._queries(X)
        blocks = search_blocks(self._bank, queries, int(self.n_neighbors), self.metric, resolve_device(self.device))
        shares = [
            vote_shares(similarities, self._labels[rows], len(self.classes_), self.temperature)
            for _, similarities, rows in blocks
        ]
        return np.concatenate([np.empty((0, len(self.classes_)), dtype=np.float32), *shares])

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Similarities (M,k) float32, descending, and training rows (M,k) of the nearest neighbors of X (M,D).

        Args:
            X: None: the training rows, each left out of its own neighbors.
            n_neighbors: k; default: that of the classifier.
        """
        check_is_fitted(self)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        _check_n_neighbors(k)
        queries = None if X is None else self._queries(X)
        return search(self._bank, queries, int(k), self.metric, resolve_device(self.device))

    def _queries(self, X: Any) -> Any:
        check_is_fitted(self)
        self._check_parameters()
        if not isinstance(X, FeatureRows):
            return validate_data(self, as_numpy(X), dtype=np.float32, order="C", reset=False)
        if X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {X.shape[1]} features, but KNNClassifier is expecting {self.n_features_in_} features"
            )
        return X

    def _check_parameters(self) -> None:
        _check_n_neighbors(self.n_neighbors)
        temperature = self.temperature
        if temperature is not None and (
            not isinstance(temperature, Real) or isinstance(temperature, bool) or not temperature > 0
        ):
            raise ValueError(f"temperature must be above 0 or None, got {temperature!r}")
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")


def _check_n_neighbors(value: Any) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"n_neighbors must be a positive integer, got {value!r}")
