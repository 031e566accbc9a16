"""The exact nearest neighbors of the images of a report: searched once, for all sections of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.features.rows import FeatureMatrix, FeatureRows
from simsiam_eval.neighbors.classify import without_own
from simsiam_eval.neighbors.coordinates import NEIGHBORS
from simsiam_eval.neighbors.exact import search_blocks
from simsiam_eval.neighbors.suspects import OUTLIER_K, Block

SHOWN = 10  # neighbors of an image on the page


@dataclass(frozen=True)
class Nearest:
    """Attributes:
    similarities: (M,K) float32 cosine similarities, descending.
    numbers: (M,K) int64 numbers of the images; -1 with similarity -inf where there are fewer than K.
    """

    similarities: NDArray[np.float32]
    numbers: NDArray[np.int64]

    def block(self) -> Block:
        """As a search yields its results."""
        return slice(0, len(self.numbers)), self.similarities, self.numbers


@dataclass(frozen=True)
class ImageNeighbors:
    """The neighbors of N images, each without itself, by cosine similarity.

    The images are searched group by group, so that neighbors among some groups and among all cost one comparison of
    every two images.

    Attributes:
        features: (N,D).
        voters: (V,) sorted numbers of the images that vote.
        labeled: (N,) bool, whether an image has a label.
        own: (N,) number of the voter that is the same image in another file, -1 for none; it is not among `voting`.
        k: number of neighbors that vote; at least as many are found as other sections need.
        deep_rows, deep_k: (S,) images for which this many neighbors are needed.
        device: of the search.
    """

    features: FeatureMatrix
    voters: NDArray[np.int64]
    labeled: NDArray[np.bool_]
    own: NDArray[np.int64]
    k: int
    device: torch.device
    deep_rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    deep_k: int = 0

    @property
    def _width(self) -> int:
        return max(self.k, NEIGHBORS, OUTLIER_K, SHOWN)

    @cached_property
    def voting(self) -> Nearest:
        """(N,K) among the voters."""
        return self._without_own(self._among_voters[0], self.own, self._width)

    @cached_property
    def deep(self) -> Nearest:
        """(S,K) of `deep_rows` among the voters."""
        return self._without_own(self._among_voters[1], self.own[self.deep_rows], self.deep_k)

    @cached_property
    def of_all(self) -> Nearest:
        """(N,K) among all images."""
        return _merged([self._among_voters[0], *self._among_others], self._width)

    def of_labeled(self) -> Nearest:
        """(L,K) of the labeled images among them; numbers are positions among the labeled images."""
        others = zip(self._other_groups, self._among_others, strict=True)
        groups = [(self.voters, self._among_voters[0]), *others]
        chosen = np.flatnonzero(self.labeled)
        tables = [table for group, table in groups if self.labeled[group[0]]]
        found = _merged(
            [Nearest(table.similarities[chosen], table.numbers[chosen]) for table in tables],
            self._width,
        )
        return Nearest(found.similarities, np.where(found.numbers < 0, -1, np.searchsorted(chosen, found.numbers)))

    @cached_property
    def _among_voters(self) -> tuple[Nearest, Nearest]:
        """Of all images, and of the deep ones; with one neighbor more than needed, which may be `own`."""
        count = len(self.labeled)
        shallow = np.setdiff1d(np.arange(count), self.deep_rows)
        found = self._search(self.voters, shallow, self._width)
        if not len(self.deep_rows):
            return found, found
        deep = self._search(self.voters, self.deep_rows, max(self.deep_k, self._width))
        width = min(self._width + 1, deep.numbers.shape[1])
        similarities = np.full((count, width), -np.inf, np.float32)
        numbers = np.full((count, width), -1, np.int64)
        for rows, part in ((shallow, found), (self.deep_rows, deep)):
            similarities[rows], numbers[rows] = part.similarities[:, :width], part.numbers[:, :width]
        return Nearest(similarities, numbers), deep

    @cached_property
    def _other_groups(self) -> list[NDArray[np.int64]]:
        """The images that do not vote: those with a label, and those without."""
        others = np.setdiff1d(np.arange(len(self.labeled)), self.voters)
        groups = [others[self.labeled[others]], others[~self.labeled[others]]]
        return [group for group in groups if len(group)]

    @cached_property
    def _among_others(self) -> list[Nearest]:
        everyone = np.arange(len(self.labeled))
        return [self._search(group, everyone, self._width) for group in self._other_groups]

    def _search(self, bank: NDArray[np.int64], rows: NDArray[np.int64], k: int) -> Nearest:
        """The k + 1 nearest of the images `bank`, each image without itself; both are sorted numbers."""
        place = np.searchsorted(bank, rows)
        inside = bank[np.minimum(place, len(bank) - 1)] == rows
        place = np.where(inside, place, -1)
        width = min(k + 1, len(bank))
        similarities, numbers = np.empty((len(rows), width), np.float32), np.empty((len(rows), width), np.int64)
        if not len(rows):
            return Nearest(similarities, numbers)
        banked, queries = _taken(self.features, bank), _taken(self.features, rows)
        for which, near, found in search_blocks(banked, queries, k + 1, device=self.device):
            near, found = without_own(near, found, place[which], width)
            similarities[which], numbers[which] = near, np.where(found < 0, -1, bank[found])
        return Nearest(similarities, numbers)

    def _without_own(self, found: Nearest, own: NDArray[np.int64], k: int) -> Nearest:
        return _first(Nearest(*without_own(found.similarities, found.numbers, own, k)), k)


def _taken(features: FeatureMatrix, rows: NDArray[np.int64]) -> FeatureMatrix:
    if len(rows) == len(features):  # they are sorted
        return features
    return features.take(rows) if isinstance(features, FeatureRows) else features[rows]


def _merged(tables: Sequence[Nearest], k: int) -> Nearest:
    """The k nearest of several groups, of equally similar ones those of the lowest numbers first."""
    similarities = np.concatenate([table.similarities for table in tables], axis=1)
    numbers = np.concatenate([table.numbers for table in tables], axis=1)
    if len(tables) > 1:
        order = np.lexsort((numbers, -similarities), axis=1)
        similarities, numbers = (np.take_along_axis(values, order, axis=1) for values in (similarities, numbers))
    return _first(Nearest(similarities, numbers), k)


def _first(found: Nearest, k: int) -> Nearest:
    """At most the k nearest, without columns that no image has a neighbor in."""
    columns = min(k, int((found.numbers >= 0).any(axis=0).sum()))
    return Nearest(found.similarities[:, :columns], found.numbers[:, :columns])
