"""Suspicious images of a labeled set: likely wrong labels, outliers and near-duplicates, from one search for neighbors.

docs/suspects.md defines the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.features.arrays import as_labels, as_rows
from simsiam_eval.features.rows import FeatureRows
from simsiam_eval.neighbors.duplicates import ROUNDING, Groups
from simsiam_eval.neighbors.exact import search_blocks
from simsiam_eval.neighbors.votes import vote_shares

if TYPE_CHECKING:
    from simsiam_eval.neighbors.approximate import NeighborIndex

K, TEMPERATURE = 20, 0.07  # of the votes, as of the protocol `dino` of kNN
OUTLIER_K = 10
_SMALLEST_CLASS = 3  # images, for a median to compare with
_ENTRIES = 1 << 22  # votes in memory at once: images x classes

Block = tuple[slice, NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class LabelSuspects:
    """How well each label of N images fits, by votes or probabilities.

    Attributes:
        margin: (N,) float32 in [-1, 1]: share of the given label minus that of the best other class; NaN where it cannot be
            judged: no label, or no other image of its class.
        suggested: (N,) int64 the best other class; -1 where there is none.
        support: (N,) float32, ranks equal margins: mean similarity of the neighbors that vote for the suggested class.
    """

    margin: NDArray[np.float32]
    suggested: NDArray[np.int64]
    support: NDArray[np.float32]

    def order(self) -> NDArray[np.int64]:
        """The judged rows, the most likely wrong label first; of equal ones the lower row."""
        order = np.lexsort((-self.support, self.margin))
        return order[: int((~np.isnan(self.margin)).sum())]  # NaN sorts last

    @property
    def count(self) -> int:
        """Number of images for which another class has more votes than the label."""
        return int((self.margin < 0).sum())


@dataclass(frozen=True)
class Outliers:
    """How far each of N images is from the others.

    Attributes:
        k: which neighbor the distances are to, or the last one where there are fewer.
        distance: (N,) float32 cosine distance (1 - cosine similarity) to the k-th nearest image.
        class_distance: (N,) float32 the same to the k-th nearest image with the same label; NaN where there is none.
        class_ratio: (N,) float32 class_distance divided by the median of its class; NaN in classes of one or two images.
    """

    k: int
    distance: NDArray[np.float32]
    class_distance: NDArray[np.float32]
    class_ratio: NDArray[np.float32]

    def order(self) -> NDArray[np.int64]:
        """Rows, the one farthest from all others first."""
        return np.argsort(-self.distance, kind="stable")

    def class_order(self) -> NDArray[np.int64]:
        """Rows with a `class_ratio`, the one farthest from its class first."""
        order = np.argsort(-self.class_ratio, kind="stable")
        return order[: int((~np.isnan(self.class_ratio)).sum())]


@dataclass(frozen=True)
class NeighborSuspects:
    """What one search finds: see the classes of the parts.

    Attributes:
        labels: None without two labeled classes.
        nearest: (N,) int64 the most similar other image; -1 if an approximate search found none.
        similarity: (N,) float32 its cosine similarity.
        groups: rows of each group of near-duplicates, joined where a row has another among its k nearest, the most similar
            group first.
        conflict: (N,) int64 the most similar near-duplicate with another label, among the k nearest; -1: none.
        conflict_similarity: (N,) float32 its cosine similarity; NaN: none.
    """

    labels: LabelSuspects | None
    outliers: Outliers
    nearest: NDArray[np.int64]
    similarity: NDArray[np.float32]
    groups: tuple[NDArray[np.int64], ...]
    conflict: NDArray[np.int64]
    conflict_similarity: NDArray[np.float32]

    def conflict_order(self) -> NDArray[np.int64]:
        """Rows with a near-duplicate of another label, the most similar pair first."""
        order = np.argsort(-self.conflict_similarity, kind="stable")
        return order[: int((self.conflict >= 0).sum())]


def label_suspects(
    features: Any,
    labels: Any,
    k: int = K,
    temperature: float | None = TEMPERATURE,
    device: torch.device | None = None,
    index: NeighborIndex | None = None,
    neighbors: Iterable[Block] | None = None,
) -> LabelSuspects:
    """Judge each label by the votes of the k nearest other labeled images.

    Args:
        features: (N,D) array, tensor or FeatureRows.
        labels: (N,) integers; below 0: no label.
        temperature: T > 0 of a vote's weight exp(cosine similarity / T); None: one neighbor, one vote.
        device: where similarities are computed; default: the CPU.
        index: approximate index over the labeled rows to search instead.
        neighbors: found before, of the labeled rows among them, instead of a search; more than k do no harm.

    Raises:
        ValueError: k < 1, shapes that do not fit, fewer than two classes.
        DataError: a feature is not finite.

    >>> features = [[1, 0], [1, 0.1], [1, 0.2], [0, 1], [0.1, 1], [0.2, 1.1]]
    >>> found = label_suspects(features, [0, 0, 1, 1, 1, 1], k=2)
    >>> int(found.order()[0]), int(found.suggested[2])
    (2, 0)
    """
    features, labels = _checked(features, labels)
    judged = np.flatnonzero(labels >= 0)
    votes = _Votes(labels[judged], temperature)
    if neighbors is None:
        neighbors = _neighbors(_taken(features, judged), k, device, index)
    for which, similarities, rows in neighbors:
        votes.add(which, similarities[:, :k], rows[:, :k])
    return _spread(votes.result(), judged, len(labels))


def outliers(
    features: Any,
    labels: Any | None = None,
    k: int = OUTLIER_K,
    device: torch.device | None = None,
    index: NeighborIndex | None = None,
) -> Outliers:
    """Distances to the k-th nearest image, of all and with the same label. Arguments as of `label_suspects`.

    >>> outliers([[1, 0], [1, 0.1], [1, 0.2], [0, 1]], k=1).order()[0]
    np.int64(3)
    """
    features = as_rows(features)
    distance = np.full(len(features), np.nan, np.float32)
    for which, similarities, _ in _neighbors(features, k, device, index):
        distance[which] = _distance(similarities, k)
    return _with_classes(features, labels, k, distance, device)


def neighbor_suspects(
    features: Any,
    labels: Any | None = None,
    *,
    k: int = K,
    temperature: float | None = TEMPERATURE,
    outlier_k: int = OUTLIER_K,
    threshold: float = 0.95,
    judge_labels: bool = True,
    class_outliers: bool = True,
    device: torch.device | None = None,
    index: NeighborIndex | None = None,
    neighbors: Iterable[Block] | None = None,
    labeled_neighbors: Callable[[], Iterable[Block]] | None = None,
    after_block: Callable[[Block], None] | None = None,
) -> NeighborSuspects:
    """`label_suspects`, `outliers` and near-duplicates of at least the cosine similarity `threshold`. One search serves
    all, or two where some images have no label; memory grows by a few numbers per image.

    Args:
        judge_labels: whether to count votes.
        class_outliers: whether to search within each class.
        index: approximate index over all rows to search instead; images without a label must then not be among them if
            labels are judged.
        neighbors: found before, of every row among all, instead of a search; at least the larger of k and `outlier_k`.
        labeled_neighbors: returns those of the labeled rows among them, as of `label_suspects`; called where some rows have
            no label and labels are judged.
        after_block: called with each block of the search among all rows, in order: which images, and the similarities and
            rows of their neighbors, at least `outlier_k` where there are as many.

    Raises:
        ValueError, DataError: as `label_suspects`; an index with images without a label.
    """
    features = as_rows(features)
    given = np.full(len(features), -1) if labels is None else _checked(features, labels)[1]
    judge_labels = judge_labels and len(np.unique(given[given >= 0])) > 1
    all_labeled = bool((given >= 0).all())
    votes = _Votes(given, temperature) if judge_labels and all_labeled else None
    distance, similarity, conflict_similarity = (np.full(len(features), np.nan, np.float32) for _ in range(3))
    nearest, conflict = (np.full(len(features), -1, np.int64) for _ in range(2))
    joined = Groups(len(features))
    if neighbors is None:
        neighbors = _neighbors(features, max(k if votes else 1, outlier_k), device, index)
    for which, similarities, rows in neighbors:
        if votes is not None:
            votes.add(which, similarities[:, :k], rows[:, :k])
        distance[which] = _distance(similarities, outlier_k)
        if rows.shape[1]:
            nearest[which], similarity[which] = rows[:, 0], similarities[:, 0]
        first, column = ((similarities >= threshold - ROUNDING) & (rows >= 0)).nonzero()
        second, pair_similarity = rows[first, column], similarities[first, column]
        first = first + which.start
        joined.join(first, second, pair_similarity)
        differ = (given[first] != given[second]) & (given[first] >= 0) & (given[second] >= 0)
        disagreeing, at = np.unique(first[differ], return_index=True)  # the first of a row is the most similar
        conflict[disagreeing], conflict_similarity[disagreeing] = second[differ][at], pair_similarity[differ][at]
        if after_block is not None:
            after_block((which, similarities, rows))
    found = votes.result() if votes is not None else None
    if judge_labels and found is None:
        if index is not None:
            raise ValueError("an index over images without a label cannot judge labels")
        of_labeled = None if labeled_neighbors is None else labeled_neighbors()
        found = label_suspects(features, given, k, temperature, device, neighbors=of_labeled)
    far = _with_classes(features, given if class_outliers else None, outlier_k, distance, device)
    groups = tuple(joined.members())
    return NeighborSuspects(found, far, nearest, similarity, groups, conflict, conflict_similarity)


def margins_of(
    probabilities: NDArray[np.floating], given: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Margin (M,) of the given column over the best other one, and that column (M,), of rows (M,C) with C >= 2.

    >>> margins_of(np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]), np.array([0, 1]))[1].tolist()
    [1, 0]
    """
    rows = np.arange(len(given))
    others = probabilities.copy()
    others[rows, given] = -np.inf
    best = others.argmax(axis=1)
    return (probabilities[rows, given] - others[rows, best]).astype(np.float32), best.astype(np.int64)


