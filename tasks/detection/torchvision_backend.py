"""The road without detectron2: torchvision's detectors on the same encoder, data, schedule and evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from simsiam_eval.device import autocast
from simsiam_eval.encoder import Encoder
from simsiam_eval.errors import Stopped
from simsiam_eval.stopping import ignore_stop_signals
from tasks.detection.backend import DetectorSpec, Work
from tasks.detection.batches import TestImages, worker_count
from tasks.detection.dataset import DetectionSet
from tasks.detection.predictions import Detections, readable
from tasks.detection.torchvision_model import build_detector
from tasks.detection.torchvision_training import Training


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

    def fit(self, detector: TorchvisionDetector, data: DetectionSet, work: Work) -> float | None:
        spec = detector.spec
        training = Training(detector.model, data, spec.masks, spec.precise_bn, work)
        training.run()
        detector.model = training.detector  # type: ignore[assignment]
        return training.clock.rate

    @torch.no_grad()
    def predict(self, detector: TorchvisionDetector, data: DetectionSet, work: Work) -> Sequence[Detections]:
        processes, model = work.processes, detector.model.to(work.processes.device).eval()
        model.transform.min_size = (detector.spec.test_size,)
        rows = range(processes.rank, len(data.images), processes.world)
        loader = DataLoader(
            TestImages(data, rows),
            batch_size=None,
            num_workers=worker_count(work.workers),
            worker_init_fn=ignore_stop_signals,
        )
        found: dict[int, Detections | str] = {}
        with work.progress("predict", len(rows)) as advance:
            for row, pixels in loader:
                if work.stop.status and processes.world == 1:
                    raise Stopped("Stopped before the evaluation; the same command goes on with it.", work.stop.status)
                if isinstance(pixels, str):
                    found[row] = pixels
                    continue
                image = pixels.to(processes.device).float() / 255
                with autocast(processes.device, work.precision):
                    output = model([image])[0]
                found[row] = _detections(output, detector.spec.masks)
                advance(1)
        if processes.world > 1:
            parts: list[dict[int, Detections | str]] = [{}] * processes.world
            dist.all_gather_object(parts, found, group=processes.control)
            found = {row: one for part in parts for row, one in part.items()}
        return [readable(found[row]) for row in range(len(data.images))]


def _detections(output: dict[str, Tensor], masks: bool) -> Detections:
    """From torchvision's numbering, where 0 is the background."""
    from pycocotools import mask

    encoded = None
    if masks:
        encoded = []
        for one in (output["masks"][:, 0] > 0.5).cpu().numpy():
            run_lengths = mask.encode(np.asfortranarray(one.astype(np.uint8)))
            encoded.append({"size": list(run_lengths["size"]), "counts": run_lengths["counts"].decode()})
    return Detections(
        boxes=output["boxes"].float().cpu().numpy(),
        scores=output["scores"].float().cpu().numpy(),
        labels=(output["labels"] - 1).cpu().numpy(),
        masks=encoded,
    )
