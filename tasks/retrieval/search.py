"""`retrieval search`: an image or a folder -> the most similar images of the gallery, to look at."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simsiam_eval.result import Result, Table, provenance
from simsiam_eval.settings import EncoderSettings, setting

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

    query: str = setting(help="An image, a folder or another image source (with --checkpoint), or a feature file.")
    gallery: str = setting(help="Where to look: a feature file (.h5), an index of `retrieval build`, or images.")
    k: int = setting(10, short="-k", at_least=1, help="Images to find.")
    metric: str = setting("cosine", choices=("cosine", "l2"), help="Similarity; an index has its own.")
    index_parameters: str | None = setting(None, help="FAISS's search parameters, such as nprobe=32 or efSearch=128.")
    out: Path | None = setting(None, help="Contact sheet to write (.png or .html): every query and what it found.")
    table: Path | None = setting(None, help="CSV to write: query, rank, id, similarity.")
    images: str | None = setting(
        None, help="Image source of the gallery, for the sheet; default: the one that the features were made from."
    )
    sheet_queries: int = setting(20, at_least=1, help="Queries on the sheet, the first ones.")

    def check(self) -> None:
        super().check()
        if self.out is not None and self.out.suffix.lower() not in (".png", ".html"):
            from simsiam_eval.errors import UsageError

            raise UsageError(f"--out {self.out} must end in .png or .html.")


def retrieval_search(settings: RetrievalSearchSettings) -> Result:
    """Run `retrieval search`.

    Raises:
        UsageError, DataError: the gallery or the queries cannot be used, or the output not be written.
    """
    from tasks.retrieval.gallery import open_gallery, open_queries

    started = time.perf_counter()
    gallery = open_gallery(settings.gallery, settings)
    if gallery.index is not None:
        gallery.index.set_parameters(settings.index_parameters, settings.k)
    queries = open_queries(settings.query, gallery, settings.checkpoint, settings.device)
    begun = time.perf_counter()
    similarities, rows = gallery.search(queries.features, settings.k, settings.metric, settings.device)
    seconds = time.perf_counter() - begun
    found = [
        {
            "query": name,
            "neighbours": [
                {"id": str(gallery.features.ids[row]), "similarity": float(similarity)}
                for similarity, row in zip(similarities[place], rows[place], strict=True)
                if row >= 0  # an approximate index may find fewer
            ],
        }
        for place, name in enumerate(queries.ids)
    ]
    files = {}
    if settings.out is not None:
        _write_sheet(settings, gallery, queries, similarities, rows)
        files["sheet"] = str(settings.out)
    if settings.table is not None:
        _write_csv(settings.table, found)
        files["table"] = str(settings.table)
    return Result(
        task="retrieval search",
        settings=settings.to_dict(),
        metrics={"queries": len(found), "exact": gallery.exact, "search_seconds": seconds, "found": found},
        provenance=provenance(
            started, gallery=str(gallery.features.path), encoder=gallery.features.attributes["encoder"]
        ),
        files=files,
        table=_table(found, len(gallery.features.ids), gallery.exact),
    )


def _write_csv(path: Path, found: list[dict[str, Any]]) -> None:
    from simsiam_eval.atomic_file import atomic_write

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("query", "rank", "id", "similarity"))
    for one in found:
        for rank, near in enumerate(one["neighbours"], 1):
            writer.writerow((one["query"], rank, near["id"], f"{near['similarity']:.6f}"))
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _write_sheet(
    settings: RetrievalSearchSettings,
    gallery: Gallery,
    queries: Queries,
    similarities: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> None:
    """A line per query: the query, then what it found, framed green or red where both have a label."""
    from simsiam_eval.pictures import Cell, write_sheet
    from simsiam_eval.source_images import SourceImages, shown

    images = SourceImages(settings.images or gallery.features.attributes["source"].get("spec"))
    labels, names = gallery.features.labels, gallery.features.class_names
    # Labels of other images are numbers of their own: only those of one folder layout mean the same.
    comparable = queries.source is None or queries.source.class_names == _names(gallery)
    sheet = []
    for place, name in enumerate(queries.ids[: settings.sheet_queries]):
        line = [Cell(shown(queries.source, queries.rows[place]), ("query", name), _QUERY)]
        for similarity, row in zip(similarities[place], rows[place].tolist(), strict=True):
            if row < 0:
                continue
            frame = "#cccccc"
            if comparable and queries.labels[place] >= 0 and labels[row] >= 0:
                frame = _RIGHT if labels[row] == queries.labels[place] else _WRONG
            identity = str(gallery.features.ids[row])
            class_name = names[labels[row]] if names is not None and labels[row] >= 0 else ""
            caption = (f"{similarity:.4f}", *filter(None, [class_name]), identity)
            line.append(Cell(images.image(identity), caption, frame))
        sheet.append(line)
    assert settings.out is not None
    title = f"{settings.query} in {settings.gallery}{'' if gallery.exact else ' (approximate)'}"
    write_sheet(settings.out, title, sheet)


def _names(gallery: Gallery) -> tuple[str, ...] | None:
    names = gallery.features.class_names
    return tuple(names) if names is not None else None


def _table(found: list[dict[str, Any]], gallery: int, exact: bool) -> Table:
    rows = []
    for one in found[:_SHOWN]:
        near = "  ".join(f"{two['id']} {two['similarity']:.3f}" for two in one["neighbours"])
        rows.append([one["query"], near])
    notes = [f"and {len(found) - _SHOWN} queries more"] if len(found) > _SHOWN else []
    return Table(
        f"Search in {gallery} images{'' if exact else ' (approximate)'}",
        ("query", "most similar"),
        rows,
        notes,
    )
