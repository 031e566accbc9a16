"""`retrieval eval`: evaluate how high the images of a query's class rank."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import SeedSettings, option_name, setting
from simsiam_eval.commands.unreadable import unreadable_faults
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.settings import EncoderSettings, leakage_setting
from simsiam_eval.sources.spec import is_feature_file
from simsiam_eval.vocabulary import CHART_ENDINGS
from simsiam_eval.wording import counted, percent

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from simsiam_eval.encoders.choice import EncoderChoice
    from simsiam_eval.extraction.options import ExtractionOptions
    from simsiam_eval.features.rows import FeatureMatrix
    from simsiam_eval.features.table import Features
    from simsiam_eval.neighbors.approximate import NeighborIndex
    from simsiam_eval.neighbors.leakage import Leakage
    from simsiam_eval.neighbors.ranking import QueryScores
    from simsiam_eval.neighbors.recall import IndexQuality

_TABLE_CLASSES = 10  # of the lowest mAP
_RECORD_CLASSES, _LOWEST_CLASSES = 1000, 100  # the record has all classes up to the first number, else so many
# Extraction settings that images take from the feature file that they are compared with.
_AS_FEATURES = (
    "pool", "transform", "resize", "crop", "flip_average", "normalize", "decode", "precision", "views",
)  # fmt: skip
# Search parameters at which each index is measured: the points of its line in the chart.
_MEASURED = {"nprobe": (1, 4, 16, 64, 256), "efSearch": (16, 32, 64, 128, 256)}


@dataclass(frozen=True, kw_only=True)
class RetrievalEvalSettings(EncoderSettings, SeedSettings):
    """Rank a gallery by similarity for every query; images of the query's class are relevant."""

    SETS = ("gallery", "queries")
    GROUPS: ClassVar[dict[str, str]] = {
        "data": "gallery queries limit",
        "index": "index recall_sample",
        "evaluation": "leakage",
        "output": "out",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = ("--gallery train.h5 --queries test.h5",)

    gallery: str = setting(help="Gallery images: a feature file (.h5), or an image source with --checkpoint.")
    queries: str | None = setting(None, help="Query images (default: the gallery itself, leave-one-out).")
    k: tuple[int, ...] = setting((1, 5, 10), short="-k", at_least=1, once=True, help="k of recall@k and precision@k.")
    metric: str = setting("cosine", choices=("cosine", "l2"), help="Similarity to rank by.")
    leakage: float = leakage_setting()
    limit: int | None = setting(None, at_least=1, help="Number of queries, sampled with --seed (default: all).")
    index: tuple[str, ...] = setting(
        (), help="FAISS factory strings, such as IVF256,Flat or HNSW32, whose recall and speed are measured too."
    )
    recall_sample: int = setting(1000, at_least=1, help="Number of queries used to measure the recall of --index.")
    out: Path | None = setting(
        None,
        output=True,
        endings=CHART_ENDINGS,
        help="Chart of recall against speed by index type (.png, .svg or .pdf; with --index).",
    )

    def check(self) -> None:
        super().check()
        if self.out is not None and not self.index:
            raise UsageError(f"--out {self.out} is a chart of index types and requires --index.")
        if self.queries is None:
            self.reject_given(("leakage",), "requires --queries")
        if not self.index:
            self.reject_given(("recall_sample",), "requires --index")
        if self.queries is not None and is_feature_file(self.gallery) != is_feature_file(self.queries):
            features, images = sorted((self.gallery, self.queries), key=is_feature_file, reverse=True)
            for field in fields(self):
                if field.name in _AS_FEATURES and getattr(self, field.name) != field.default:
                    raise UsageError(
                        f"{option_name(field.name)} cannot be used here: the images of {images} are preprocessed like those "
                        f"of {features}."
                    )


def retrieval_eval(settings: RetrievalEvalSettings) -> Result:
    """Run `retrieval eval` by exact search; the indexes of --index are measured in addition.

    Raises:
        UsageError, DataError: the features cannot be used, or no query has a relevant image.
    """
    from simsiam_eval.errors import DataError
    from simsiam_eval.features.compatibility import described_features, own_note, own_rows, same_rows
    from simsiam_eval.neighbors.ranking import score_queries
    from simsiam_eval.runtime.device import resolve_device

    started = time.perf_counter()
    device = resolve_device(settings.device)
    gallery, queries = _open_sets(
        settings.gallery, settings.queries, settings.given_encoder(), settings.extraction(), device
    )
    leave_one_out = same_rows(gallery, queries)
    rows = _sample(len(queries.labels), settings.limit, settings.seed)
    own = None if leave_one_out else own_rows(gallery, queries)
    own_of_rows = None if own is None or (own[rows] < 0).all() else own[rows]
    scores = score_queries(
        gallery.features,
        gallery.labels,
        None if leave_one_out else queries.features,
        None if leave_one_out else queries.labels,
        settings.k,
        settings.metric,
        device,
        rows=rows,
        own=own,
    )
    if not len(scores.queries):
        raise DataError(f"No query has another image of its class in {settings.gallery}; there is nothing to find.")
    metrics: dict[str, Any] = dict(scores.metrics())
    classes = _by_class(scores, queries.labels, gallery.class_names)
    leakage = None if leave_one_out else _leakage(gallery, queries, scores, settings.leakage, settings.seed, device)
    indexes = []
    if settings.index:
        indexes = _measure_indexes(
            gallery.features,
            None if leave_one_out else queries.features,
            settings.index,
            max(settings.k),
            settings.metric,
            settings.recall_sample,
            settings.seed,
            device,
        )
    files = {}
    if settings.out is not None:
        _draw_curve(settings.out, indexes)
        files["curve"] = str(settings.out)
    without_relevant = len(rows) - len(scores.queries)
    return Result(
        task="retrieval eval",
        settings=settings.to_dict(),
        metrics=metrics
        | {
            "queries": len(scores.queries),
            "queries_without_relevant": without_relevant,
            "gallery": len(gallery.labels),
            "classes": len(classes),
            "by_class": {scores_of.name: scores_of.to_dict() for scores_of in _listed(classes)},
            "indexes": [quality.to_dict() for quality in indexes],
            "leakage": leakage and leakage.to_dict(),
        },
        provenance=provenance(
            started,
            str(device),
            leave_one_out=leave_one_out,
            **({} if own_of_rows is None else {"left_out_of_own_neighbors": int((own_of_rows >= 0).sum())}),
            gallery=described_features(gallery),
            queries=described_features(queries),
        ),
        faults=unreadable_faults([gallery.read_images, queries.read_images], settings.max_unreadable),
        files=files,
        table=Table(
            f"Retrieval, {settings.metric}, {len(gallery.labels):,} gallery images, "
            f"{counted(len(scores.queries), 'query')}{', leave-one-out' if leave_one_out else ''}",
            ("metric", "% [95 %]"),
            _metric_rows(metrics, settings.k),
            own_note(own_of_rows, "query", "gallery") + _notes(without_relevant, classes, leakage, indexes),
        ),
    )


@dataclass(frozen=True)
class ClassScores:
    """Means over the queries of one class; recall at the first k."""

    name: str
    queries: int
    k: int
    recall: float
    average_precision: float
    r_precision: float
    reciprocal_rank: float

    def to_dict(self) -> dict[str, Any]:
        """As in a record, under the name of the class."""
        return {
            "queries": self.queries,
            f"recall_at_{self.k}": self.recall,
            "map": self.average_precision,
            "r_precision": self.r_precision,
            "mrr": self.reciprocal_rank,
        }


def _open_sets(
    gallery_spec: str,
    query_spec: str | None,
    choice: EncoderChoice | None,
    options: ExtractionOptions,
    device: torch.device,
) -> tuple[Features, Features]:
    """Labeled images of gallery and queries, with labels in the gallery's numbering; without a query spec both are one."""
    from simsiam_eval.extraction.sets import PlannedFeatures, completed, labels_of, plan_features
    from simsiam_eval.features.class_names import in_numbering_of
    from simsiam_eval.features.compatibility import reject_mixture, reject_one_class
    from simsiam_eval.features.table import Features

    def opened(spec: str, role: str, option: str, other: Any = None) -> Features | PlannedFeatures:
        like = other if isinstance(other, Features) else None  # images are prepared as those of the feature file were
        return plan_features(spec, role, choice, options, device, option=option, like=like)

    if query_spec is None:
        opened_gallery = opened(gallery_spec, "train", "--gallery")
        reject_one_class(labels_of(opened_gallery))
        gallery = completed(opened_gallery)
        reject_one_class(gallery)
        return gallery, gallery
    if is_feature_file(query_spec):
        opened_queries = opened(query_spec, "test", "--queries")
        opened_gallery = opened(gallery_spec, "train", "--gallery", opened_queries)
    else:
        opened_gallery = opened(gallery_spec, "train", "--gallery")
        options = options.with_scale_of(opened_gallery.attributes)
        opened_queries = opened(query_spec, "test", "--queries", opened_gallery)
    reject_mixture(opened_gallery, opened_queries)
    reject_one_class(labels_of(opened_gallery))
    labels_of(opened_queries)
    gallery, queries = completed(opened_gallery), completed(opened_queries)
    reject_one_class(gallery)
    return gallery, in_numbering_of(gallery, queries, missing_is_error=False)


def _sample(count: int, limit: int | None, seed: int) -> NDArray[np.int64]:
    """`limit` of `count` rows, ascending; None: all."""
    import numpy as np

    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def _leakage(
    gallery: Features, queries: Features, scores: QueryScores, threshold: float, seed: int, device: torch.device
) -> Leakage | None:
    """Queries with a near-duplicate in the gallery, and recall@1 without them."""
    from simsiam_eval.neighbors.leakage import measure_leakage, nearest_similarities

    scored = queries.subset(scores.queries).features
    rows, nearest = nearest_similarities(gallery.features, scored, seed, device)
    return measure_leakage(nearest, scores.reciprocal_rank[rows] == 1, threshold, len(scores.queries))


def _by_class(
    scores: QueryScores, query_labels: NDArray[np.int64], class_names: Sequence[str] | None
) -> list[ClassScores]:
    import numpy as np

    from simsiam_eval.features.class_names import class_name, distinct_names

    labels, names = query_labels[scores.queries], distinct_names(class_names or ())
    classes = []
    order = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[order], return_index=True)
    for label, of_class in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
        classes.append(
            ClassScores(
                name=class_name(label, names),
                queries=len(of_class),
                k=scores.ks[0],
                recall=float((scores.hits[of_class, 0] > 0).mean()),
                average_precision=float(scores.average_precision[of_class].mean()),
                r_precision=float(scores.r_precision[of_class].mean()),
                reciprocal_rank=float(scores.reciprocal_rank[of_class].mean()),
            )
        )
    return classes


