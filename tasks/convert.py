"""`convert`: write an encoder for another program, and verify what was written."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import setting
from simsiam_eval.encoders.export.targets import PREPROCESSING_IN, TARGETS
from simsiam_eval.encoders.settings import CheckpointSettings
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.pixel_settings import NormalizationSettings
from simsiam_eval.wording import counted
from tasks.detection.settings import DetectSettings, preset_schedule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from simsiam_eval.encoders.encoder import ResNetEncoder
    from simsiam_eval.encoders.export.comparison import Comparison, Samples
    from simsiam_eval.encoders.export.export import Export
    from simsiam_eval.encoders.report import CheckpointReport
    from tasks.detection.detector_spec import DetectorSpec

DETECTRON2 = "detectron2"
_SUMMARIES = {name: target.summary for name, target in TARGETS.items()} | {
    DETECTRON2: "a detector's backbone, FILE.pth, and a config, FILE.yaml"
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
        choices=tuple(_SUMMARIES),
        help="Target format. " + "; ".join(f"{name}: {summary}" for name, summary in _SUMMARIES.items()) + ".",
    )
    out: Path = setting(output=True, help="Output file, or for timm-folder and transformers a new folder.")
    preset: str = setting(
        "voc0712",
        choices=tuple(DetectSettings.PRESETS),
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

    def outputs(self) -> list[tuple[str, Path]]:
        beside = (".yaml",) if self.to == DETECTRON2 else TARGETS[self.to].beside
        return [*super().outputs(), *(("--out", self.out.with_suffix(ending)) for ending in beside)]

    def check(self) -> None:
        super().check()
        if self.to == DETECTRON2 and self.out.suffix != ".pth":
            raise UsageError(
                f"--out {self.out} must end in .pth, since detectron2 chooses the format by the extension."
            )
        if self.to != DETECTRON2:
            endings = TARGETS[self.to].endings
            if endings and not self.out.name.endswith(endings):
                raise UsageError(f"--out {self.out} must end in {' or '.join(endings)} with --to {self.to}.")
        if self.to != DETECTRON2 and TARGETS[self.to].folder and self.out.exists():
            raise UsageError(f"--out {self.out} already exists; choose a new folder.")
        if self.to == DETECTRON2 or not TARGETS[self.to].graph:
            graphs = ", ".join(name for name, target in TARGETS.items() if target.graph)
            self.reject_given(("preprocessing",), f"requires --to {graphs}")
        if self.to != "onnx":
            self.reject_given(("opset",), "requires --to onnx")


def convert(settings: ConvertSettings) -> Result:
    """Run `convert`.

    Raises:
        UsageError: the format cannot express the encoder, or a package is missing.
        DataError: the checkpoint has no complete encoder, or the other program does not compute the encoder's features.
    """
    from simsiam_eval.encoders.checkpoint import load_encoder
    from simsiam_eval.encoders.encoder import require_resnet
    from simsiam_eval.encoders.export.comparison import Samples
    from simsiam_eval.encoders.export.export import export_encoder, writer_of
    from simsiam_eval.encoders.export.writer import Subject
    from simsiam_eval.encoders.notes import note_assumptions

    started = time.perf_counter()
    settings.try_outputs()
    encoder, report = load_encoder(settings.encoder_choice(settings.checkpoint))
    assumptions = note_assumptions(report, settings.mean, settings.std)
    preprocessing = settings.extraction().preprocessing(report)
    samples = Samples(images_to_compare(settings.images), preprocessing)
    if settings.to == DETECTRON2:
        resnet = require_resnet(encoder, settings.checkpoint, "convert --to detectron2")
        export = export_to_detectron2(settings.out, settings.preset, resnet, report, samples)
    else:
        subject = Subject(encoder, report, preprocessing, settings.preprocessing, settings.opset)
        export = export_encoder(settings.out, settings.to, writer_of(settings.to, subject), samples)
    rows, metrics = _compared(export.comparison)
    weights = "in the graph" if export.weights is None else f"{export.weights} of {len(encoder.state_dict())}"
    rows = [
        ["encoder", f"{report.arch}, {report.stem} stem, from {report.family}"],
        ["weights written", weights],
        ["weights sha256", report.weights_sha256],
        *rows,
    ]
    about = provenance(
        started,
        checkpoint=settings.checkpoint,
        family=report.family,
        arch=report.arch,
        stem=report.stem,
        assumptions=assumptions,
    )
    if export.comparison is not None:
        package, _, version = export.comparison.consumer.partition(" ")
        about["versions"] |= {package: version}
    return Result(
        task="convert",
        protocol=settings.preset if settings.to == DETECTRON2 else None,
        settings=settings.to_dict(),
        metrics={"weights": export.weights, "weights_sha256": report.weights_sha256, **metrics},
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


def _compared(comparison: Comparison | None) -> tuple[list[list[str]], dict[str, Any]]:
    """Rows of the table and metrics."""
    names = ("largest_difference", "relative_difference", "min_cosine")
    if comparison is None:
        return [["compared with", "-"]], dict.fromkeys(("compared_with", "compared_images", *names))
    rows = [
        ["compared with", f"{comparison.consumer}, on {counted(comparison.images, 'image')}"],
        ["largest difference of a feature", f"{comparison.largest_difference:.2g}"],
        ["relative to the largest feature", f"{comparison.relative_difference:.2g}"],
        ["smallest cosine similarity", f"{comparison.min_cosine:.7f}"],
    ]
    metrics = {"compared_with": comparison.consumer.split()[0], "compared_images": comparison.images}
    return rows, metrics | {name: getattr(comparison, name) for name in names}


def export_to_detectron2(
    path: Path, preset: str, encoder: ResNetEncoder, report: CheckpointReport, samples: Samples
) -> Export:
    """Write an encoder under the names of a detectron2 detector, with a config next to it, if both agree on images.

    Args:
        path: of the weights, ending in .pth; the config is written to the same name ending in .yaml.
        preset: of `detect`, which decides the heads and the config.
        encoder: what to write.
        report: of its checkpoint.
        samples: images to compare on, if detectron2 is installed.

    Raises:
        UsageError: detectron2 cannot have this trunk, or the config would overwrite a file that does not belong to `path`.
        DataError: detectron2 computes different feature maps, or a file cannot be written.
    """
    import torch

    from simsiam_eval.encoders.checkpoint_files.checkpoint_file import read_checkpoint
    from simsiam_eval.encoders.export.export import Export
    from simsiam_eval.encoders.report import weights_sha256
    from simsiam_eval.files.atomic import atomic_files
    from tasks.detection.backends.detectron2.config import config_values, yaml_text
    from tasks.detection.backends.detectron2.weights import detectron2_keys, detectron2_weights

    config = path.with_suffix(".yaml")
    if config.exists() and not path.exists():
        raise UsageError(f"--out {path} would overwrite {config}, which already exists; choose another name.")
    spec = replace(_detector(preset), mean=samples.preprocessing.mean, std=samples.preprocessing.std)
    weights = detectron2_weights(encoder, spec.heads)
    strides = {"MODEL.RESNETS.STRIDE_IN_1X1": encoder.variant.stride_in_1x1}
    comparison, note = _compare_with_detectron2(encoder, weights, spec, strides, samples)
    values = config_values(encoder.arch, spec, preset_schedule(preset), "SyncBN") | strides
    names = detectron2_keys(encoder.trunk.state_dict(), spec.heads)
    with atomic_files(path, config) as folder:
        content = {"model": weights, "__author__": "simsiam-eval", "matching_heuristics": False}
        torch.save(content, folder / path.name)
        text = yaml_text(values | {"MODEL.WEIGHTS": str(path.resolve())})
        (folder / config.name).write_text(text, encoding="utf-8")
        written = read_checkpoint(folder / path.name)["model"]
        read_back = {key: written[name] for key, name in names.items()}
        if weights_sha256(read_back, report.computation) != report.weights_sha256:
            raise DataError(f"{path} was not written: what was read back are not the weights of {report.path}.")
    notes = [
        note,
        f"Wrote {path} and {config}.",
        f"The config follows the preset {preset}, with {len(spec.classes)} classes; set your DATASETS in it.",
    ]
    return Export({"checkpoint": path, "config": config}, len(names), notes, comparison)


def _detector(preset: str) -> DetectorSpec:
    """The detector of a preset of `detect`, as trained on a GPU."""
    from tasks.detection.detector_spec import Sizes, detector_spec

    values = DetectSettings.PRESETS[preset]
    spec, _ = detector_spec(
        heads=values["heads"],
        masks=values["masks"],
        classes=tuple(map(str, range(20 if values["metric"].startswith("voc") else 80))),
        min_sizes=values["min_sizes"],
        test_size=values["test_size"],
        max_size=values["max_size"],
        sizes=Sizes(),
        on_cpu=False,
    )
    return spec


def _compare_with_detectron2(
    encoder: ResNetEncoder, weights: dict[str, Tensor], spec: DetectorSpec, strides: dict[str, bool], samples: Samples
) -> tuple[Comparison | None, str]:
    """The comparison with detectron2's backbone, None without detectron2; and a note about it.

    Args:
        strides: of the config.
    """
    from tasks.detection.backends.detectron2.backend import Detectron2Backend

    backend = Detectron2Backend()
    missing = backend.unavailable()
    if missing is not None:
        return None, f"Not compared with detectron2's backbone: {missing}"
    from simsiam_eval.encoders.export.comparison import compare
    from tasks.detection.backends.detectron2.comparison import check_difference, compared_stages
    from tasks.detection.backends.detectron2.model import random_model

    model = random_model(encoder.arch, spec, strides)
    difference, features = compared_stages(encoder, weights, model, spec.heads, samples.normalized, samples.pixels)
    check_difference(difference)
    consumer = f"detectron2 {backend.versions()['detectron2']}"
    comparison = compare(consumer, features, samples.features(encoder))
    return comparison, f"The outputs of res2 to res5 match torchvision's (largest difference {difference:.2g})."
