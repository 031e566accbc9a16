"""`convert`: write an encoder for another program, and verify what was written."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import setting
from simsiam_eval.encoders.architectures import arch_text
from simsiam_eval.encoders.export.targets import PREPROCESSING_IN, TARGETS, Target
from simsiam_eval.encoders.settings import CheckpointSettings
from simsiam_eval.errors import DataError
from simsiam_eval.extraction.pixel_settings import NormalizationSettings
from simsiam_eval.wording import counted
from tasks.detection.presets import PRESETS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from simsiam_eval.encoders.export.comparison import Comparison

_TARGETS = TARGETS | {
    "detectron2": Target(
        "a detector's backbone, FILE.pth, and a config, FILE.yaml",
        "tasks.detection.backends.detectron2.writer:Detectron2Writer",
        (".pth",),
        {"config": ".yaml"},
        ("preset",),
    )
}
_MAX_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(CheckpointSettings, NormalizationSettings):
    """Write the encoder of a checkpoint, without its projector and predictor, in the format of another program.

    The file is read back by that program, if it is installed, and features of real images are compared with the encoder's. A
    file that does not agree is not written.
    """

    GROUPS: ClassVar[dict[str, str]] = {
        "encoder": "checkpoint",
        "output": "to out preset preprocessing opset",
        "data": "images",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "checkpoint.pth.tar --to torchvision --out encoder.pth",
        "checkpoint.pth.tar --to onnx --preprocessing inside --out encoder.onnx",
        "checkpoint.pth.tar --to timm-folder --out encoder",
    )

    checkpoint: str = setting(
        positional=True, help="Checkpoint file or folder, timm:NAME, timm:NAME@FILE or hf:FOLDER."
    )
    to: str = setting(
        choices=tuple(_TARGETS),
        help="Target format. " + "; ".join(f"{name}: {target.summary}" for name, target in _TARGETS.items()) + ".",
    )
    out: Path = setting(output=True, help="Output file, or for timm-folder and transformers a new folder.")
    preset: str = setting(
        "voc0712",
        choices=tuple(PRESETS),
        help="With --to detectron2, preset of `detect` that decides the heads (c4, fpn) and the config.",
    )
    preprocessing: str = setting(
        "outside",
        choices=PREPROCESSING_IN,
        help="With --to onnx, torch-export or openvino, what the graph takes. outside: normalized float32 images; "
        "normalize: resized and cropped uint8 images; inside: uint8 images of any size, resized to within one gray level "
        "of what `extract` does.",
    )
    opset: int = setting(18, at_least=18, help="With --to onnx, version of the ONNX operator set.")
    images: str | None = setting(
        None,
        help=f"Image source to compare on; of more than {_MAX_IMAGES} images, {_MAX_IMAGES} evenly spaced ones are used "
        "(default: two photographs and six handwritten digits of scikit-learn).",
    )

    @property
    def target(self) -> Target:
        """The format."""
        return _TARGETS[self.to]

    def outputs(self) -> list[tuple[str, Path]]:
        return [*super().outputs(), *(("--out", path) for path in self.target.beside(self.out).values())]

    def check(self) -> None:
        super().check()
        self.target.check(self.to, self.out)
        for name in ("preset", "preprocessing", "opset"):
            if name not in self.target.options:
                targets = ", ".join(to for to, target in _TARGETS.items() if name in target.options)
                self.reject_given((name,), f"requires --to {targets}")


def convert(settings: ConvertSettings) -> Result:
    """Run `convert`.

    Raises:
        UsageError: the format cannot express the encoder, or a package is missing.
        DataError: the checkpoint has no complete encoder, or the other program does not compute the encoder's features.
    """
    from simsiam_eval.encoders.checkpoint import load_encoder
    from simsiam_eval.encoders.export.comparison import METRICS, Samples
    from simsiam_eval.encoders.export.export import export_encoder
    from simsiam_eval.encoders.export.writer import Conversion
    from simsiam_eval.encoders.notes import note_assumptions

    started = time.perf_counter()
    encoder, report = load_encoder(settings.encoder_choice(settings.checkpoint))
    assumptions = note_assumptions(report, settings.mean, settings.std)
    preprocessing = settings.extraction().preprocessing(report)
    samples = Samples(images_to_compare(settings.images), preprocessing)
    conversion = Conversion(
        encoder, report, preprocessing, settings.out, settings.preprocessing, settings.opset, settings.preset
    )
    export = export_encoder(conversion, settings.target, samples)
    comparison = export.comparison
    about = provenance(
        started,
        checkpoint=settings.checkpoint,
        family=report.family,
        arch=report.arch,
        stem=report.stem,
        assumptions=assumptions,
    )
    if comparison is not None:
        package, version = comparison.package
        about["versions"][package] = version
    weights = "in the graph" if export.weights is None else f"{export.weights} of {len(encoder.state_dict())}"
    rows = [
        ["encoder", f"{arch_text(report.arch, report.stem)}, from {report.family}"],
        ["weights written", weights],
        ["weights sha256", report.weights_sha256],
        *_rows(comparison),
    ]
    compared = comparison.to_metrics() if comparison else dict.fromkeys(METRICS)
    return Result(
        task="convert",
        protocol=settings.preset if "preset" in settings.target.options else None,
        settings=settings.to_dict(),
        metrics={"weights": export.weights, "weights_sha256": report.weights_sha256, **compared},
        provenance=about,
        files={role: str(path) for role, path in export.files.items()},
        table=Table(f"{settings.out} ({settings.to})", ("", ""), rows, export.notes),
    )


def images_to_compare(spec: str | None) -> list[NDArray[np.uint8]]:
    """Images (H,W,3) uint8 of an image source, or scikit-learn's sample photographs and six of its digits.

    Raises:
        DataError: an image cannot be decoded, or there are none.
    """
    from sklearn.datasets import load_sample_images

    from simsiam_eval.images.intensity import AUTO
    from simsiam_eval.images.opened import UnreadableImage
    from simsiam_eval.sources.intensity import source_intensity
    from simsiam_eval.sources.opening import open_source

    if spec is None:
        digits = open_source("digits")
        return [*load_sample_images().images, *(digits.image(row).pixels() for row in range(6))]
    source = open_source(spec)
    rows = source.spaced_rows(_MAX_IMAGES)
    if not rows:
        raise DataError(f"--images {spec} has no images; leave it out to compare on scikit-learn's photographs.")
    images, intensity = [], source_intensity(source, AUTO)
    for row in rows:
        try:
            images.append(source.opened(row, None, intensity).pixels())
        except UnreadableImage as error:
            raise DataError(f"{source.id(row)}: {error}; give images that can be decoded with --images.") from error
    return images


def _rows(comparison: Comparison | None) -> list[list[str]]:
    if comparison is None:
        return [["compared with", "-"]]
    return [
        ["compared with", f"{comparison.consumer}, on {counted(comparison.images, 'image')}"],
        ["largest difference of a feature", f"{comparison.largest_difference:.2g}"],
        ["relative to the largest feature", f"{comparison.relative_difference:.2g}"],
        ["smallest cosine similarity", f"{comparison.min_cosine:.7f}"],
    ]
