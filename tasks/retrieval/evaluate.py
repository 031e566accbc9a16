"""`retrieval eval`: how well an image finds those of its class."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import SeedSettings, option_name, setting
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.settings import EncoderSettings, is_feature_file, leakage_setting
from simsiam_eval.vocabulary import CHART_ENDINGS
from simsiam_eval.wording import counted, percent

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from simsiam_eval.features.table import Features
    from simsiam_eval.neighbors.approximate import NeighborIndex
    from simsiam_eval.neighbors.ranking import QueryScores

_TABLE_CLASSES = 10  # the worst ones shown on the terminal; the record has all
# Settings of an extraction that images take from the feature file that they are compared with.
_AS_FEATURES = (
    "pool", "transform", "resize", "crop", "flip_average", "normalize", "decode", "precision", "views",
)  # fmt: skip
_PROBES = {"nprobe": (1, 4, 16, 64, 256), "efSearch": (16, 32, 64, 128, 256)}  # points of a curve, by FAISS's parameter


@dataclass(frozen=True, kw_only=True)
class RetrievalEvalSettings(EncoderSettings, SeedSettings):
    """Rank a gallery by similarity for every query, and say how far the images of its class come first."""

    SETS = ("gallery", "queries")
    GROUPS: ClassVar[dict[str, str]] = {
        "data": "gallery queries limit",
        "index": "index recall_sample",
        "evaluation": "leakage",
        "output": "out",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = ("--gallery train.h5 --queries test.h5",)

    gallery: str = setting(help="Images that are found: a feature file (.h5), or an image source with --checkpoint.")
    queries: str | None = setting(
        None, help="Images that ask; default: those of the gallery, each left out of its own ranking."
    )
    k: tuple[int, ...] = setting((1, 5, 10), short="-k", at_least=1, once=True, help="k of recall@k and precision@k.")
    metric: str = setting("cosine", choices=("cosine", "l2"), help="Similarity that ranks.")
    leakage: float = leakage_setting()
    limit: int | None = setting(None, at_least=1, help="Only so many queries, drawn by --seed.")
    index: tuple[str, ...] = setting(
        (), help="FAISS factory strings, such as IVF256,Flat or HNSW32, whose recall and speed are measured too."
    )
    recall_sample: int = setting(1000, at_least=1, help="Queries on which those indexes are measured.")
    out: Path | None = setting(
        None,
        output=True,
        endings=CHART_ENDINGS,
        help="Chart of recall against speed by index type (.png, .svg or .pdf; with --index).",
    )

    def check(self) -> None:
        super().check()
        if self.out is not None and not self.index:
            raise UsageError(f"--out {self.out} is the picture of index types: give --index too.")
        if self.queries is None:
            self.reject_given(("leakage",), "is between queries and gallery: give --queries too")
        if not self.index:
            self.reject_given(("recall_sample",), "is of --index: give that too")
        if self.queries is not None and is_feature_file(self.gallery) != is_feature_file(self.queries):
            features, images = sorted((self.gallery, self.queries), key=is_feature_file, reverse=True)
            for field in fields(self):
                if field.name in _AS_FEATURES and getattr(self, field.name) != field.default:
                    raise UsageError(
                        f"{option_name(field.name)} cannot be chosen: the images of {images} are prepared as those of "
                        f"{features} were."
                    )


def retrieval_eval(settings: RetrievalEvalSettings) -> Result:
    """Run `retrieval eval`, exactly; indexes of --index are measured beside it.

    Raises:
        UsageError, DataError: the features cannot be used, or no query has anything to find.
    """
    from simsiam_eval.errors import DataError
    from simsiam_eval.features.compatibility import described_features, same_rows
    from simsiam_eval.neighbors.ranking import score_queries
    from simsiam_eval.runtime.device import resolve_device

    started = time.perf_counter()
    settings.try_outputs()
    device = resolve_device(settings.device)
    gallery, queries = _sets(settings, device)
    own = same_rows(gallery, queries)
    asked = _drawn(len(queries.labels), settings)
    scores = score_queries(
        gallery.features,
        gallery.labels,
        None if own else queries.features,
        None if own else queries.labels,
        settings.k,
        settings.metric,
        device,
        rows=asked,
    )
    if not len(scores.queries):
        raise DataError(f"No query has another image of its class in {settings.gallery}: there is nothing to find.")
    nothing = len(asked) - len(scores.queries)
    metrics = scores.metrics()
    by_class = _by_class(scores, queries, gallery, settings.k)
    leakage = None if own else _leakage(settings, gallery, queries, scores, device)
    indexes = _indexes(settings, gallery, None if own else queries, device)
    files = {}
    if settings.out is not None:
        _curve(settings, indexes)
        files["curve"] = str(settings.out)
    return Result(
        task="retrieval eval",
        settings=settings.to_dict(),
        metrics=metrics
        | {"queries": len(scores.queries), "queries_without_relevant": nothing, "gallery": len(gallery.labels)}
        | {"by_class": by_class, "indexes": indexes, "leakage": leakage},
        provenance=provenance(
            started,
            str(device),
            leave_one_out=own,
            gallery=described_features(gallery),
            queries=described_features(queries),
        ),
        files=files,
        table=_table(
            settings, metrics, by_class, indexes, leakage, len(scores.queries), nothing, len(gallery.labels), own
        ),
    )


def _sets(settings: RetrievalEvalSettings, device: torch.device) -> tuple[Features, Features]:
    """Gallery and queries, labeled images only, the labels in the gallery's numbering."""
    from simsiam_eval.extraction.sets import features_of
    from simsiam_eval.features.class_names import in_numbering_of
    from simsiam_eval.features.compatibility import labeled, refuse_mixture

    def opened(spec: str, role: str, option: str, like: Features | None = None) -> Features:
        features = features_of(spec, role, settings.checkpoint, options, device, option=option, like=like)
        return labeled(features, f"{option} {spec}")

    options = settings.extraction()

    found = (settings.gallery, "train", "--gallery")
    if settings.queries is None:
        gallery = opened(*found)
        return gallery, gallery
    asked = (settings.queries, "test", "--queries")
    if is_feature_file(settings.queries):  # images are prepared as features were
        queries = opened(*asked)
        gallery = opened(*found, queries)
    else:
        gallery = opened(*found)
        queries = opened(*asked, gallery if is_feature_file(settings.gallery) else None)
    refuse_mixture(gallery, queries)
    return gallery, in_numbering_of(gallery, queries, missing_is_error=False)


