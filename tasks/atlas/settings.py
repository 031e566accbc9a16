"""Settings of `atlas`, and those of its analysis, which `export --to fiftyone` shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simsiam_eval.commands.settings import DeviceSettings, SeedSettings, setting
from simsiam_eval.errors import UsageError

TABLE, APPLICATION = "atlas.parquet", "application"


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings(DeviceSettings, SeedSettings):
    """Of coordinates, neighbors, votes and suspects."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "train images",
        "method": "k temperature outlier_k threshold map map_sample",
        "index": "index index_parameters",
    }

    train: Path | None = setting(
        None,
        help="Feature file (.h5) whose labeled images vote. Default: the images of FILE vote on each other, leave-one-out.",
    )
    images: str | None = setting(
        None, help="Image source for the images that are shown; default: the source of the features."
    )
    k: int = setting(20, short="-k", at_least=1, help="Number of neighbors that vote on the class of an image.")
    temperature: float = setting(0.07, above=0, help="Temperature T of a vote's weight exp(cosine similarity / T).")
    outlier_k: int = setting(10, at_least=1, help="Outliers: distance to the k-th nearest image.")
    threshold: float = setting(0.95, above=0, at_most=1, help="Minimum cosine similarity of near-duplicates.")
    map: str = setting(
        "auto",
        choices=("auto", "umap", "pca"),
        help="How the coordinates are computed: umap (needs umap-learn), pca, or auto: umap where it is installed.",
    )
    map_sample: int = setting(
        20_000,
        at_least=4,
        help="Number of images that UMAP is computed from; others are placed between their nearest neighbors among them.",
    )
    index: str | None = setting(
        None,
        help="FAISS factory string for approximate search, such as IVF4096,Flat or HNSW32. Default: exact search.",
    )
    index_parameters: str | None = setting(None, help="FAISS search parameters of --index, such as nprobe=32.")

    def check(self) -> None:
        super().check()
        if self.index_parameters is not None and self.index is None:
            raise UsageError(f"--index-parameters {self.index_parameters} requires --index.")
        if self.map == "pca":
            self.reject_given(("map_sample",), "cannot be used with --map pca")


@dataclass(frozen=True, kw_only=True)
class AtlasSettings(AnalysisSettings):
    """Write coordinates, neighbors, labels, votes, suspects and thumbnails of a set as one Parquet file, for an interactive
    map in embedding-atlas. Memory does not grow with the thumbnails or the features, so sets may have millions of images.

    A second run with the same settings and feature file keeps the file; with others it replaces it.
    """

    GROUPS: ClassVar[dict[str, str]] = {"data": "file", "output": "out thumbnails application open port"}
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "test.h5 --train train.h5 --open",
        "photos.h5 --index IVF4096,Flat --out photos-atlas --application",
    )

    file: Path = setting(positional=True, help="Feature file (.h5).")
    out: Path = setting(Path("atlas"), output=True, help=f"Folder for {TABLE} and the application.")
    thumbnails: int = setting(
        10_000,
        at_least=0,
        help="Number of images with a thumbnail: suspects first, then a random sample.",
    )
    application: bool = setting(
        False,
        help=f"Also write the folder {APPLICATION}: a web application with all data, for any web server (about 90 MB; extra "
        "`atlas`).",
    )
    open: bool = setting(
        False, help="Show the result in embedding-atlas at an address of this machine, until Ctrl-C (extra `atlas`)."
    )
    port: int = setting(5055, at_least=0, at_most=65535, help="Port for --open; 0 for any free one.")

    @property
    def table(self) -> Path:
        """The Parquet file."""
        return self.out / TABLE

    def outputs(self) -> list[tuple[str, Path]]:
        return [("--out", self.table)]

    def check(self) -> None:
        super().check()
        if not self.open:
            self.reject_given(("port",), "requires --open")

    def content(self) -> dict[str, Any]:
        """The settings that the table depends on."""
        others = ("file", "out", "application", "open", "port", "train", "device")
        return {name: value for name, value in self.to_dict().items() if name not in others}
