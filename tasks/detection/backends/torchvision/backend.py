"""torchvision's detectors, with the encoder, data, schedule and evaluator of the reference protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from simsiam_eval.encoders.encoder import ResNetEncoder
from tasks.detection.backends.base import RunContext
from tasks.detection.backends.inference import predict_all, process_rows
from tasks.detection.backends.torchvision.model import build_detector
from tasks.detection.backends.torchvision.training import Training
from tasks.detection.data.batches import TestImages
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.detections import Detections
from tasks.detection.data.masks import encode_masks
from tasks.detection.detector_spec import DetectorSpec


class TorchvisionBackend:
    name = "torchvision"
    differences: tuple[str, ...] = (
        "box losses: smooth L1 with beta 1/9 (reference: L1)",
        "RoIAlign: not shifted by half a pixel (reference: aligned)",
        "images are resized without antialiasing, on the device (reference: by Pillow)",
        "batches are not grouped by aspect ratio (reference: grouped)",
        "mask targets come from bitmaps (reference: from polygons)",
    )

    def unavailable(self) -> str | None:
        return None

    def versions(self) -> dict[str, str]:
        return {}

    def build(self, encoder: ResNetEncoder, spec: DetectorSpec) -> TorchvisionDetector:
        return TorchvisionDetector(build_detector(encoder, spec), spec)


@dataclass
class TorchvisionDetector:
    model: GeneralizedRCNN
    spec: DetectorSpec

    def fit(self, data: DetectionDataset, run: RunContext) -> float | None:
        training = Training(self.model, data, self.spec.masks, self.spec.precise_bn, run)
        training.train()
        self.model = training.detector  # type: ignore[assignment]  # over several processes its BN layers are replaced
        return training.timer.rate

    @torch.no_grad()
    def predict(self, data: DetectionDataset, run: RunContext) -> Sequence[Detections]:
        model = self.model.to(run.processes.device).eval()
        model.transform.min_size = (self.spec.test_size,)

        def detect(pixels: Tensor) -> Detections:
            return _detections(model([pixels.to(run.processes.device).float() / 255])[0])

        images = TestImages(data, process_rows(len(data.images), run))
        return predict_all(images, len(data.images), detect, run)


def _detections(output: dict[str, Tensor]) -> Detections:
    """From torchvision's labels, where 0 is the background."""
    return Detections(
        boxes=output["boxes"].float().cpu().numpy(),
        scores=output["scores"].float().cpu().numpy(),
        labels=(output["labels"] - 1).cpu().numpy(),
        masks=encode_masks((output["masks"][:, 0] > 0.5).cpu().numpy()) if "masks" in output else None,
    )
