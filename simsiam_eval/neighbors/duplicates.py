"""Near-duplicates: pairs of images whose features are almost the same, the groups that they form, and what leaks by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from simsiam_eval.features.rows import FeatureMatrix
from simsiam_eval.features.unit_length import l2_normalized
from simsiam_eval.metrics.intervals import accuracy_metrics
from simsiam_eval.neighbors.exact import search
from simsiam_eval.runtime.matmul import times_transposed

_BLOCK = 2048  # rows on each side of a product
ROUNDING = 1e-6  # of a cosine in float32: equal rows must reach a threshold of 1
_EDGES = 1 << 20  # pairs that wait to be joined
_MULTIPLICATIONS = 3e11  # CIFAR-10's 10,000 x 50,000 x 512 are 2.6e11, 1 s on two cores

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def pairs_above(
    bank: FeatureMatrix,
    queries: FeatureMatrix | None,
    threshold: float,
    device: torch.device | None = None,
) -> Iterator[Pairs]:
    """Every pair of rows whose cosine similarity is, but for rounding, at least `threshold`, block by block.

    Args:
        bank: (N,D), and queries (M,D): arrays or FeatureRows; None: pairs within the bank, each once (row < other).

    Yields:
        rows of the bank, rows of the queries (or the bank), similarities.
    """
    device = device or torch.device("cpu")
    other = bank if queries is None else queries
    for start in range(0, len(bank), _BLOCK):
        rows = torch.from_numpy(l2_normalized(bank[start : start + _BLOCK])).to(device)
        for at in range(start if queries is None else 0, len(other), _BLOCK):
            block = times_transposed(rows, torch.from_numpy(l2_normalized(other[at : at + _BLOCK])).to(device))
            if queries is None and at == start:
                block = block.triu(1) - torch.ones_like(block).tril(0) * 3  # itself and what is mirrored: below -1
            near = (block >= threshold - ROUNDING).nonzero(as_tuple=True)
            if not len(near[0]):
                continue
            yield near[0].cpu().numpy() + start, near[1].cpu().numpy() + at, block[near].cpu().numpy()


class Groups:
    """Rows 0..N-1 that are joined pair by pair."""

    def __init__(self, count: int) -> None:
        self._root = np.arange(count)
        self._waiting: list[NDArray[np.int64]] = []
        self.pairs = 0
        self.similarity = np.full(count, -1.0, dtype=np.float32)

    def join(self, one: NDArray[np.int64], two: NDArray[np.int64], similarities: NDArray[np.float32]) -> None:
        """Join pairs; `similarity` of a row becomes the highest of its pairs."""
        self.pairs += len(one)
        for rows in (one, two):
            np.maximum.at(self.similarity, rows, similarities)
        roots = np.stack((self._root[one], self._root[two]))
        roots = roots[:, roots[0] != roots[1]]
        self._waiting.append(np.unique(roots, axis=1))
        if sum(found.shape[1] for found in self._waiting) > _EDGES:
            self._settle()

    def _settle(self) -> None:
        if not self._waiting:
            return
        one, two = np.concatenate(self._waiting, axis=1)
        self._waiting = []
        count = len(self._root)
        graph = coo_matrix((np.ones(len(one), dtype=bool), (one, two)), shape=(count, count))
        self._root = connected_components(graph, directed=False)[1][self._root]

    def members(self) -> list[NDArray[np.int64]]:
        """The rows of each group of two or more, those with the most similar pair first."""
        self._settle()
        order = np.argsort(self._root, kind="stable")
        _, first, counts = np.unique(self._root[order], return_index=True, return_counts=True)
        groups = [order[at : at + count] for at, count in zip(first, counts, strict=True) if count > 1]
        return sorted(groups, key=lambda rows: (-float(self.similarity[rows].max()), int(rows[0])))


def nearest_similarities(
    bank: FeatureMatrix, queries: FeatureMatrix | None, seed: int, device: torch.device | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Cosine similarity of the queries (M,D) to the nearest row of the bank (N,D): rows of the queries, similarities.

    Where all would take more than some seconds of a CPU, these are random rows, as many as do not, sorted. Queries of None
    are the rows of the bank, all of them, each against the others.
    """
    if queries is None:
        similarities = search(bank, None, 1, device=device)[0]
        return np.arange(len(bank)), similarities[:, 0] if similarities.shape[1] else np.full(1, -1, np.float32)
    count = max(1, int(_MULTIPLICATIONS / (len(bank) * bank.shape[1])))
    asked = np.arange(len(queries))
    if count < len(queries):
        asked = np.sort(np.random.default_rng(seed).choice(len(queries), count, replace=False))
    return asked, search(bank, queries[asked], 1, device=device)[0][:, 0]


def leakage_metrics(
    nearest: NDArray[np.float32], right: NDArray[np.bool_], threshold: float, drawn_from: int | None = None
) -> dict[str, Any] | None:
    """How much of an accuracy rests on test images that have a near-duplicate in the training set.

    Args:
        nearest: (M,) cosine similarity of each test image to its nearest training image.
        right: (M,) whether it was classified rightly.
        drawn_from: of how many test images these are a random part; default: they are all.

    Returns:
        None where no image is as near as `threshold`; else threshold, `images`, `of`, `drawn_from`, `copies` (of similarity
        1), `top1` and its interval of these images, and `top1_without` and its interval, where any others are left.
    """
    leaked = nearest >= threshold - ROUNDING
    if not leaked.any():
        return None
    found: dict[str, Any] = {"threshold": threshold, "images": int(leaked.sum()), "of": len(leaked)}
    found |= {"drawn_from": drawn_from or len(leaked), "copies": int((nearest >= 1 - ROUNDING).sum())}
    found |= accuracy_metrics("top1", int(right[leaked].sum()), int(leaked.sum()))
    if not leaked.all():
        found |= accuracy_metrics("top1_without", int(right[~leaked].sum()), int((~leaked).sum()))
    return found


def leakage_warning(
    found: dict[str, Any], which: str = "top-1", sets: tuple[str, str] = ("test images", "training image")
) -> str:
    """One sentence for the person: how many, and the accuracy, called `which`, with and without them."""
    without = f"{100 * found['top1_without']:.2f} %" if "top1_without" in found else "not to be had"
    drawn = f" drawn from {found['drawn_from']}" if found["drawn_from"] > found["of"] else ""
    said = (
        f"{found['images']} of {found['of']} {sets[0]}{drawn} have a {sets[1]} of cosine similarity "
        f"{found['threshold']:g} or more"
    )
    if 2 * found["copies"] <= found["of"] < 2 * found["images"]:
        return (
            f"{said}, {found['copies']} of similarity 1: where so many have, the threshold tells no near-duplicates from "
            "others; give a higher --leakage."
        )
    return f"{said} (look at them with `duplicates`): {which} without them is {without}."