def _leakage(
    settings: RetrievalEvalSettings, gallery: Features, queries: Features, scores: QueryScores, device: torch.device
) -> dict[str, Any] | None:
    """What of recall@1 rests on queries that have a near-duplicate in the gallery."""
    from simsiam_eval.neighbors.duplicates import leakage_metrics, nearest_similarities

    asked = queries.subset(scores.queries).features
    rows, nearest = nearest_similarities(gallery.features, asked, settings.seed, device)
    return leakage_metrics(nearest, scores.reciprocal_rank[rows] == 1, settings.leakage, len(scores.queries))


def _drawn(count: int, settings: RetrievalEvalSettings) -> NDArray[np.int64]:
    import numpy as np

    if settings.limit is None or settings.limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(settings.seed).permutation(count)[: settings.limit])


def _by_class(
    scores: QueryScores, queries: Features, gallery: Features, ks: tuple[int, ...]
) -> dict[str, dict[str, Any]]:
    import numpy as np

    from simsiam_eval.features.class_names import class_name, distinct_names

    labels, names = queries.labels[scores.queries], distinct_names(gallery.class_names or ())
    found = {}
    for label in np.unique(labels).tolist():
        mine = labels == label
        found[class_name(label, names)] = {
            "queries": int(mine.sum()),
            f"recall_at_{ks[0]}": float((scores.hits[mine, 0] > 0).mean()),
            "map": float(scores.average_precision[mine].mean()),
            "r_precision": float(scores.r_precision[mine].mean()),
            "mrr": float(scores.reciprocal_rank[mine].mean()),
        }
    return found


