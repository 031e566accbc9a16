"""How the images of an encoder are resized, cropped and normalized, where a file of timm or transformers says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simsiam_eval.images.preprocess import Preprocessing


@dataclass(frozen=True)
class StatedPreprocessing:
    """The preprocessing of an encoder's images.

    Attributes:
        preprocessing: None if nothing states it. Its mean may have another number of values than the images have channels.
        source: what states it.
        assumptions: sentences on how ours differs from it.
    """

    preprocessing: Preprocessing | None = None
    source: str | None = None
    assumptions: tuple[str, ...] = ()

    @property
    def record(self) -> dict[str, Any] | None:
        """The preprocessing, as from `Preprocessing.to_dict`."""
        return None if self.preprocessing is None else self.preprocessing.to_dict()


def known_interpolation(name: str) -> tuple[str, tuple[str, ...]]:
    """(an interpolation that `Preprocessing` has, an assumption if it is another one).

    >>> known_interpolation("bicubic"), known_interpolation("lanczos")[0]
    (('bicubic', ()), 'bilinear')
    """
    if name in ("bilinear", "bicubic"):
        return name, ()
    return "bilinear", (f"Images are resized with bilinear, not {name}, interpolation.",)
