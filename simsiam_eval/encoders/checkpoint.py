"""Checkpoints of any known family: recognize one, load its encoder, write ours."""

import dataclasses
import hashlib
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from simsiam_eval.encoders.architectures import feature_width
from simsiam_eval.encoders.checkpoint_file import read_checkpoint, unsafe_name
from simsiam_eval.encoders.encoder import Encoder, build_trunk
from simsiam_eval.encoders.families import Match, find_container, match_state_dict, some
from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import atomic_write

__all__ = [
    "OWN_KEY",
    "CheckpointReport",
    "inspect_checkpoint",
    "load_encoder",
    "read_checkpoint",
    "weights_sha256",
    "write_checkpoint",
]

OWN_KEY = "simsiam_eval"
RANDOM_KEY = "random_state"  # of a run, in `own`: of no interest to a reader


@dataclass(frozen=True)
class CheckpointReport:
    """What a checkpoint file holds and what is taken from it.

    `container`: the entry of the file that holds the weights, "bare" where the file is itself the state dict.
    `projector`, `predictor`: widths of their linear layers from input to output, such as [2048, 512, 2048].
    `taken`: key in the file -> torchvision key of the trunk. `left`: key in the file -> why it is not taken; a whole
    container that is passed over is one entry. `own`: what `write_checkpoint` was given, None in other programs' files.
    """

    path: str
    family: str
    container: str
    arch: str
    stem: str
    epoch: int | None
    feature_width: int
    projector: list[int] | None
    predictor: list[int] | None
    taken: dict[str, str]
    left: dict[str, str]
    weights_sha256: str
    own: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for json.dumps: of a value in `own` that JSON has not, only its type is told, and the
        random state of a run is left out."""
        found = {field.name: _for_json(getattr(self, field.name)) for field in dataclasses.fields(self)}
        if self.own is not None:
            found["own"] = {name: value for name, value in found["own"].items() if name != RANDOM_KEY}
        return found


def inspect_checkpoint(path: str | os.PathLike[str]) -> CheckpointReport:
    """Recognize the file's family, architecture and stem from its keys and shapes, and verify every encoder weight.

    Raises DataError as `load_encoder` does.
    """
    return _recognize(path)[0]


def load_encoder(
    path: str | os.PathLike[str], layer: str | Sequence[str] = "pool", pooling: str = "avg"
) -> tuple[Encoder, CheckpointReport]:
    """The encoder of a checkpoint of any known family, in eval mode and float32 on the CPU, and what was taken for it.

    Every weight of the encoder is in the file and is loaded; the global random state is not touched.
    Raises DataError where the file holds no whole encoder of a known architecture, or weights that are not finite, and
    UsageError for an unknown `layer` or `pooling`.
    """
    report, weights = _recognize(path)
    # On "meta" no weight is drawn, only to be overwritten; a strict load leaves none behind there.
    with torch.device("meta"):
        trunk = build_trunk(report.arch, report.stem)
    for key, empty in trunk.state_dict().items():
        if key.endswith("num_batches_tracked"):
            weights.setdefault(key, torch.zeros(empty.shape, dtype=empty.dtype))
    trunk.load_state_dict(weights, strict=True, assign=True)
    return Encoder(trunk, report.arch, report.stem, layer, pooling).eval(), report


def weights_sha256(trunk_state_dict: Mapping[str, Tensor]) -> str:
    """Hexadecimal SHA-256 of an encoder's weights, the same whichever family of file they came from.

    Over the sorted torchvision keys: the key, the shape, the values as little-endian float32. `fc` and
    `num_batches_tracked`, which do not change an encoder's features, are left out.
    """
    digest = hashlib.sha256()
    for key in sorted(trunk_state_dict):
        if key.startswith("fc.") or key.endswith("num_batches_tracked"):
            continue
        values = trunk_state_dict[key].detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False)
        digest.update(f"{key} {list(values.shape)}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def write_checkpoint(
    path: str | os.PathLike[str],
    *,
    epoch: int,
    arch: str,
    state_dict: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    own: Mapping[str, Any],
) -> None:
    """Write, whole or not at all, a checkpoint that the reference's scripts can read; `own` goes under "simsiam_eval".

    `state_dict` has the reference's keys already: `module.encoder.*` and `module.predictor.*`.
    Raises ValueError for any other key, TypeError where `own` or the optimizer's settings hold what could not be read
    back with `weights_only=True` (only numbers, strings, tensors and lists, tuples and dicts of them can), and
    DataError where the file cannot be written.
    """
    strange = [key for key in state_dict if not key.startswith(("module.encoder.", "module.predictor."))]
    if strange:
        raise ValueError(f"not the reference's keys, module.encoder.* or module.predictor.*: {some(strange)}")
    settings = io.BytesIO()
    torch.save({"own": dict(own), "settings": optimizer.get("param_groups")}, settings)
    settings.seek(0)
    try:
        torch.load(settings, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TypeError(f"the checkpoint could not be read back: {unsafe_name(error) or error}") from error
    content = {
        "epoch": int(epoch),
        "arch": arch,
        "state_dict": dict(state_dict),
        "optimizer": dict(optimizer),
        OWN_KEY: dict(own),
    }
    with atomic_write(path) as file:
        torch.save(content, file)


def _recognize(path: str | os.PathLike[str]) -> tuple[CheckpointReport, dict[str, Tensor]]:
    """The report, and the trunk's weights under torchvision's keys."""
    name = os.fspath(path)
    checkpoint = read_checkpoint(path)
    container, state_dict, left = find_container(checkpoint, name)
    tensors = {str(key): value for key, value in state_dict.items() if isinstance(value, Tensor)}
    left |= {str(key): "not a tensor" for key in state_dict if str(key) not in tensors}
    match = match_state_dict({key: tuple(value.shape) for key, value in tensors.items()}, name)
    weights = _float32(tensors, match, name)
    epoch, own = checkpoint.get("epoch"), checkpoint.get(OWN_KEY)
    report = CheckpointReport(
        path=name,
        family=match.family.name,
        container=container,
        arch=match.arch,
        stem=match.stem,
        epoch=epoch if isinstance(epoch, int) else None,
        feature_width=feature_width(match.arch),
        projector=match.projector,
        predictor=match.predictor,
        taken=match.taken,
        left=left | match.left,
        weights_sha256=weights_sha256(weights),
        own=dict(own) if isinstance(own, Mapping) else None,
    )
    return report, weights


def _float32(tensors: Mapping[str, Tensor], match: Match, where: str) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for key, trunk_key in match.taken.items():
        tensor = tensors[key].detach()
        if trunk_key.endswith("num_batches_tracked"):
            weights[trunk_key] = tensor.long()
            continue
        if tensor.is_meta:
            raise DataError(f"{where} holds {key} without its values (a meta tensor): save the model after loading it")
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise DataError(
                f"{where} holds {key} as {tensor.dtype} {tensor.layout}, not dense floating-point weights: "
                "give the checkpoint before quantization or sparsification"
            )
        weights[trunk_key] = tensor.float()
    negative = [key for key, name in match.taken.items() if name.endswith("running_var") and weights[name].min() < 0]
    if negative:
        raise DataError(f"{where} holds negative variances, in {some(negative)}: the file is damaged, give another")
    damaged = [key for key, trunk_key in match.taken.items() if not _is_finite(weights[trunk_key])]
    if damaged:
        raise DataError(
            f"{where} holds weights that are NaN or infinite, in {some(damaged)}: the training diverged or "
            "the file is damaged, give an earlier checkpoint"
        )
    return weights


def _is_finite(tensor: Tensor) -> bool:
    # NaN is passed on by both; 15 times faster than torch.isfinite(tensor).all() on a ResNet-50's tensors.
    return all(math.isfinite(extreme.item()) for extreme in tensor.aminmax())


def _for_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _for_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(entry) for entry in value]
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)} {value.dtype}"
    return value if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"