def only_images(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images (N,) are the only one of their class."""
    classes, of_row, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return (counts == 1)[of_row] & (labels >= 0) if len(classes) else np.zeros(0, bool)


class _Votes:
    """Counts the votes for N labeled images, block by block."""

    def __init__(self, labels: NDArray[np.int64], temperature: float | None) -> None:
        self._classes, self._column = np.unique(labels, return_inverse=True)
        if len(self._classes) < 2:
            raise ValueError("labels of at least two classes are needed to find wrong ones")
        self._alone, self._temperature = only_images(labels), temperature
        self._margin, self._support = (np.full(len(labels), np.nan, np.float32) for _ in range(2))
        self._suggested = np.full(len(labels), -1, np.int64)

    def add(self, which: slice, similarities: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """The neighbors (B,K) of the images `which`; row -1: none."""
        step = max(1, _ENTRIES // (len(self._classes) + 1))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            self._add(slice(which.start + start, which.start + start + len(rows[part])), similarities[part], rows[part])

    def _add(self, which: slice, similarities: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        count = len(self._classes)
        voted = np.where(rows < 0, count, self._column[rows])  # one more class for neighbors that were not found
        shares = vote_shares(similarities, voted, count + 1, self._temperature)[:, :count]
        total = shares.sum(axis=1, keepdims=True)
        margin, best = margins_of(shares / np.where(total > 0, total, 1), self._column[which])
        supporting = voted == best[:, None]
        counts = supporting.sum(axis=1)
        support = np.where(supporting, similarities, 0).sum(axis=1) / np.maximum(counts, 1)
        judged = (total[:, 0] > 0) & ~self._alone[which]
        self._margin[which] = np.where(judged, margin, np.nan)
        self._suggested[which] = np.where(judged & (counts > 0), self._classes[best], -1)
        self._support[which] = support

    def result(self) -> LabelSuspects:
        return LabelSuspects(self._margin, self._suggested, self._support)


def _neighbors(features: Any, k: int, device: torch.device | None, index: NeighborIndex | None) -> Iterator[Block]:
    """The neighbors of each image, itself left out, block by block."""
    if index is None:
        return search_blocks(features, None, k, device=device)
    if index.metric != "cosine":
        raise ValueError(f"the index must be of cosine similarity, got {index.metric}")
    return index.search_blocks(features, k, True)


def _distance(similarities: NDArray[np.float32], k: int) -> NDArray[np.float32] | float:
    """Cosine distance to the k-th neighbor, or the last one; 2, the largest, where an index found none."""
    columns = min(k, similarities.shape[1])
    return np.clip(1 - similarities[:, columns - 1], 0, 2) if columns else np.nan


def _with_classes(
    features: Any, labels: Any | None, k: int, distance: NDArray[np.float32], device: torch.device | None
) -> Outliers:
    """The distances within each class, besides those to all images."""
    class_distance, ratio = (np.full(len(features), np.nan, np.float32) for _ in range(2))
    labels = np.full(len(features), -1) if labels is None else _checked(features, labels)[1]
    order = np.argsort(labels, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        if not len(rows) or labels[rows[0]] < 0 or len(rows) < 2:
            continue
        for which, similarities, _ in search_blocks(_taken(features, rows), None, k, device=device):
            class_distance[rows[which]] = _distance(similarities, k)
        if len(rows) >= _SMALLEST_CLASS:
            # Of copies the distance is rounding.
            ratio[rows] = np.maximum(class_distance[rows], ROUNDING) / max(np.median(class_distance[rows]), ROUNDING)
    return Outliers(k, distance, class_distance, ratio)


def _spread(found: LabelSuspects, rows: NDArray[np.int64], count: int) -> LabelSuspects:
    """What was found of some rows, as arrays for all."""
    if len(rows) == count:
        return found
    margin, support = (np.full(count, np.nan, np.float32) for _ in range(2))
    suggested = np.full(count, -1, np.int64)
    margin[rows], suggested[rows], support[rows] = found.margin, found.suggested, found.support
    return LabelSuspects(margin, suggested, support)


def _taken(features: Any, rows: NDArray[np.int64]) -> Any:
    """Some rows; those of a file stay on the disk."""
    if len(rows) == len(features) and bool((np.diff(rows) == 1).all()):
        return features
    return features.take(rows) if isinstance(features, FeatureRows) else features[rows]


def _checked(features: Any, labels: Any) -> tuple[Any, NDArray[np.int64]]:
    features, labels = as_rows(features), as_labels(labels)
    if labels.shape != (len(features),):
        raise ValueError(f"{len(features)} rows of features need as many labels, got shape {labels.shape}")
    return features, labels