def _listed(classes: list[ClassScores]) -> list[ClassScores]:
    """The classes in the record: all, but of more than 1,000 the hundred with the lowest mAP."""
    if len(classes) <= _RECORD_CLASSES:
        return classes
    return sorted(classes, key=lambda scores: scores.average_precision)[:_LOWEST_CLASSES]


def _measure_indexes(
    gallery: FeatureMatrix,
    queries: FeatureMatrix | None,
    factories: Sequence[str],
    k: int,
    metric: str,
    recall_sample: int,
    seed: int,
    device: torch.device,
) -> list[IndexQuality]:
    """Every index at several search parameters; queries of None are the gallery's own images, leave-one-out."""
    from simsiam_eval.neighbors.approximate import cached_index
    from simsiam_eval.neighbors.recall import exact_sample, index_quality

    qualities = []
    exact = exact_sample(gallery, queries, k, metric, recall_sample, seed, device)
    for factory in factories:
        index = cached_index(gallery, factory, metric, seed)
        for parameters in _parameters_to_measure(index, k):
            index.set_parameters(parameters, k)
            qualities.append(index_quality(index, gallery, exact, parameters))
    return qualities


def _parameters_to_measure(index: NeighborIndex, k: int) -> list[str | None]:
    for name, values in _MEASURED.items():
        usable = [f"{name}={value}" for value in values if (value <= index.lists if name == "nprobe" else value >= k)]
        if not usable:
            continue
        try:
            index.set_parameters(usable[0], k)
        except UsageError:
            continue
        return list(usable)
    return [None]


