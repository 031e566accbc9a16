"""Which encoder to load: a checkpoint, and what its file does not say. Does not import torch."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderChoice:
    """An encoder as a user names it; None where the file decides.

    Attributes:
        checkpoint: path of a file or folder, or `timm:NAME`, `timm:NAME@FILE`, `hf:FOLDER`.
        branch: which of several networks in the file, by one of the names that `inspect` lists.
        arch: architecture, where shapes fit several.
        stem_stride, stem_padding, stem_pool, stride_in_1x1: as in `TrunkVariant`.
        download: whether missing weights may be downloaded; otherwise nothing is.
    """

    checkpoint: str
    branch: str | None = None
    arch: str | None = None
    stem_stride: int | None = None
    stem_padding: int | None = None
    stem_pool: bool | None = None
    stride_in_1x1: bool | None = None
    download: bool = False

    @classmethod
    def of(cls, checkpoint: str | os.PathLike[str] | EncoderChoice) -> EncoderChoice:
        """The choice, or the checkpoint at a path with everything else left to the file."""
        return checkpoint if isinstance(checkpoint, EncoderChoice) else cls(os.fspath(checkpoint))
