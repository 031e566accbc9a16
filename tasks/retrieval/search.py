"""`retrieval search`: find the gallery images most similar to an image or to the images of a folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import setting
from simsiam_eval.commands.unreadable import unreadable_faults
from simsiam_eval.errors import UsageError
from simsiam_eval.sources.spec import is_index_file
from simsiam_eval.vocabulary import SHEET_ENDINGS
from simsiam_eval.wording import counted
from tasks.retrieval.settings import GallerySettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tasks.retrieval.gallery import Gallery, Queries

_TABLE_QUERIES = 20
_SAME_CLASS_FRAME, _OTHER_CLASS_FRAME, _QUERY_FRAME = "#1b9e3a", "#d62728", "#1f4fb4"


@dataclass(frozen=True, kw_only=True)
class RetrievalSearchSettings(GallerySettings):
    """Find the gallery images most similar to an image, or to each image of a folder."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "query",
        "output": "out table sheet_queries",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "photo.jpg --gallery train.index --checkpoint checkpoint.pth.tar --out matches.html",
    )

    query: str = setting(
        positional=True,
        help="Query: an image, a folder or another image source (with --checkpoint), or a feature file.",
    )
    k: int = setting(10, short="-k", at_least=1, help="Number of images to find.")
    out: Path | None = setting(
        None,
        output=True,
        endings=SHEET_ENDINGS,
        help="Contact sheet (.png or .html) of the queries and their neighbors.",
    )
    table: Path | None = setting(None, output=True, help="CSV with columns query, rank, id, similarity.")
    sheet_queries: int = setting(20, at_least=1, help="Number of queries on the contact sheet.")

    def check(self) -> None:
        super().check()
        if self.out is None:
            self.reject_given(("images", "sheet_queries"), "requires --out")


def retrieval_search(settings: RetrievalSearchSettings) -> Result:
    """Run `retrieval search`.

    Raises:
        UsageError, DataError: the gallery or the queries cannot be used, or the output cannot be written.
    """
    from simsiam_eval.extraction.sets import plan_features
    from simsiam_eval.runtime.device import resolve_device
    from tasks.retrieval.gallery import Gallery, extracted_gallery, open_index_gallery, open_queries

    started = time.perf_counter()
    device = resolve_device(settings.device)
    if is_index_file(settings.gallery):
        gallery = open_index_gallery(Path(settings.gallery))
    else:
        options, choice = settings.extraction(), settings.given_encoder()
        planned = plan_features(settings.gallery, "train", choice, options, device, option="--gallery")
        gallery = Gallery(extracted_gallery(planned, settings.query))
    parameters, metric = "", settings.metric or "cosine"
    if gallery.index is not None and gallery.recall is not None:
        metric = gallery.index.metric
        if settings.metric not in (None, metric):
            raise UsageError(
                f"--metric {settings.metric} cannot be used: {settings.gallery} was built for {metric}; build another index."
            )
        parameters = gallery.index.set_parameters(settings.index_parameters or gallery.recall.parameters, settings.k)
    queries = open_queries(settings.query, gallery.images, settings.given_encoder(), device)
    search_started = time.perf_counter()
    similarities, rows = gallery.search(queries, settings.k, metric, device)
    seconds = time.perf_counter() - search_started
    answers = [
        Answer(query, _neighbors(gallery.images.ids, *of_query))
        for query, *of_query in zip(queries.ids, similarities, rows, strict=True)
    ]
    files = {}
    if settings.out is not None:
        title = f"{settings.query} in {settings.gallery}{'' if gallery.exact else ' (approximate)'}"
        _write_sheet(settings.out, title, settings.images, gallery, queries, answers[: settings.sheet_queries])
        files["sheet"] = str(settings.out)
    if settings.table is not None:
        _write_table(settings.table, answers)
        files["table"] = str(settings.table)
    incomplete = sum(len(answer.neighbors) < similarities.shape[1] for answer in answers)
    return Result(
        task="retrieval search",
        settings=settings.to_dict(),
        metrics={
            "queries": len(answers),
            "metric": metric,
            "exact": gallery.exact,
            **_index_metrics(gallery, parameters, settings.k),
            "fewer": incomplete,
            "search_seconds": seconds,
            "found": [answer.to_dict() for answer in answers],
        },
        provenance=provenance(
            started,
            leave_one_out=queries.leave_one_out,
            gallery=str(gallery.images.path),
            encoder=gallery.images.attributes["encoder"],
            assumptions=gallery.images.attributes.get("assumptions"),
        ),
        faults=unreadable_faults([gallery.images.read_images, queries.read_images], settings.max_unreadable),
        files=files,
        table=Table(
            f"Search in {counted(len(gallery.images.ids), 'image')}{_accuracy_of(gallery, parameters, settings.k)}"
            + (", leave-one-out" if queries.leave_one_out else ""),
            ("query", "most similar"),
            [answer.cells() for answer in answers[:_TABLE_QUERIES]],
            _notes(len(answers), incomplete),
        ),
    )


