"""Settings of commands that search a gallery by image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simsiam_eval.commands.settings import setting
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.settings import EncoderSettings
from simsiam_eval.sources.spec import is_index_file


@dataclass(frozen=True, kw_only=True)
class GallerySettings(EncoderSettings):
    """A gallery, its index and its images."""

    SETS = ("gallery",)
    GROUPS: ClassVar[dict[str, str]] = {"data": "gallery images", "index": "index_parameters metric"}

    gallery: str = setting(
        help="Gallery: a feature file (.h5), an index by `retrieval build`, or an image source with --checkpoint."
    )
    metric: str | None = setting(
        None, choices=("cosine", "l2"), help="Similarity to rank by (default: cosine, or the metric of the index)."
    )
    index_parameters: str | None = setting(
        None,
        help="FAISS search parameters of an index, such as nprobe=32 or efSearch=128 (default: those of its measured "
        "recall).",
    )
    images: str | None = setting(
        None, help="Image source of the gallery's thumbnails (default: the source of its features)."
    )

    def check(self) -> None:
        super().check()
        if is_index_file(self.gallery):
            if self.layer != ("pool",):
                raise UsageError(
                    f"--layer {' '.join(self.layer)} cannot be used: --gallery {self.gallery} is an index of one layer."
                )
        elif self.index_parameters is not None:
            raise UsageError(
                f"--index-parameters requires an index file; --gallery {self.gallery} is searched exactly."
            )