def _indexes(
    settings: RetrievalEvalSettings, gallery: Features, queries: Features | None, device: torch.device
) -> list[dict[str, Any]]:
    """Every index at several of its search parameters: recall of the exact neighbors, speed and size."""
    from simsiam_eval.neighbors.approximate import cached_index
    from simsiam_eval.neighbors.recall import exact_sample, index_quality

    if not settings.index:
        return []
    found, k = [], max(settings.k)
    asked = None if queries is None else queries.features
    exact = exact_sample(gallery.features, asked, k, settings.metric, settings.recall_sample, settings.seed, device)
    for factory in settings.index:
        index = cached_index(gallery.features, factory, settings.metric, settings.seed)
        for parameters in _parameters(index, k):
            index.set_parameters(parameters, k)
            found.append(index_quality(index, gallery.features, exact) | {"parameters": parameters})
    return found


def _parameters(index: NeighborIndex, k: int) -> list[str | None]:
    for name, values in _PROBES.items():
        tried = [f"{name}={value}" for value in values if (value <= index.lists if name == "nprobe" else value >= k)]
        if not tried:
            continue
        try:
            index.set_parameters(tried[0], k)
        except UsageError:
            continue
        return list(tried)
    return [None]


def _curve(settings: RetrievalEvalSettings, indexes: list[dict[str, Any]]) -> None:
    from simsiam_eval.plots.charts import draw_lines

    lines: dict[str, list[tuple[float, float]]] = {}
    for one in indexes:
        lines.setdefault(one["index"], []).append((one["recall"], one["queries_per_second"]))
    lines["exact"] = [(1.0, indexes[0]["exact_queries_per_second"])]
    assert settings.out is not None
    k = max(settings.k)
    draw_lines(
        settings.out, f"Approximate search, {k} neighbors", f"recall@{k} of the exact neighbors", "queries/s", lines
    )


def _table(
    settings: RetrievalEvalSettings,
    metrics: dict[str, Any],
    by_class: dict[str, dict[str, Any]],
    indexes: list[dict[str, Any]],
    leakage: dict[str, Any] | None,
    queries: int,
    nothing: int,
    gallery: int,
    own: bool,
) -> Table:
    rows = [[f"recall@{k}", percent(metrics[f"recall_at_{k}"], metrics[f"recall_at_{k}_interval"])] for k in settings.k]
    rows += [
        [f"precision@{k}", percent(metrics[f"precision_at_{k}"], metrics[f"precision_at_{k}_interval"])]
        for k in settings.k
    ]
    rows += [
        [shown, percent(metrics[name], metrics[f"{name}_interval"])]
        for name, shown in (("map", "mAP"), ("r_precision", "R-precision"), ("mrr", "MRR"))
    ]
    notes = []
    if nothing:
        notes.append(f"{counted(nothing, 'query')} without another image of the class in the gallery left out.")
    worst = sorted(by_class.items(), key=lambda one: one[1]["map"])[:_TABLE_CLASSES]
    if len(by_class) > 1:
        notes.append("Lowest mAP: " + ", ".join(f"{name} {percent(one['map'])}" for name, one in worst) + ".")
    if leakage is not None:
        from simsiam_eval.neighbors.duplicates import leakage_warning

        notes.append(leakage_warning(leakage, "recall@1", ("queries", "gallery image")))
    for one in indexes:
        notes.append(
            f"{one['index']}{' ' + one['parameters'] if one['parameters'] else ''}: finds {one['recall']:.4f} of the "
            f"{one['k']} exact neighbors, {one['queries_per_second']:.0f} queries/s (exact: "
            f"{one['exact_queries_per_second']:.0f}), {one['bytes_per_row']:.0f} bytes a row."
        )
    return Table(
        f"Retrieval, {settings.metric}, {gallery} in the gallery, {counted(queries, 'query')}"
        + (", leave-one-out" if own else ""),
        ("metric", "% [95 %]"),
        rows,
        notes,
    )
