"""What a checkpoint contains and what is loaded from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from simsiam_eval.encoders.recognition.declared import normalization_assumptions

RANDOM_STATE_KEY = "random_state"  # in the metadata of a run; not reported, since it means nothing to a reader


@dataclass(frozen=True)
class CheckpointReport:
    """What a checkpoint contains and what is loaded from it.

    Attributes:
        path: of the file.
        family: name of the checkpoint family.
        container: the entry of the file with the weights; "bare" if the file is itself the state dict.
        arch, stem: of the encoder; the stem is None if it is not a ResNet of torchvision.
        epoch: number of completed epochs as recorded in the file, or None.
        feature_width: number of features D for an image.
        projector, predictor: widths of their linear layers from input to output, such as [2048, 512, 2048].
        loaded: key in the file -> torchvision's key in the trunk.
        skipped: key in the file -> why it is not loaded. A container that is not used is one entry.
        weights_sha256: as from `weights_sha256`.
        metadata: what `write_checkpoint` was given; None in files of other programs.
        branch: name of the network that was chosen; None if the file has only one.
        branches: names of all networks in the file.
        variant: how the trunk differs from torchvision's, as from `TrunkVariant.to_dict`.
        assumptions: sentences on what was assumed about the encoder because nothing in the file says it.
        normalization: {"mean": [...], "std": [...]} of the images that the encoder was trained on; None if unknown.
        normalization_from: what says so.
        channel_order: "rgb" or "bgr", in which the file's encoder takes color channels. Of a "bgr" encoder the first
            convolution and the normalization are reversed on loading, so that what is loaded takes RGB images.
        channel_order_from: what says so; None if nothing does.
        preprocessing: of images, as from `Preprocessing.to_dict`, where a file of another library says it.
    """

    path: str
    family: str
    container: str
    arch: str
    stem: str | None
    epoch: int | None
    feature_width: int
    projector: list[int] | None
    predictor: list[int] | None
    loaded: dict[str, str]
    skipped: dict[str, str]
    weights_sha256: str
    metadata: dict[str, Any] | None
    branch: str | None = None
    branches: tuple[str, ...] = ()
    variant: dict[str, Any] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    normalization: dict[str, list[float]] | None = None
    normalization_from: str | None = None
    channel_order: str = "rgb"
    channel_order_from: str | None = None
    preprocessing: dict[str, Any] | None = None

    @property
    def computation(self) -> dict[str, Any]:
        """What decides the features besides the weights, as `weights_sha256` covers it; {} for a ResNet of torchvision."""
        return computation_of(self.arch, self.stem, self.variant)

    def with_normalization(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> CheckpointReport:
        """The same without assumptions about the normalization, if the user gives both parts of it."""
        if mean is None or std is None:
            return self
        replaced = normalization_assumptions(self.normalization, self.variant.get("channels", 3))
        return dataclasses.replace(self, assumptions=tuple(text for text in self.assumptions if text not in replaced))

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for json.dumps.

        Values in `metadata` that JSON cannot hold are replaced by their type; the random state of a run is left out.
        """
        record = {entry.name: _for_json(getattr(self, entry.name)) for entry in dataclasses.fields(self)}
        if self.metadata is not None:
            record["metadata"].pop(RANDOM_STATE_KEY, None)
        return record


def computation_of(arch: str, stem: str | None, variant: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the features besides the weights; {} for a ResNet of torchvision."""
    # Networks of other libraries may have the same keys and shapes, such as timm's resnet50 and resnetaa50.
    return {**({"arch": arch} if stem is None else {}), **variant}


def weights_sha256(trunk_state_dict: Mapping[str, Tensor], computation: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 that identifies an encoder by its weights, independent of the checkpoint's family.

    For each torchvision key in sorted order it covers the key, the shape, and the values as little-endian float32.
    `fc` and `num_batches_tracked` do not change an encoder's features and are left out. `computation` is
    covered unless it is empty: the same weights then compute other features than in a ResNet of torchvision.
    """
    digest = hashlib.sha256()
    if computation:
        digest.update(f"computation {json.dumps(dict(computation), sort_keys=True)}\n".encode())
    for key in sorted(trunk_state_dict):
        if key.startswith("fc.") or key.endswith("num_batches_tracked"):
            continue
        values = trunk_state_dict[key].detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False)
        digest.update(f"{key} {list(values.shape)}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _for_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _for_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(entry) for entry in value]
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)} {value.dtype}"
    return value if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"
