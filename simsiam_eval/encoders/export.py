"""Write an encoder, without its projector and predictor, in the formats of other programs."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from simsiam_eval.encoders.checkpoint import CheckpointReport, write_checkpoint
from simsiam_eval.encoders.checkpoint_file import read_checkpoint
from simsiam_eval.encoders.encoder import ResNetEncoder
from simsiam_eval.files.atomic import atomic_write


@dataclass(frozen=True)
class Export:
    """An encoder that was written.

    Attributes:
        files: role -> path.
        weights: torchvision's key -> weight, read back from the file.
        notes: sentences or lines of code on how to use the file.
        largest_difference: of feature maps computed by the other program; None if not measured.
    """

    files: Mapping[str, Path]
    weights: Mapping[str, Tensor]
    notes: list[str]
    largest_difference: float | None = None


def export_encoder(path: Path, target: str, encoder: ResNetEncoder, report: CheckpointReport) -> Export:
    """Write an encoder for another program, and read it back.

    Args:
        path: of the file to write.
        target: "reference" (facebookresearch/simsiam's keys), "torchvision" (a bare state dict without `fc`), "safetensors"
            (the same in that format) or "timm" (either format, chosen by the file's extension).
        encoder: what to write.
        report: of the checkpoint it was loaded from.

    Raises:
        DataError: the file cannot be written.
    """
    notes = _WRITERS[target](path, encoder, report)
    content, prefix = read_checkpoint(path), ""
    if target == "reference":
        content, prefix = content["state_dict"], "module.encoder."
    weights = {key: content[prefix + key] for key in encoder.trunk.state_dict()}
    return Export({"checkpoint": path}, weights, notes)


def _write_reference(path: Path, encoder: ResNetEncoder, report: CheckpointReport) -> list[str]:
    metadata = {name: value for name, value in (report.metadata or {}).items() if name in ("stem", "preprocessing")}
    write_checkpoint(
        path,
        epoch=report.epoch or 0,
        arch=encoder.arch,
        state_dict={f"module.encoder.{key}": value for key, value in encoder.trunk.state_dict().items()},
        optimizer={"state": {}, "param_groups": []},
        metadata=metadata | {"converted_from": report.family},
    )
    notes = ["Without projector, predictor and optimizer: for evaluation, not for further training."]
    if encoder.stem == "cifar":
        notes.append("The reference's scripts build ResNets with the 7x7 stem and cannot load this encoder.")
    return notes


def _write_torchvision(path: Path, encoder: ResNetEncoder, report: CheckpointReport) -> list[str]:
    _write_state_dict(path, encoder)
    return [_torchvision_note(encoder)]


def _write_safetensors(path: Path, encoder: ResNetEncoder, report: CheckpointReport) -> list[str]:
    _write_state_dict(path, encoder, as_safetensors=True)
    return [_torchvision_note(encoder)]


def _write_timm(path: Path, encoder: ResNetEncoder, report: CheckpointReport) -> list[str]:
    # timm's ResNets have torchvision's key names; timm chooses the format by the file's extension.
    _write_state_dict(path, encoder, as_safetensors=path.suffix == ".safetensors")
    return ["Load it with", *timm_code(encoder.arch, encoder.stem, path)]


_WRITERS: dict[str, Callable[[Path, ResNetEncoder, CheckpointReport], list[str]]] = {
    "reference": _write_reference,
    "torchvision": _write_torchvision,
    "timm": _write_timm,
    "safetensors": _write_safetensors,
}


def _write_state_dict(path: Path, encoder: ResNetEncoder, as_safetensors: bool = False) -> None:
    """The trunk's state dict under torchvision's keys, without `fc`."""
    state = {key: value.contiguous() for key, value in encoder.trunk.state_dict().items()}
    with atomic_write(path) as file:
        if as_safetensors:
            file.write(safetensors.torch.save(state, {"arch": encoder.arch, "stem": encoder.stem, "format": "pt"}))
        else:
            torch.save(state, file)


def _torchvision_note(encoder: ResNetEncoder) -> str:
    stem = (
        ""
        if encoder.stem == "imagenet"
        else ", its conv1 replaced by a 3x3 convolution and its maxpool by nn.Identity()"
    )
    return f"Load it into torchvision.models.{encoder.arch}(){stem}, with strict=False since fc is not included."


def timm_code(arch: str, stem: str, path: str | os.PathLike[str]) -> list[str]:
    """Lines of Python that create `model`, a timm encoder, from the file.

    >>> print(*timm_code("resnet50", "imagenet", "r50.pth"), sep="\\n")
    import timm
    model = timm.create_model("resnet50", num_classes=0, checkpoint_path="r50.pth")
    """
    create, file = f'timm.create_model("{arch}", num_classes=0', json.dumps(os.fspath(path))
    if stem == "imagenet":
        return ["import timm", f"model = {create}, checkpoint_path={file})"]
    # timm has no name for CIFAR's stem.
    return [
        "import timm, torch",
        f"model = {create})",
        "model.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)",
        "model.maxpool = torch.nn.Identity()",
        f"timm.models.load_checkpoint(model, {file})",
    ]
