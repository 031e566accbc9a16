"""The reference protocol: detectron2, imported only here and below, and only where it is."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsiam_eval.encoders.encoder import Encoder
from tasks.detection.backends.base import DetectorSpec, Work
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.detections import Detections

# detectron2's own, about its own calls, which a user of ours can do nothing about.
warnings.filterwarnings("ignore", message=r".*(torch\.meshgrid|torch\.jit\.script|broadcast_buffers)")

INSTALL = "python -m pip install 'git+https://github.com/facebookresearch/detectron2.git'"
NEEDED = (
    "omegaconf",
    "fvcore",
    "iopath",
    "yacs",
    "cloudpickle",
    "tabulate",
    "termcolor",
    "cv2",
)  # modules of the extra


@dataclass
class Detectron2Detector:
    """`weights`: the encoder's, under the detector's names; the schedule, and with it the config, comes with `fit`."""

    arch: str
    spec: DetectorSpec
    weights: dict[str, Any]
    model: Any = None


class Detectron2Backend:
    name = "detectron2"
    differences: tuple[str, ...] = ()

    def available(self) -> str | None:
        found = importlib.util.find_spec("detectron2")
        if found is None or found.origin is None:  # a folder of that name, such as a clone's outer one, is no package
            return (
                f"detectron2 is not installed: {INSTALL}, or its source on PYTHONPATH (nothing need be compiled), or "
                "--backend torchvision."
            )
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            return (
                f'detectron2 needs further packages ({", ".join(missing)}): pip install "simsiam-eval[detectron2]", or '
                "--backend torchvision."
            )
        return None

    def versions(self) -> dict[str, str]:
        import detectron2

        folder = Path(detectron2.__file__).parent.parent
        commit = f", commit {found}" if (found := _commit(folder)) else ""
        return {"detectron2": f"{detectron2.__version__}{commit}", "fvcore": importlib.metadata.version("fvcore")}

    def build(self, encoder: Encoder, spec: DetectorSpec) -> Detectron2Detector:
        from tasks.detection.backends.detectron2.model import fresh_model
        from tasks.detection.backends.detectron2.names import detectron2_weights, largest_difference, refuse_difference

        weights = detectron2_weights(encoder, spec.heads)
        refuse_difference(largest_difference(encoder, weights, fresh_model(encoder.arch, spec), spec.heads))
        return Detectron2Detector(encoder.arch, spec, weights)

    def fit(self, detector: Detectron2Detector, data: DetectionDataset, work: Work) -> float | None:
        from tasks.detection.backends.detectron2.training import fit

        detector.model, rate = fit(detector.arch, detector.spec, detector.weights, data, work)
        return rate

    def predict(self, detector: Detectron2Detector, data: DetectionDataset, work: Work) -> Sequence[Detections]:
        from tasks.detection.backends.detectron2.predict import predict

        return predict(detector.arch, detector.spec, detector.model, data, work)


def _commit(folder: Path) -> str:
    """Of detectron2's source: what git has checked out in `folder`, or what pip installed from a repository; else empty."""
    git = folder / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text().strip()
        packed = (line.split() for line in (git / "packed-refs").read_text().splitlines())
        return next((parts[0] for parts in packed if parts[1:] == [name]), "")
    except OSError:  # no clone of its own
        pass
    try:
        installed = importlib.metadata.distribution("detectron2").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return json.loads(installed or "{}").get("vcs_info", {}).get("commit_id", "")
