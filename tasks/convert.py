"""`convert`: write an encoder for another program, and verify what was written."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import setting
from simsiam_eval.encoders.settings import CheckpointSettings
from simsiam_eval.errors import DataError, UsageError
from tasks.detection.settings import DetectSettings, preset_schedule

if TYPE_CHECKING:
    from torch import Tensor

    from simsiam_eval.encoders.encoder import ResNetEncoder
    from simsiam_eval.encoders.export import Export
    from tasks.detection.detector_spec import DetectorSpec

TARGETS = ("reference", "torchvision", "timm", "safetensors", "detectron2")


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(CheckpointSettings):
    """Write the encoder of a checkpoint, without its projector and predictor, in the format of another program."""

    GROUPS: ClassVar[dict[str, str]] = {"encoder": "checkpoint", "output": "to out"}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("checkpoint.pth.tar --to torchvision --out encoder.pth",)

    checkpoint: str = setting(positional=True, help="Checkpoint file of any family that `inspect` recognizes.")
    to: str = setting(
        choices=TARGETS,
        help="Target format. reference: facebookresearch/simsiam's keys; torchvision: a state dict without fc; safetensors: "
        "the same as a safetensors file; timm: for timm.create_model; detectron2: a detector's backbone and a config.",
    )
    out: Path = setting(output=True, help="Output file. detectron2: FILE.pth; the config is written to FILE.yaml.")
    preset: str = setting(
        "voc0712",
        choices=tuple(DetectSettings.PRESETS),
        help="With --to detectron2, preset of `detect` that decides the heads (c4, fpn) and the config.",
    )

    def outputs(self) -> list[tuple[str, Path]]:
        config = [("--out", self.out.with_suffix(".yaml"))] if self.to == "detectron2" else []
        return [*super().outputs(), *config]

    def check(self) -> None:
        if self.to == "detectron2" and self.out.suffix != ".pth":
            raise UsageError(
                f"--out {self.out} must end in .pth, since detectron2 chooses the format by the extension."
            )


def convert(settings: ConvertSettings) -> Result:
    """Run `convert`.

    Raises:
        UsageError: detectron2 does not support the encoder's stem.
        DataError: the checkpoint has no complete encoder, the file does not contain what was read, or detectron2 computes
            different feature maps.
    """
    from simsiam_eval.encoders.checkpoint import load_encoder, weights_sha256
    from simsiam_eval.encoders.encoder import require_resnet
    from simsiam_eval.encoders.export import export_encoder

    started = time.perf_counter()
    settings.try_outputs()
    loaded, report = load_encoder(settings.encoder_choice(settings.checkpoint))
    encoder = require_resnet(loaded, settings.checkpoint, "convert")
    if settings.to == "detectron2":
        export = export_to_detectron2(settings.out, settings.preset, encoder)
    else:
        export = export_encoder(settings.out, settings.to, encoder, report)
    if weights_sha256(export.weights, report.computation) != report.weights_sha256:
        raise DataError(f"{settings.out} does not contain the weights of {settings.checkpoint}; convert it again.")
    difference = export.largest_difference
    rows = [
        ["encoder", f"{report.arch}, {report.stem} stem, from {report.family}"],
        ["weights written", f"{len(export.weights)} of {len(encoder.trunk.state_dict())}"],
        ["weights sha256", report.weights_sha256],
        ["largest difference in res2 to res5", "-" if difference is None else f"{difference:.2g}"],
    ]
    return Result(
        task="convert",
        protocol=settings.preset if settings.to == "detectron2" else None,
        settings=settings.to_dict(),
        metrics={
            "weights": len(export.weights),
            "weights_sha256": report.weights_sha256,
            "largest_difference": difference,
        },
        provenance=provenance(
            started, checkpoint=settings.checkpoint, family=report.family, arch=report.arch, stem=report.stem
        ),
        files={role: str(path) for role, path in export.files.items()},
        table=Table(f"{settings.out} ({settings.to})", ("", ""), rows, export.notes),
    )


def export_to_detectron2(path: Path, preset: str, encoder: ResNetEncoder) -> Export:
    """Write an encoder under the names of a detectron2 detector, with a config next to it; compare both if possible.

    Args:
        path: of the weights, ending in .pth; the config is written to the same name ending in .yaml.
        preset: of `detect`, which decides the heads and the config.
        encoder: what to write.

    Raises:
        UsageError: detectron2 cannot have this trunk, or the config would overwrite a file that does not belong to `path`.
        DataError: detectron2 computes different feature maps, or a file cannot be written.
    """
    import torch

    from simsiam_eval.encoders.checkpoint_file import read_checkpoint
    from simsiam_eval.encoders.export import Export
    from simsiam_eval.files.atomic import atomic_write
    from tasks.detection.backends.detectron2.config import config_values, yaml_text
    from tasks.detection.backends.detectron2.weights import detectron2_keys, detectron2_weights

    config = path.with_suffix(".yaml")
    if config.exists() and not path.exists():
        raise UsageError(f"--out {path} would overwrite {config}, which already exists; choose another name.")
    spec = _detector(preset)
    weights = detectron2_weights(encoder, spec.heads)
    difference, comparison = _compare_with_detectron2(encoder, weights, spec)
    with atomic_write(path) as file:
        torch.save({"model": weights, "__author__": "simsiam-eval", "matching_heuristics": False}, file)
    values = config_values(encoder.arch, spec, preset_schedule(preset), "SyncBN")
    values["MODEL.RESNETS.STRIDE_IN_1X1"] = encoder.variant.stride_in_1x1
    with atomic_write(config) as file:
        file.write(yaml_text(values | {"MODEL.WEIGHTS": str(path.resolve())}).encode())
    written = read_checkpoint(path)["model"]
    names = detectron2_keys(encoder.trunk.state_dict(), spec.heads)
    notes = [
        comparison,
        f"Wrote {path} and {config}.",
        f"The config follows the preset {preset}, with {len(spec.classes)} classes; set your DATASETS in it.",
    ]
    return Export(
        {"checkpoint": path, "config": config}, {key: written[name] for key, name in names.items()}, notes, difference
    )


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
    encoder: ResNetEncoder, weights: dict[str, Tensor], spec: DetectorSpec
) -> tuple[float | None, str]:
    """Largest difference from detectron2's feature maps, None without detectron2; and a note about it."""
    from tasks.detection.backends.detectron2.backend import Detectron2Backend

    missing = Detectron2Backend().unavailable()
    if missing is not None:
        return None, f"Not compared with detectron2's backbone: {missing}"
    from tasks.detection.backends.detectron2.comparison import check_difference, largest_difference
    from tasks.detection.backends.detectron2.model import random_model

    model = random_model(encoder.arch, spec, {"MODEL.RESNETS.STRIDE_IN_1X1": encoder.variant.stride_in_1x1})
    difference = largest_difference(encoder, weights, model, spec.heads)
    check_difference(difference)
    return difference, "The outputs of res2 to res5 match torchvision's on random images."
