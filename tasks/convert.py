"""`convert`: an encoder's weights for other programs, checked after they are written."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import Settings, setting
from simsiam_eval.errors import DataError, UsageError
from tasks.detection.settings import DetectSettings, preset_schedule

if TYPE_CHECKING:
    from torch import Tensor

    from simsiam_eval.encoders.checkpoint import CheckpointReport
    from simsiam_eval.encoders.encoder import Encoder

TARGETS = ("reference", "torchvision", "timm", "safetensors", "detectron2")


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(Settings):
    """Write the encoder of any known checkpoint, without its projector and predictor, as another program reads it."""

    GROUPS: ClassVar[dict[str, str]] = {"encoder": "checkpoint", "output": "to out"}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("checkpoint.pth.tar --to torchvision --out encoder.pth",)

    checkpoint: Path = setting(positional=True, help="The checkpoint file, of any family that `inspect` knows.")
    to: str = setting(
        choices=TARGETS,
        help="reference: facebookresearch/simsiam's keys; torchvision: a bare state dict without fc, or the same as "
        "safetensors; timm: what timm.create_model reads; detectron2: a detector's trunk, with a config beside it.",
    )
    out: Path = setting(output=True, help="File to write; for detectron2 FILE.pth, and FILE.yaml beside it.")
    preset: str = setting(
        "voc0712",
        choices=tuple(DetectSettings.PRESETS),
        help="For detectron2: whose heads (c4, fpn) the names are for, and whose config is written as FILE.yaml.",
    )

    def outputs(self) -> list[tuple[str, Path]]:
        config = [("--out", self.out.with_suffix(".yaml"))] if self.to == "detectron2" else []
        return [*super().outputs(), *config]

    def check(self) -> None:
        if self.to == "detectron2" and self.out.suffix != ".pth":
            raise UsageError(f"--out {self.out} must end in .pth: detectron2 chooses the format by the name.")


def convert(settings: ConvertSettings) -> Result:
    """Run `convert`.

    Raises:
        UsageError: the target has no such stem. DataError: no whole encoder is in the file, what was written is not what
            was read, or detectron2 computes something else from it.
    """
    from simsiam_eval.encoders.checkpoint import load_encoder, weights_sha256

    started = time.perf_counter()
    settings.try_outputs()
    encoder, report = load_encoder(settings.checkpoint)
    files, difference, notes = _WRITERS[settings.to](settings, encoder, report)
    written = _read_back(settings, encoder)
    if weights_sha256(written) != report.weights_sha256:
        raise DataError(f"{settings.out} does not hold what was read from {settings.checkpoint}: write it again.")
    facts = {
        "encoder": f"{report.arch}, {report.stem} stem, of {report.family}",
        "weights written": f"{len(written)} of {len(encoder.trunk.state_dict())}",
        "weights sha256": report.weights_sha256,
        "largest difference of res2..res5": "-" if difference is None else f"{difference:.2g}",
    }
    return Result(
        task="convert",
        protocol=settings.preset if settings.to == "detectron2" else None,
        settings=settings.to_dict(),
        metrics={"weights": len(written), "weights_sha256": report.weights_sha256, "largest_difference": difference},
        provenance=provenance(started, checkpoint=str(settings.checkpoint), family=report.family, arch=report.arch,
                              stem=report.stem),
        files=files,
        table=Table(f"{settings.out} ({settings.to})", ("", ""), [[name, text] for name, text in facts.items()], notes),
    )  # fmt: skip


# What a writer gives: files by role, the largest difference where it was measured, and notes.
_Written = tuple[dict[str, str], float | None, list[str]]


def _reference(settings: ConvertSettings, encoder: Encoder, report: CheckpointReport) -> _Written:
    from simsiam_eval.encoders.checkpoint import write_checkpoint

    own = {name: value for name, value in (report.own or {}).items() if name in ("stem", "preprocessing")}
    write_checkpoint(
        settings.out,
        epoch=report.epoch or 0,
        arch=report.arch,
        state_dict={f"module.encoder.{key}": value for key, value in encoder.trunk.state_dict().items()},
        optimizer={"state": {}, "param_groups": []},
        own=own | {"converted_from": report.family},
    )
    notes = ["No projector, predictor or optimizer: it can be evaluated, not trained further."]
    if report.stem == "cifar":
        notes.append("The reference's scripts build ResNets with the 7x7 stem: they cannot take this one.")
    return {"checkpoint": str(settings.out)}, None, notes


def _torchvision(settings: ConvertSettings, encoder: Encoder, report: CheckpointReport) -> _Written:
    _write_bare(settings, encoder)
    return {"checkpoint": str(settings.out)}, None, [_torchvision_note(report)]


def _safetensors(settings: ConvertSettings, encoder: Encoder, report: CheckpointReport) -> _Written:
    _write_bare(settings, encoder, as_safetensors=True)
    return {"checkpoint": str(settings.out)}, None, [_torchvision_note(report)]


def _timm(settings: ConvertSettings, encoder: Encoder, report: CheckpointReport) -> _Written:
    """timm's ResNets have torchvision's names; which of the two formats it reads goes by the name of the file."""
    _write_bare(settings, encoder, as_safetensors=settings.out.suffix == ".safetensors")
    return (
        {"checkpoint": str(settings.out)},
        None,
        ["Load it with", *timm_lines(report.arch, report.stem, settings.out)],
    )


def timm_lines(arch: str, stem: str, file: Path) -> list[str]:
    """Python that makes `model`, an encoder of timm, from the file; timm has no name for CIFAR's stem."""
    made = f'timm.create_model("{arch}", num_classes=0'
    if stem == "imagenet":
        return ["import timm", f"model = {made}, checkpoint_path={json.dumps(str(file))})"]
    return [
        "import timm, torch",
        f"model = {made})",
        "model.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)",
        "model.maxpool = torch.nn.Identity()",
        f"timm.models.load_checkpoint(model, {json.dumps(str(file))})",
    ]


