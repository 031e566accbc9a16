"""How well a ranking of the gallery by similarity puts the images of the query's class first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.neighbors.exact import similarity_blocks


@dataclass(frozen=True)
class QueryScores:
    """One value per query that has anything to find.

    Attributes:
        queries: (M,) which of the queries asked.
        average_precision: (M,) the mean, over the relevant images, of the precision down to each.
        r_precision: (M,) the precision among the first R, R being the number of relevant images.
        reciprocal_rank: (M,) 1 / the rank of the first relevant image.
        hits: (M, len(ks)) relevant images among the first k.
    """

    queries: NDArray[np.int64]
    average_precision: NDArray[np.float64]
    r_precision: NDArray[np.float64]
    reciprocal_rank: NDArray[np.float64]
    hits: NDArray[np.int64]


def relevant_ranks(similarities: NDArray[np.float32], relevant: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ranks, from 1, that the rows `relevant` (R,) have among the similarities (N,), rising.

    Of equal similarities the wrong images come first: an encoder for which all images are the same gets no credit.

    >>> relevant_ranks(np.array([0.9, 0.5, 0.5, 0.1], dtype=np.float32), np.array([0, 2])).tolist()
    [1, 3]
    """
    found = np.sort(similarities[relevant])
    everything = np.sort(similarities)
    above = len(everything) - np.searchsorted(everything, found, "left")
    own = len(found) - np.searchsorted(found, found, "left")
    return (above - own)[::-1] + np.arange(1, len(found) + 1)


def score_queries(
    gallery: NDArray[np.floating],
    gallery_labels: NDArray[np.int64],
    queries: NDArray[np.floating],
    query_labels: NDArray[np.int64],
    ks: Sequence[int],
    metric: str = "cosine",
    device: torch.device | None = None,
    asked: NDArray[np.int64] | None = None,
    own: bool = False,
) -> QueryScores:
    """Rank the gallery (N,D) for every query (M,D); relevant are the images with the query's label.

    Args:
        query_labels: (M,).
        asked: which of the queries; default: all.
        own: the queries are the gallery's own images, each left out of its own ranking.

    A query without a relevant image has no score and is left out.
    """
    order = np.argsort(gallery_labels, kind="stable")
    names, first, counts = np.unique(gallery_labels[order], return_index=True, return_counts=True)
    members = {name: order[at : at + count] for name, at, count in zip(names.tolist(), first, counts, strict=True)}
    asked = np.arange(len(query_labels)) if asked is None else asked
    scored: list[int] = []
    precision, r_precision, reciprocal, hits = [], [], [], []
    for which, block in similarity_blocks(gallery, queries, asked, own, metric, device):
        for query, similarities in zip(asked[which].tolist(), block, strict=True):
            relevant = members.get(int(query_labels[query]), order[:0])
            if own:
                relevant = relevant[relevant != query]
            if not len(relevant):
                continue
            ranks = relevant_ranks(similarities, relevant)
            scored.append(query)
            precision.append((np.arange(1, len(ranks) + 1) / ranks).mean())
            r_precision.append((ranks <= len(ranks)).mean())
            reciprocal.append(1 / ranks[0])
            hits.append(np.searchsorted(ranks, ks, "right"))
    return QueryScores(
        np.array(scored, dtype=np.int64),
        np.array(precision, dtype=np.float64),
        np.array(r_precision, dtype=np.float64),
        np.array(reciprocal, dtype=np.float64),
        np.array(hits, dtype=np.int64).reshape(len(scored), len(ks)),
    )