def _draw_curve(path: Path, indexes: Sequence[IndexQuality]) -> None:
    from simsiam_eval.plots.charts import draw_lines

    lines: dict[str, list[tuple[float, float]]] = {}
    for quality in indexes:
        lines.setdefault(quality.index, []).append((quality.recall, quality.queries_per_second))
    lines["exact"] = [(1.0, indexes[0].exact_queries_per_second)]
    k = indexes[0].k
    draw_lines(path, f"Approximate search, {k} neighbors", f"recall@{k} of the exact neighbors", "queries/s", lines)


def _metric_rows(metrics: dict[str, Any], ks: Sequence[int]) -> list[list[str]]:
    names = {f"recall_at_{k}": f"recall@{k}" for k in ks} | {f"precision_at_{k}": f"precision@{k}" for k in ks}
    names |= {"map": "mAP", "r_precision": "R-precision", "mrr": "MRR"}
    return [[title, percent(metrics[name], metrics[f"{name}_interval"])] for name, title in names.items()]


def _notes(
    without_relevant: int, classes: Sequence[ClassScores], leakage: Leakage | None, indexes: Sequence[IndexQuality]
) -> list[str]:
    notes = []
    if without_relevant:
        notes.append(
            f"Left out: {counted(without_relevant, 'query')} without another image of the class in the gallery."
        )
    if len(classes) > 1:
        lowest = sorted(classes, key=lambda scores: scores.average_precision)[:_TABLE_CLASSES]
        listed = ", ".join(f"{scores.name} {percent(scores.average_precision)}" for scores in lowest)
        notes.append(f"Lowest mAP: {listed}.")
    if leakage is not None:
        notes.append(leakage.warning("recall@1", "queries", "gallery image"))
    notes += [quality.sentence() for quality in indexes]
    return notes
