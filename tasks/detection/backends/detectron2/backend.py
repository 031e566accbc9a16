"""The reference protocol with detectron2, which is optional: it is imported only if this backend is chosen."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from simsiam_eval.encoders.encoder import ResNetEncoder
from tasks.detection.backends.base import RunContext
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.detections import Detections
from tasks.detection.detector_spec import DetectorSpec

if TYPE_CHECKING:
    from torch import nn

# detectron2's own calls cause these, and users can do nothing about them.
warnings.filterwarnings(
    "ignore", message=r".*(torch\.meshgrid|torch\.jit\.script|broadcast_buffers|NumPy array is not writable)"
)

INSTALL = "python -m pip install 'git+https://github.com/facebookresearch/detectron2.git'"
# Modules of the packages in the extra.
_REQUIRED = ("omegaconf", "fvcore", "iopath", "yacs", "cloudpickle", "tabulate", "termcolor", "cv2")


def missing() -> str | None:
    """What detectron2 lacks here, as a clause with how to install it; None if it can be imported."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:  # without origin: a folder of that name, such as the root of a clone
        return (
            f"detectron2 is not installed; install it with {INSTALL}, or put its source on PYTHONPATH (nothing needs to "
            "be compiled)"
        )
    absent = [name for name in _REQUIRED if importlib.util.find_spec(name) is None]
    if absent:
        return (
            f"detectron2 requires packages that are not installed ({', '.join(absent)}); install them with pip install "
            '"simsiam-eval[detectron2]"'
        )
    return None


class Detectron2Backend:
    name = "detectron2"
    differences: tuple[str, ...] = ()

    def unavailable(self) -> str | None:
        reason = missing()
        return f"{reason}, or use --backend torchvision." if reason else None

    def versions(self) -> dict[str, str]:
        import detectron2

        commit = _commit(Path(detectron2.__file__).parent.parent)
        version = f"{detectron2.__version__}, commit {commit}" if commit else detectron2.__version__
        return {"detectron2": version, "fvcore": importlib.metadata.version("fvcore")}

    def build(self, encoder: ResNetEncoder, spec: DetectorSpec) -> Detectron2Detector:
        from tasks.detection.backends.detectron2.comparison import check_difference, largest_difference
        from tasks.detection.backends.detectron2.model import random_model
        from tasks.detection.backends.detectron2.weights import detectron2_weights

        weights = detectron2_weights(encoder, spec.heads)
        stride_in_1x1 = encoder.variant.stride_in_1x1
        model = random_model(encoder.arch, spec, {"MODEL.RESNETS.STRIDE_IN_1X1": stride_in_1x1})
        check_difference(largest_difference(encoder, weights, model, spec.heads))
        return Detectron2Detector(encoder.arch, stride_in_1x1, spec, weights)


@dataclass
class Detectron2Detector:
    """The encoder's weights under detectron2's names; `fit`, which knows the schedule and so the config, builds `model`."""

    arch: str
    stride_in_1x1: bool
    spec: DetectorSpec
    weights: dict[str, Tensor]
    model: nn.Module | None = None

    def fit(self, data: DetectionDataset, run: RunContext) -> float | None:
        from tasks.detection.backends.detectron2.training import fit

        self.model, rate = fit(self.arch, self.stride_in_1x1, self.spec, self.weights, data, run)
        return rate

    def predict(self, data: DetectionDataset, run: RunContext) -> Sequence[Detections]:
        from tasks.detection.backends.detectron2.predict import predict

        if self.model is None:
            raise ValueError("call fit before predict")
        return predict(self.arch, self.spec, self.model, data, run)


def _commit(folder: Path) -> str:
    """The commit of detectron2's source: of the clone in `folder`, or as pip recorded it; empty if unknown."""
    git = folder / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        ref = head.removeprefix("ref: ")
        if (git / ref).is_file():
            return (git / ref).read_text().strip()
        packed_refs = (line.split() for line in (git / "packed-refs").read_text().splitlines())
        return next((parts[0] for parts in packed_refs if parts[1:] == [ref]), "")
    except OSError:  # not a clone
        pass
    try:
        direct_url = importlib.metadata.distribution("detectron2").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return json.loads(direct_url or "{}").get("vcs_info", {}).get("commit_id", "")
