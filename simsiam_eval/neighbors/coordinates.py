"""Coordinates of features in the plane, for a map of the images: by UMAP or by principal components."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import UsageError
from simsiam_eval.features.arrays import as_rows
from simsiam_eval.features.rows import FeatureMatrix
from simsiam_eval.features.unit_length import l2_normalized
from simsiam_eval.neighbors.exact import search, search_blocks
from simsiam_eval.runtime.progress import progress

METHODS = ("auto", "umap", "pca")
NEIGHBORS = 15  # of each row, as umap-learn's default
SAMPLE = 20_000  # rows that a map is computed from; the others are placed between their neighbors
_BLOCK = 8192
_TEMPERATURE = 0.05  # of the weights of the neighbors between which a row is placed
_INITIAL_EXTENT = 10.0  # of the coordinates that UMAP starts from, as those of its own initializations

Found = tuple[NDArray[np.float32], NDArray[np.int64]]  # similarities and rows, as of `search`


@dataclass(frozen=True)
class Coordinates:
    """A map of N rows.

    Attributes:
        points: (N,2) float32.
        method: umap or pca.
        fitted: number of rows that the map was computed from; the others were placed between their neighbors.
    """

    points: NDArray[np.float32]
    method: str
    fitted: int

    def sentence(self) -> str:
        """How the map was made, for people."""
        if self.method == "pca":
            return "Map: the first two principal components of the L2-normalized features."
        placed = len(self.points) - self.fitted
        text = f"Map: UMAP of the exact {NEIGHBORS} nearest neighbors by cosine similarity"
        return (
            f"{text}, computed from {self.fitted:,} images; {placed:,} were placed by theirs." if placed else f"{text}."
        )


def umap_is_installed() -> bool:
    """Whether umap-learn can be imported; it is not imported."""
    from importlib.util import find_spec

    return find_spec("umap") is not None


def coordinates(
    features: FeatureMatrix,
    method: str,
    *,
    seed: int = 0,
    sample: int = SAMPLE,
    device: torch.device | None = None,
    neighbors: Callable[[], Found] | None = None,
) -> Coordinates:
    """The map of the rows of `features` (N,D), by their directions (cosine similarity).

    Args:
        features: array or FeatureRows, which are read in blocks.
        method: "umap" (McInnes et al. 2018; umap-learn with our exact neighbors), "pca", or "auto": umap where umap-learn is
            installed.
        seed: of the sample and of UMAP; equal seeds give equal maps on one machine.
        sample: number of rows that UMAP is computed from; each other row is placed at the weighted mean of its nearest
            neighbors among them.
        device: of the search for neighbors; default: the CPU.
        neighbors: returns neighbors that were found before, of every row without itself, as of `search` with k at least
            `NEIGHBORS`; called where UMAP is computed from all rows.

    Raises:
        UsageError: umap-learn is not installed.
        DataError: a feature is not finite.
    """
    features = as_rows(features)
    count = len(features)
    if method == "auto":
        method = "umap" if umap_is_installed() else "pca"
    if method == "pca" or count < 4:  # UMAP needs neighbors
        return Coordinates(_principal_components(features), "pca", count)
    if count <= sample:
        return Coordinates(_umap(features, seed, device, neighbors), "umap", count)
    rows = np.sort(np.random.default_rng(seed).choice(count, sample, replace=False))
    bank = l2_normalized(features[rows])
    fitted = _umap(bank, seed, device)
    points = np.empty((count, 2), dtype=np.float32)
    with progress("map", count) as advance:
        for start in range(0, count, _BLOCK):
            block = slice(start, min(start + _BLOCK, count))
            for which, similarities, near in search_blocks(bank, features[block], NEIGHBORS, device=device):
                weights = np.exp((similarities - similarities[:, :1]) / _TEMPERATURE)[..., None]
                points[block][which] = (weights * fitted[near]).sum(axis=1) / weights.sum(axis=1)
                advance(len(similarities))
    points[rows] = fitted
    return Coordinates(points, "umap", sample)


def _principal_components(features: FeatureMatrix) -> NDArray[np.float32]:
    """(N,2): the two directions of largest variance; each points to where its largest entry is positive."""
    width = features.shape[1]
    total, products = np.zeros(width), np.zeros((width, width))
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(features), _BLOCK)]
    for block in blocks:
        rows = l2_normalized(features[block]).astype(np.float64)
        total += rows.sum(axis=0)
        products += rows.T @ rows
    mean = total / len(features)
    _, directions = np.linalg.eigh(products / len(features) - np.outer(mean, mean))
    chosen = np.zeros((width, 2))
    chosen[:, : min(2, width)] = directions[:, ::-1][:, :2]
    chosen *= np.where(chosen[np.abs(chosen).argmax(axis=0), range(2)] < 0, -1, 1)
    points = [(l2_normalized(features[block]) - mean) @ chosen for block in blocks]
    return np.concatenate(points).astype(np.float32)


def _umap(
    features: FeatureMatrix, seed: int, device: torch.device | None, found: Callable[[], Found] | None = None
) -> NDArray[np.float32]:
    """(N,2) by umap-learn, from exact neighbors, starting at the principal components."""
    try:
        from umap import UMAP
    except ImportError as error:
        raise UsageError(
            'A map by UMAP needs umap-learn: pip install "simsiam-eval[report]", or use --map pca.'
        ) from error
    rows = l2_normalized(features[:])
    neighbors = min(NEIGHBORS, len(rows) - 1)
    similarities, indices = search(rows, None, neighbors, device=device) if found is None else found()
    similarities, indices = similarities[:, :neighbors], indices[:, :neighbors]
    # umap-learn counts a row as its own first neighbor.
    indices = np.hstack([np.arange(len(rows))[:, None], indices]).astype(np.int32)
    distances = np.hstack([np.zeros((len(rows), 1), np.float32), np.maximum(1 - similarities, 0)])
    start = _principal_components(rows)
    start = start / max(float(np.abs(start).max()), math.ulp(1.0)) * _INITIAL_EXTENT
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # that one seed means one thread, and that precomputed neighbors cannot transform
        umap = UMAP(
            n_neighbors=neighbors + 1,
            metric="cosine",
            init=start,
            precomputed_knn=(indices, distances),
            random_state=seed,
            n_jobs=1,
        )
        points: NDArray[np.float32] = umap.fit_transform(rows)
    return np.asarray(points, dtype=np.float32)
