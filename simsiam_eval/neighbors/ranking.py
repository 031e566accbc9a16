"""Retrieval metrics: how high the gallery images of a query's class rank by similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.features.arrays import as_labels, as_numpy, as_rows, checked_rows
from simsiam_eval.metrics.intervals import accuracy_metrics, mean_metrics
from simsiam_eval.neighbors.exact import similarity_blocks
from simsiam_eval.vocabulary import METRICS

Metrics = dict[str, float | list[float]]


@dataclass(frozen=True)
class QueryScores:
    """One value per query that has a relevant image in the gallery.

    Attributes:
        ks: the k of `hits`.
        queries: (M,) rows of the queries.
        average_precision: (M,) mean over the relevant images of the precision down to each.
        r_precision: (M,) precision among the first R, the number of relevant images.
        reciprocal_rank: (M,) 1 / rank of the first relevant image.
        hits: (M, len(ks)) relevant images among the first k.
        ranked: number of images that each query ranks.
    """

    ks: tuple[int, ...]
    queries: NDArray[np.int64]
    average_precision: NDArray[np.float64]
    r_precision: NDArray[np.float64]
    reciprocal_rank: NDArray[np.float64]
    hits: NDArray[np.int64]
    ranked: int

    def metrics(self) -> Metrics:
        """Means over the queries: recall_at_K, precision_at_K, map, r_precision and mrr, each with its `_interval`."""
        metrics: Metrics = {}
        for column, k in enumerate(self.ks):
            hits = self.hits[:, column]
            metrics |= accuracy_metrics(f"recall_at_{k}", int((hits > 0).sum()), len(hits))
            metrics |= mean_metrics(f"precision_at_{k}", hits / min(k, self.ranked))
        metrics |= mean_metrics("map", self.average_precision)
        metrics |= mean_metrics("r_precision", self.r_precision)
        return metrics | mean_metrics("mrr", self.reciprocal_rank)


def retrieval_metrics(
    gallery: Any,
    gallery_labels: Any,
    queries: Any | None = None,
    query_labels: Any | None = None,
    ks: int | Sequence[int] = (1, 5, 10),
    metric: str = "cosine",
    device: torch.device | None = None,
) -> Metrics:
    """Rank the whole gallery for every query; images with the query's label are relevant.

    Args:
        gallery: (N,D) features: array, tensor, Features or FeatureRows.
        gallery_labels: (N,) labels of any kind.
        queries: (M,D) as the gallery; None: the gallery's own rows, each left out of its own ranking.
        query_labels: (M,) labels of the same kind.
        ks: the K of recall@K and precision@K.
        metric: "cosine" or "l2".
        device: where similarities are computed; default: the CPU.

    Returns:
        means over the queries that have a relevant image, with 95 % intervals: `recall_at_K` (one of the first K is
        relevant), `precision_at_K`, `map`, `r_precision`, `mrr` and `..._interval`.

    Raises:
        ValueError: no query has a relevant image, or an argument is empty, not finite or does not fit the others.
        DataError: a feature on the disk is not finite.

    >>> metrics = retrieval_metrics(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), [4, 4, 7], ks=(1,))
    >>> metrics["recall_at_1"], metrics["map"]
    (1.0, 1.0)
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if (queries is None) != (query_labels is None):
        given, missing = ("queries", "query_labels") if query_labels is None else ("query_labels", "queries")
        raise ValueError(f"{given} requires {missing}")
    gallery = checked_rows(gallery, "gallery")
    gallery_labels = _labels_of(gallery_labels, len(gallery), "gallery_labels")
    if queries is not None:
        queries = checked_rows(queries, "queries")
        if queries.shape[1] != gallery.shape[1]:
            raise ValueError(f"queries has {queries.shape[1]} features per row and gallery {gallery.shape[1]}")
        query_labels = _labels_of(query_labels, len(queries), "query_labels")
    gallery_labels, query_labels = _numbered(gallery_labels, query_labels)
    scores = score_queries(gallery, gallery_labels, queries, query_labels, _checked_ks(ks), metric, device)
    if not len(scores.queries):
        raise ValueError("no query has another image of its class in the gallery")
    return scores.metrics()


def _labels_of(labels: Any, count: int, name: str) -> NDArray[Any]:
    labels = np.asarray(as_numpy(labels))
    if labels.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one label per row, got {labels.shape}")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError(f"{name} must not contain NaN")
    return labels


