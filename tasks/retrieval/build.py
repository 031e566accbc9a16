"""`retrieval build`: a feature file, or a checkpoint and images -> an index file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from simsiam_eval.result import Result, Table, provenance
from simsiam_eval.settings import EncoderSettings, setting


@dataclass(frozen=True, kw_only=True)
class RetrievalBuildSettings(EncoderSettings):
    """Make an index file of a gallery, for `retrieval search`: FAISS's own format, with ids and labels beside it."""

    SETS = ("gallery",)

    gallery: str = setting(
        help="Images that shall be found: a feature file (.h5), or an image source with --checkpoint."
    )
    out: Path = setting(help="Index file to write (.index); the rows' ids are written to NAME.index.h5.")
    index: str = setting(
        "Flat", help="FAISS factory string; Flat is exact, others (IVF256,Flat; HNSW32; ...) approximate."
    )
    metric: str = setting("cosine", choices=("cosine", "l2"), help="Similarity that the index ranks by.")
    k: int = setting(10, short="-k", at_least=1, help="Neighbours of the recall that is reported.")
    index_parameters: str | None = setting(None, help="FAISS's search parameters for that report, such as nprobe=32.")
    recall_sample: int = setting(1000, at_least=1, help="Rows on which the index is held against exact search.")

    def check(self) -> None:
        super().check()
        if self.out.suffix != ".index":
            from simsiam_eval.errors import UsageError

            raise UsageError(f"--out {self.out} must end in .index.")


def retrieval_build(settings: RetrievalBuildSettings) -> Result:
    """Run `retrieval build`.

    Raises:
        UsageError, DataError: the features cannot be used, or the index not be made or written.
    """
    from simsiam_eval.feature_cache import described_features, features_of
    from simsiam_eval.index_file import rows_file, write_index_file
    from simsiam_eval.indexes import build_index, index_quality

    started = time.perf_counter()
    gallery = features_of(settings.gallery, "train", settings)
    index = build_index(gallery.features, settings.index, settings.metric, settings.seed)
    index.set_parameters(settings.index_parameters, settings.k)
    seconds = time.perf_counter() - started
    quality = index_quality(index, gallery.features, None, settings.k, settings.recall_sample, settings.seed)
    write_index_file(settings.out, index, gallery)
    metrics = quality | {"rows": len(gallery.ids), "exact": index.exact, "build_seconds": seconds}
    return Result(
        task="retrieval build",
        settings=settings.to_dict(),
        metrics=metrics,
        provenance=provenance(started, gallery=described_features(gallery)),
        files={"index": str(settings.out), "rows": str(rows_file(settings.out))},
        table=Table(
            f"Index {settings.out}, {settings.index}{'' if index.exact else ' (approximate)'}",
            ("rows", "recall@k", "k", "queries/s", "exact queries/s", "bytes a row", "built in s"),
            [[str(metrics["rows"]), f"{quality['recall']:.4f}", str(quality["k"]), f"{quality['queries_per_second']:.0f}",
              f"{quality['exact_queries_per_second']:.0f}", f"{quality['bytes_per_row']:.0f}", f"{seconds:.1f}"]],
        ),
    )  # fmt: skip
