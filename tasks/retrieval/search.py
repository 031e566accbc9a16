"""`retrieval search`: an image or a folder -> the most similar images of the gallery, to look at."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import setting
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.settings import EncoderSettings, is_index_file
from simsiam_eval.vocabulary import SHEET_ENDINGS
from simsiam_eval.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tasks.retrieval.gallery import Gallery, Queries

_SHOWN = 20  # queries in the table
_RIGHT, _WRONG, _QUERY = "#1b9e3a", "#d62728", "#1f4fb4"


@dataclass(frozen=True, kw_only=True)
class RetrievalSearchSettings(EncoderSettings):
    """Find the images of a gallery that are most similar to an image, or to each image of a folder."""

    SETS = ("gallery",)
    GROUPS: ClassVar[dict[str, str]] = {
        "data": "query gallery",
        "index": "index_parameters",
        "output": "out table images sheet_queries",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "photo.jpg --gallery train.index --checkpoint checkpoint.pth.tar --out matches.html",
    )

    query: str = setting(
        positional=True, help="An image, a folder or another image source (with --checkpoint), or a feature file."
    )
    gallery: str = setting(help="Where to look: a feature file (.h5), an index of `retrieval build`, or images.")
    k: int = setting(10, short="-k", at_least=1, help="Images to find.")
    metric: str | None = setting(
        None, choices=("cosine", "l2"), help="Similarity; default: cosine, or the one that an index was built with."
    )
    index_parameters: str | None = setting(
        None,
        help="FAISS's search parameters of an index, such as nprobe=32 or efSearch=128; default: those with which "
        "`retrieval build` measured its recall.",
    )
    out: Path | None = setting(
        None,
        output=True,
        endings=SHEET_ENDINGS,
        help="Contact sheet to write (.png or .html): every query and what it found.",
    )
    table: Path | None = setting(None, output=True, help="CSV to write: query, rank, id, similarity.")
    images: str | None = setting(
        None, help="Image source of the gallery, for the sheet; default: the one that the features were made from."
    )
    sheet_queries: int = setting(20, at_least=1, help="Queries on the sheet, the first ones.")

    def check(self) -> None:
        super().check()
        if self.out is None:
            self.reject_given(("images", "sheet_queries"), "is of the contact sheet: give --out too")
        if self.index_parameters is not None and not is_index_file(self.gallery):
            raise UsageError(f"--index-parameters are for an index file: --gallery {self.gallery} is searched exactly.")
        if is_index_file(self.gallery) and self.layer != ("pool",):
            raise UsageError(
                f"--layer {' '.join(self.layer)}: --gallery {self.gallery} is an index of one layer already."
            )


def retrieval_search(settings: RetrievalSearchSettings) -> Result:
    """Run `retrieval search`.

    Raises:
        UsageError, DataError: the gallery or the queries cannot be used, or the output not be written.
    """
    from simsiam_eval.files.atomic import write_csv
    from simsiam_eval.runtime.device import resolve_device
    from tasks.retrieval.gallery import open_gallery, open_queries

    started = time.perf_counter()
    settings.try_outputs()
    device = resolve_device(settings.device)
    gallery = open_gallery(settings.gallery, settings.checkpoint, settings.extraction(), device)
    parameters = _parameters(settings, gallery)
    queries = open_queries(settings.query, gallery, settings.checkpoint, device)
    begun = time.perf_counter()
    similarities, rows = gallery.search(queries, settings.k, settings.metric, device)
    seconds = time.perf_counter() - begun
    found: list[dict[str, Any]] = [
        {"query": name, "neighbors": _neighbors(gallery, similarities[place], rows[place])}
        for place, name in enumerate(queries.ids)
    ]
    files = {}
    if settings.out is not None:
        _write_sheet(settings, gallery, queries, similarities, rows)
        files["sheet"] = str(settings.out)
    if settings.table is not None:
        lines = (
            (one["query"], rank, near["id"], f"{near['similarity']:.6f}")
            for one in found
            for rank, near in enumerate(one["neighbors"], 1)
        )
        write_csv(settings.table, ("query", "rank", "id", "similarity"), lines)
        files["table"] = str(settings.table)
    metric = gallery.index.metric if gallery.index is not None else settings.metric or "cosine"
    metrics: dict[str, Any] = {"queries": len(found), "metric": metric, "exact": gallery.exact}
    metrics |= _index_metrics(gallery, parameters, settings.k)
    metrics["fewer"] = sum(len(one["neighbors"]) < similarities.shape[1] for one in found)
    return Result(
        task="retrieval search",
        settings=settings.to_dict(),
        metrics=metrics | {"search_seconds": seconds, "found": found},
        provenance=provenance(
            started,
            leave_one_out=queries.own,
            gallery=str(gallery.features.path),
            encoder=gallery.features.attributes["encoder"],
        ),
        files=files,
        table=_table(found, len(gallery.features.ids), _mark(gallery, metrics), queries.own, metrics["fewer"]),
    )


def _neighbors(gallery: Gallery, similarities: NDArray[np.float32], rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    return [
        {"id": str(gallery.features.ids[row]), "similarity": float(similarity)}
        for similarity, row in zip(similarities, rows, strict=True)
        if row >= 0  # an approximate index may find fewer
    ]


def _parameters(settings: RetrievalSearchSettings, gallery: Gallery) -> str:
    """Set those of the index, and say what they are."""
    if gallery.index is None or gallery.measured is None:
        return ""
    if settings.metric not in (None, gallery.index.metric):
        raise UsageError(
            f"--metric {settings.metric}: {settings.gallery} was built for {gallery.index.metric}; build another index."
        )
    return gallery.index.set_parameters(settings.index_parameters or gallery.measured.parameters, settings.k)


def _write_sheet(
    settings: RetrievalSearchSettings,
    gallery: Gallery,
    queries: Queries,
    similarities: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> None:
    """A line per query: the query, then what it found, framed green or red where both have a label."""
    from simsiam_eval.features.class_names import class_name
    from simsiam_eval.plots.contact_sheet import Cell, write_sheet
    from simsiam_eval.plots.source_images import SourceImages

    labels, names = gallery.features.labels, gallery.features.class_names
    comparable = (names is None) == (queries.class_names is None)  # a number is not a class of that name
    images = SourceImages(settings.images) if settings.images else SourceImages.of(gallery.features)
    asked, sheet = queries.images(), []
    for place, query in enumerate(queries.ids[: settings.sheet_queries]):
        name = class_name(int(queries.labels[place]), queries.class_names)
        line = [Cell(asked(place), ("query", *filter(None, [name if queries.class_names else ""]), query), _QUERY)]
        for similarity, row in zip(similarities[place], rows[place].tolist(), strict=True):
            if row < 0:
                continue
            found, frame = class_name(int(labels[row]), names), "#cccccc"
            if comparable and name and found:
                frame = _RIGHT if found == name else _WRONG
            identity = str(gallery.features.ids[row])
            caption = (f"{similarity:.4f}", *filter(None, [found if names else ""]), identity)
            line.append(Cell(images.image(identity), caption, frame))
        sheet.append(line)
    assert settings.out is not None
    title = f"{settings.query} in {settings.gallery}{'' if gallery.exact else ' (approximate)'}"
    write_sheet(settings.out, title, sheet)


def _index_metrics(gallery: Gallery, parameters: str, k: int) -> dict[str, Any]:
    """How an index was searched, and the recall that was measured when it was built, if it was so and for as many."""
    measured = gallery.measured
    if measured is None:
        return {}
    same = (parameters == measured.parameters and min(k, len(gallery.features.ids) - 1) == measured.k) or gallery.exact
    return {"parameters": parameters, "recall": measured.recall if same else None, "recall_k": measured.k}


def _mark(gallery: Gallery, metrics: dict[str, Any]) -> str:
    if gallery.exact:
        return ""
    parameters = metrics["parameters"] or "no parameters"
    assert gallery.measured is not None
    if metrics["recall"] is None:
        measured = f"-k {gallery.measured.k} and {gallery.measured.parameters or 'no parameters'}"
        return f" (approximate, {parameters}: recall unknown, measured with {measured})"
    return f" (approximate, {parameters}: recall@{metrics['recall_k']} {metrics['recall']:.4f})"


def _table(found: list[dict[str, Any]], gallery: int, mark: str, own: bool, fewer: int) -> Table:
    rows, notes = [], []
    for one in found[:_SHOWN]:
        near = "  ".join(f"{two['id']} {two['similarity']:.3f}" for two in one["neighbors"])
        rows.append([one["query"], near])
    if (more := len(found) - _SHOWN) > 0:
        notes.append(f"and {counted(more, 'query')} more")
    if fewer:
        notes.append(f"The index found fewer images than -k asks for: of {counted(fewer, 'query')}.")
    return Table(
        f"Search in {counted(gallery, 'image')}{mark}" + (", leave-one-out" if own else ""),
        ("query", "most similar"),
        rows,
        notes,
    )
