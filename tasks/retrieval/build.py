"""`retrieval build`: build an index file from a feature file, or from a checkpoint and images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import SeedSettings, setting
from simsiam_eval.commands.unreadable import unreadable_faults
from simsiam_eval.errors import DataError
from simsiam_eval.extraction.settings import EncoderSettings
from simsiam_eval.vocabulary import INDEX_ENDING


@dataclass(frozen=True, kw_only=True)
class RetrievalBuildSettings(EncoderSettings, SeedSettings):
    """Build an index file for `retrieval search`: in FAISS's own format, with ids and labels in a second file."""

    SETS = ("gallery",)
    GROUPS: ClassVar[dict[str, str]] = {
        "data": "gallery",
        "index": "index index_parameters metric",
        "evaluation": "k recall_sample",
        "output": "out",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = ("--gallery train.h5 --index IVF4096,Flat --out train.index",)

    gallery: str = setting(help="Gallery images to index: a feature file (.h5), or an image source with --checkpoint.")
    out: Path = setting(
        output=True,
        endings=(INDEX_ENDING,),
        help="Index file (.index); the ids of its rows are written to NAME.index.h5.",
    )
    index: str = setting(
        "Flat", help="FAISS factory string; Flat is exact, others (IVF256,Flat; HNSW32; ...) approximate."
    )
    metric: str = setting("cosine", choices=("cosine", "l2"), help="Similarity to rank by.")
    k: int = setting(10, short="-k", at_least=1, help="k for the reported recall@k.")
    index_parameters: str | None = setting(
        None, help="FAISS search parameters, such as nprobe=32, for measuring recall and for `retrieval search`."
    )
    recall_sample: int = setting(1000, at_least=1, help="Number of queries used to measure recall.")

    def outputs(self) -> list[tuple[str, Path]]:
        from simsiam_eval.neighbors.index_file import rows_file

        return [*super().outputs(), ("--out", rows_file(self.out))]


def retrieval_build(settings: RetrievalBuildSettings) -> Result:
    """Run `retrieval build`.

    Raises:
        UsageError, DataError: the features cannot be used, or the index cannot be built or written.
    """
    from simsiam_eval.extraction.sets import features_of
    from simsiam_eval.features.compatibility import described_features
    from simsiam_eval.neighbors.approximate import build_index
    from simsiam_eval.neighbors.index_file import MeasuredRecall, rows_file, write_index_file
    from simsiam_eval.neighbors.recall import exact_sample, index_quality
    from simsiam_eval.runtime.device import resolve_device

    started = time.perf_counter()
    device = resolve_device(settings.device)
    gallery = features_of(
        settings.gallery, "train", settings.given_encoder(), settings.extraction(), device, option="--gallery"
    )
    if len(gallery.labels) < 2:
        raise DataError(f"{settings.gallery} contains only one image; an index needs at least two.")
    index = build_index(gallery.features, settings.index, settings.metric, settings.seed)
    parameters = index.set_parameters(settings.index_parameters, settings.k)
    seconds = time.perf_counter() - started
    exact = exact_sample(
        gallery.features,
        None,
        settings.k,
        settings.metric,
        settings.recall_sample,
        settings.seed,
        device,
    )
    quality = index_quality(index, gallery.features, exact, parameters)
    write_index_file(settings.out, index, gallery, MeasuredRecall(parameters, quality.recall, quality.k))
    kind = "" if index.exact else f" ({', '.join(filter(None, ('approximate', parameters)))})"
    return Result(
        task="retrieval build",
        settings=settings.to_dict(),
        metrics=quality.to_dict() | {"rows": len(gallery.ids), "build_seconds": seconds},
        provenance=provenance(started, gallery=described_features(gallery)),
        faults=unreadable_faults([gallery.read_images], settings.max_unreadable),
        files={"index": str(settings.out), "rows": str(rows_file(settings.out))},
        table=Table(
            f"Index {settings.out}, {settings.index}{kind}",
            ("rows", "recall@k", "k", "queries/s", "exact queries/s", "bytes per row", "build seconds"),
            [
                [
                    str(len(gallery.ids)),
                    f"{quality.recall:.4f}",
                    str(quality.k),
                    f"{quality.queries_per_second:.0f}",
                    f"{quality.exact_queries_per_second:.0f}",
                    f"{quality.bytes_per_row:.0f}",
                    f"{seconds:.1f}",
                ]
            ],
        ),
    )