def _numbered(
    gallery_labels: NDArray[Any], query_labels: NDArray[Any] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Labels of any kind as numbers of their common classes."""
    both = [gallery_labels] if query_labels is None else [gallery_labels, query_labels]
    texts = {labels.dtype.kind in "US" for labels in both if labels.dtype.kind != "O"}
    try:
        if len(texts) > 1:
            raise TypeError("strings and numbers")
        numbers = np.unique(np.concatenate(both), return_inverse=True)[1]
    except TypeError as error:
        names = "gallery_labels" if query_labels is None else "gallery_labels and query_labels"
        raise ValueError(f"{names} must be of one kind ({error})") from error
    split = len(gallery_labels)
    return numbers[:split], None if query_labels is None else numbers[split:]


def _checked_ks(ks: int | Sequence[int]) -> tuple[int, ...]:
    values = np.atleast_1d(np.asarray(ks, dtype=object)).tolist()
    if not values or not all(
        isinstance(k, int | np.integer) and not isinstance(k, bool | np.bool_) and k >= 1 for k in values
    ):
        raise ValueError(f"ks must be one or several positive integers, got {ks!r}")
    return tuple(dict.fromkeys(map(int, values)))


def score_queries(
    gallery: Any,
    gallery_labels: Any,
    queries: Any | None,
    query_labels: Any | None,
    ks: Sequence[int],
    metric: str = "cosine",
    device: torch.device | None = None,
    *,
    rows: NDArray[np.int64] | None = None,
    own: NDArray[np.int64] | None = None,
) -> QueryScores:
    """The scores behind `retrieval_metrics`, query by query.

    Args:
        rows: (M,) which of the queries to score; default: all.
        own: for each query the gallery's row that is the query itself, which is left out; -1 for none.
    """
    gallery, gallery_labels = as_rows(gallery), as_labels(gallery_labels)
    leave_one_out = queries is None
    queries, query_labels = (
        (gallery, gallery_labels) if queries is None else (as_rows(queries), as_labels(query_labels))
    )
    for name, features, labels in (("gallery", gallery, gallery_labels), ("query", queries, query_labels)):
        if labels.shape != (len(features),):
            raise ValueError(f"{len(features)} {name} rows need as many labels, got shape {labels.shape}")
    order = np.argsort(gallery_labels, kind="stable")
    classes, starts, counts = np.unique(gallery_labels[order], return_index=True, return_counts=True)
    members = {
        label: order[start : start + count]
        for label, start, count in zip(classes.tolist(), starts, counts, strict=True)
    }
    rows = np.arange(len(query_labels)) if rows is None else rows
    scored: list[int] = []
    precision, r_precision, reciprocal, hits = [], [], [], []
    for block, similarities in similarity_blocks(gallery, None if leave_one_out else queries, rows, metric, device):
        for query, of_query in zip(rows[block].tolist(), similarities, strict=True):
            relevant = members.get(int(query_labels[query]), order[:0])
            itself = query if leave_one_out else -1 if own is None else int(own[query])
            if itself >= 0:
                relevant = relevant[relevant != itself]
                of_query[itself] = -np.inf
            if not len(relevant):
                continue
            ranks = relevant_ranks(of_query, relevant)
            scored.append(query)
            precision.append((np.arange(1, len(ranks) + 1) / ranks).mean())
            r_precision.append((ranks <= len(ranks)).mean())
            reciprocal.append(1 / ranks[0])
            hits.append(np.searchsorted(ranks, ks, "right"))
    return QueryScores(
        tuple(ks),
        np.array(scored, dtype=np.int64),
        np.array(precision, dtype=np.float64),
        np.array(r_precision, dtype=np.float64),
        np.array(reciprocal, dtype=np.float64),
        np.array(hits, dtype=np.int64).reshape(len(scored), len(ks)),
        len(gallery) - leave_one_out,
    )


def relevant_ranks(similarities: NDArray[np.float32], relevant: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ranks, from 1 and ascending, of the rows `relevant` (R,) among the similarities (N,).

    Of equal similarities irrelevant images rank first: an encoder for which all images are the same gets no credit.

    >>> relevant_ranks(np.array([0.9, 0.5, 0.5, 0.1], dtype=np.float32), np.array([0, 2])).tolist()
    [1, 3]
    """
    of_relevant = np.sort(similarities[relevant])
    ascending = np.sort(similarities)
    as_near = len(ascending) - np.searchsorted(ascending, of_relevant, "left")
    relevant_as_near = len(of_relevant) - np.searchsorted(of_relevant, of_relevant, "left")
    return (as_near - relevant_as_near)[::-1] + np.arange(1, len(of_relevant) + 1)
