"""The road without detectron2: torchvision's detectors on the same encoder, data, schedule and evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from simsiam_eval.encoders.encoder import Encoder
from tasks.detection.backends.base import DetectorSpec, Work
from tasks.detection.backends.predicting import own_rows, predict_all
from tasks.detection.backends.torchvision.model import build_detector
from tasks.detection.backends.torchvision.training import Training
from tasks.detection.data.batches import TestImages
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.detections import Detections
from tasks.detection.data.masks import encode_masks


@dataclass
class TorchvisionDetector:
    model: GeneralizedRCNN
    spec: DetectorSpec


class TorchvisionBackend:
    name = "torchvision"
    differences: tuple[str, ...] = (
        "box losses: smooth L1 with beta 1/9 (reference: L1)",
        "RoIAlign: not shifted by half a pixel (reference: aligned)",
        "images are resized without antialiasing, on the device (reference: by Pillow)",
        "a batch is drawn without regard to aspect ratios (reference: in groups)",
        "mask targets come from bitmaps (reference: from polygons)",
    )

    def available(self) -> str | None:
        return None

    def versions(self) -> dict[str, str]:
        return {}

    def build(self, encoder: Encoder, spec: DetectorSpec) -> TorchvisionDetector:
        return TorchvisionDetector(build_detector(encoder, spec), spec)

    def fit(self, detector: TorchvisionDetector, data: DetectionDataset, work: Work) -> float | None:
        spec = detector.spec
        training = Training(detector.model, data, spec.masks, spec.precise_bn, work)
        training.run()
        detector.model = training.detector  # type: ignore[assignment]
        return training.clock.rate

    @torch.no_grad()
    def predict(self, detector: TorchvisionDetector, data: DetectionDataset, work: Work) -> Sequence[Detections]:
        model = detector.model.to(work.processes.device).eval()
        model.transform.min_size = (detector.spec.test_size,)

        def detections(pixels: Tensor) -> Detections:
            return _detections(model([pixels.to(work.processes.device).float() / 255])[0])

        rows = own_rows(len(data.images), work)
        return predict_all(TestImages(data, rows), len(data.images), detections, work)


def _detections(output: dict[str, Tensor]) -> Detections:
    """From torchvision's numbering, where 0 is the background."""
    return Detections(
        boxes=output["boxes"].float().cpu().numpy(),
        scores=output["scores"].float().cpu().numpy(),
        labels=(output["labels"] - 1).cpu().numpy(),
        masks=encode_masks((output["masks"][:, 0] > 0.5).cpu().numpy()) if "masks" in output else None,
    )