@dataclass(frozen=True)
class Neighbor:
    """An image of the gallery, by its row."""

    row: int
    id: str
    similarity: float


@dataclass(frozen=True)
class Answer:
    """The most similar images of a query, the nearest first."""

    query: str
    neighbors: tuple[Neighbor, ...]

    def to_dict(self) -> dict[str, Any]:
        """As in a record."""
        neighbors = [{"id": neighbor.id, "similarity": neighbor.similarity} for neighbor in self.neighbors]
        return {"query": self.query, "neighbors": neighbors}

    def cells(self) -> list[str]:
        """Row of the table."""
        return [self.query, "  ".join(f"{neighbor.id} {neighbor.similarity:.3f}" for neighbor in self.neighbors)]


def _neighbors(
    ids: NDArray[np.str_], similarities: NDArray[np.float32], rows: NDArray[np.int64]
) -> tuple[Neighbor, ...]:
    """The neighbors (K,) of one query; an approximate index may find fewer, whose rows are then -1."""
    return tuple(
        Neighbor(row, str(ids[row]), float(similarity))
        for similarity, row in zip(similarities, rows.tolist(), strict=True)
        if row >= 0
    )


def _write_table(path: Path, answers: Sequence[Answer]) -> None:
    from simsiam_eval.files.atomic import write_csv

    lines = (
        (answer.query, rank, neighbor.id, f"{neighbor.similarity:.6f}")
        for answer in answers
        for rank, neighbor in enumerate(answer.neighbors, 1)
    )
    write_csv(path, ("query", "rank", "id", "similarity"), lines)


def _write_sheet(
    path: Path, title: str, images_spec: str | None, gallery: Gallery, queries: Queries, answers: Sequence[Answer]
) -> None:
    """A line per query: the query, then its neighbors; frames are green or red where both have a label.

    Args:
        images_spec: image source of the gallery; None: the source of its features.
    """
    from simsiam_eval.plots.contact_sheet import Cell, write_sheet
    from simsiam_eval.plots.source_images import SourceImages

    # The number of a class is comparable with another number only.
    comparable = (gallery.images.class_names is None) == (queries.class_names is None)
    images = SourceImages(images_spec) if images_spec else SourceImages.from_features(gallery.images)
    image_of_query, lines = queries.images(), []
    for number, answer in enumerate(answers):
        query_class = queries.class_name(number)
        caption = ("query", *filter(None, [query_class if queries.class_names else ""]), answer.query)
        line = [Cell(image_of_query(number), caption, _QUERY_FRAME)]
        for neighbor in answer.neighbors:
            name, frame = gallery.class_name(neighbor.row), "#cccccc"
            if comparable and query_class and name:
                frame = _SAME_CLASS_FRAME if name == query_class else _OTHER_CLASS_FRAME
            shown_name = name if gallery.images.class_names else ""
            caption = (f"{neighbor.similarity:.4f}", *filter(None, [shown_name]), neighbor.id)
            line.append(Cell(images.image(neighbor.id), caption, frame))
        lines.append(line)
    write_sheet(path, title, lines)


def _index_metrics(gallery: Gallery, parameters: str, k: int) -> dict[str, Any]:
    """The search parameters of an index and its recall, None unless it was measured with these and this k."""
    if gallery.recall is None:
        return {}
    return {"parameters": parameters, "recall": _known_recall(gallery, parameters, k), "recall_k": gallery.recall.k}


def _known_recall(gallery: Gallery, parameters: str, k: int) -> float | None:
    measured = gallery.recall
    assert measured is not None
    same_search = parameters == measured.parameters and min(k, len(gallery.images.ids) - 1) == measured.k
    return measured.recall if same_search or gallery.exact else None


def _accuracy_of(gallery: Gallery, parameters: str, k: int) -> str:
    """Part of the title about an approximate search: its parameters and recall."""
    if gallery.exact:
        return ""
    measured = gallery.recall
    assert measured is not None
    recall = _known_recall(gallery, parameters, k)
    if recall is None:
        known = f"recall unknown, measured with -k {measured.k} and {measured.parameters or 'no parameters'}"
    else:
        known = f"recall@{measured.k} {recall:.4f}"
    return f" (approximate, {parameters or 'no parameters'}: {known})"


def _notes(queries: int, incomplete: int) -> list[str]:
    notes = []
    if queries > _TABLE_QUERIES:
        notes.append(f"and {counted(queries - _TABLE_QUERIES, 'query')} more")
    if incomplete:
        notes.append(f"The index found fewer than -k images for {counted(incomplete, 'query')}.")
    return notes
