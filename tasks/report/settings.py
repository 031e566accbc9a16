"""Settings of `report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from simsiam_eval.commands.settings import SeedSettings, setting
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.settings import EncoderSettings
from simsiam_eval.linear.protocols import PROTOCOLS
from simsiam_eval.sources.spec import is_feature_file


@dataclass(frozen=True, kw_only=True)
class ReportSettings(EncoderSettings, SeedSettings):
    """Write one HTML page about an encoder: scores, a map of the images, confusions, suspects, training, comparison.

    With results of other commands, the page shows what exists and says how to make what is missing. With --checkpoint
    and images, it is all computed first; run again, only what is missing.
    """

    SETS = ("train", "test")
    GROUPS: ClassVar[dict[str, str]] = {
        "data": "results train test",
        "evaluation": "linear k temperature duplicate_threshold",
        "output": "out map thumbnails",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "runs/first train.h5 test.h5 head.safetensors --out report.html",
        "first-test.h5 second-test.h5 --out comparison.html",
        "--checkpoint checkpoint.pth.tar --train folder:photos/train --test folder:photos/test --out report.html",
    )

    results: tuple[Path, ...] = setting(
        (),
        positional=True,
        help="Results to show: feature files (.h5), records (.json), heads (.safetensors), run folders of pretrain or "
        "detect, or folders that contain such files. The encoder of the first feature file is the one reported on.",
    )
    train: str | None = setting(
        None,
        help="Training set: a feature file (.h5), or an image source with --checkpoint (default: none; each test image is "
        "classified by the other test images).",
    )
    test: str | None = setting(None, help="Test set: a feature file (.h5), or an image source with --checkpoint.")
    linear: str = setting(
        "small", choices=tuple(PROTOCOLS), help="Protocol of linear evaluation, where --checkpoint computes it."
    )
    k: int = setting(20, short="-k", at_least=1, help="Number of neighbors that predict the class of an image.")
    temperature: float = setting(0.07, above=0, help="Temperature T of the weights exp(similarity / T).")
    duplicate_threshold: float = setting(
        0.99, above=0, at_most=1, help="Cosine similarity from which on two images are shown as near-duplicates."
    )
    map: str = setting(
        "auto",
        choices=("auto", "umap", "pca"),
        help="How the map is computed: umap (needs umap-learn), pca, or auto: umap where it is installed.",
    )
    thumbnails: int = setting(
        10_000,
        at_least=0,
        help="Number of images on the page; with more images, all are points of the map, and a sample of them is shown.",
    )
    out: Path = setting(Path("report.html"), output=True, endings=(".html",), help="The page.")

    def check(self) -> None:
        super().check()
        if not self.results and self.test is None:
            raise UsageError("report requires results of other commands, or --test.")
        if self.checkpoint is None:
            self.reject_given(("linear",), "requires --checkpoint")
            for name in ("train", "test"):
                spec = getattr(self, name)
                if spec is not None and not is_feature_file(spec):
                    raise UsageError(f"--{name} {spec} is not a feature file (.h5); images require --checkpoint.")
        elif self.test is None:
            raise UsageError("--checkpoint requires --test.")
        if self.train is not None and self.train == self.test:
            raise UsageError(
                f"--train and --test are both {self.test}; leave out --train, and each image is classified by the others."
            )