def _write_bare(settings: ConvertSettings, encoder: Encoder, as_safetensors: bool = False) -> None:
    """torchvision's names alone, without fc."""
    import safetensors.torch
    import torch

    from simsiam_eval.files.atomic import atomic_write

    state = {key: value.contiguous() for key, value in encoder.trunk.state_dict().items()}
    with atomic_write(settings.out) as file:
        if as_safetensors:
            file.write(safetensors.torch.save(state, {"arch": encoder.arch, "stem": encoder.stem, "format": "pt"}))
        else:
            torch.save(state, file)


def _torchvision_note(report: CheckpointReport) -> str:
    stem = "" if report.stem == "imagenet" else ", with conv1 of 3x3 and maxpool an identity"
    return f"Load it with torchvision.models.{report.arch}(){stem}, strict=False: fc is not in it."


def _detectron2(settings: ConvertSettings, encoder: Encoder, report: CheckpointReport) -> _Written:
    import torch

    from simsiam_eval.files.atomic import atomic_write
    from tasks.detection.backends.detectron2.backend import Detectron2Backend
    from tasks.detection.backends.detectron2.comparison import check_difference, largest_difference
    from tasks.detection.backends.detectron2.config import config_values, yaml_text
    from tasks.detection.backends.detectron2.weights import detectron2_weights
    from tasks.detection.detector_spec import Sizes, detector_spec

    preset = DetectSettings.PRESETS[settings.preset]
    classes = tuple(map(str, range(20 if preset["metric"].startswith("voc") else 80)))
    config = settings.out.with_suffix(".yaml")
    if config.exists() and not settings.out.exists():
        raise UsageError(
            f"{config} would be written beside --out {settings.out}, and is there already: give another name."
        )
    spec, _ = detector_spec(
        heads=preset["heads"],
        masks=preset["masks"],
        classes=classes,
        min_sizes=preset["min_sizes"],
        test_size=preset["test_size"],
        max_size=preset["max_size"],
        sizes=Sizes(),
        on_cpu=False,
    )
    weights = detectron2_weights(encoder, spec.heads)
    missing = Detectron2Backend().unavailable()
    difference, notes = None, [f"Not compared with detectron2's own backbone, which is not here: {missing}"]
    if missing is None:
        from tasks.detection.backends.detectron2.model import random_model

        difference = largest_difference(encoder, weights, random_model(report.arch, spec), spec.heads)
        check_difference(difference)
        notes = ["res2 to res5 were compared with torchvision's trunk on random images."]
    with atomic_write(settings.out) as file:
        torch.save({"model": weights, "__author__": "simsiam-eval", "matching_heuristics": False}, file)
    values = config_values(report.arch, spec, preset_schedule(settings.preset), "SyncBN")
    with atomic_write(config) as file:
        file.write(yaml_text(values | {"MODEL.WEIGHTS": str(settings.out.resolve())}).encode())
    notes.append(f"Written are {settings.out} and {config}.")
    notes.append(f"The config is of {settings.preset}, for {len(classes)} classes; name your DATASETS in it.")
    return {"checkpoint": str(settings.out), "config": str(config)}, difference, notes


def _read_back(settings: ConvertSettings, encoder: Encoder) -> dict[str, Tensor]:
    """The weights in the written file, under torchvision's names."""
    from simsiam_eval.encoders.checkpoint_file import read_checkpoint
    from tasks.detection.backends.detectron2.weights import detectron2_keys

    content: dict[str, Any] = read_checkpoint(settings.out)
    keys = encoder.trunk.state_dict()
    if settings.to == "detectron2":
        heads = DetectSettings.PRESETS[settings.preset]["heads"]
        return {key: content["model"][name] for key, name in detectron2_keys(keys, heads).items()}
    if settings.to == "reference":
        return {key: content["state_dict"][f"module.encoder.{key}"] for key in keys}
    return {key: content[key] for key in keys}


_WRITERS = {
    "reference": _reference,
    "torchvision": _torchvision,
    "timm": _timm,
    "safetensors": _safetensors,
    "detectron2": _detectron2,
}
