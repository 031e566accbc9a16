"""Predictions of a detectron2 detector, in the form that all backends give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from tasks.detection.backends.base import DetectorSpec, Work
from tasks.detection.backends.detectron2.images import Mapper, as_dict
from tasks.detection.backends.detectron2.model import run_config
from tasks.detection.backends.predicting import own_rows, predict_all
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.detections import Detections
from tasks.detection.data.images import ImageProblem
from tasks.detection.data.masks import encode_masks


@torch.no_grad()
def predict(
    arch: str, spec: DetectorSpec, model: nn.Module, data: DetectionDataset, work: Work
) -> Sequence[Detections]:
    """One entry for each image, in the set's order, the same in every process."""
    model.to(work.processes.device).eval()
    images = _TestImages(run_config(arch, spec, data, work), data, own_rows(len(data.images), work))
    return predict_all(
        images, len(data.images), lambda entry: _detections(model([entry])[0]["instances"].to("cpu")), work
    )


class _TestImages(Dataset):
    """Item row -> (row, what the model takes, or the reason why the image cannot be read)."""

    def __init__(self, cfg: Any, data: DetectionDataset, rows: range) -> None:
        self.mapper, self.data, self.rows = Mapper(cfg, is_train=False), data, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[int, dict[str, Any] | ImageProblem]:
        row = self.rows[place]
        mapped = self.mapper(as_dict(self.data.images[row], row))
        return row, ImageProblem(mapped["unreadable"]) if "unreadable" in mapped else mapped


def _detections(instances: Any) -> Detections:
    return Detections(
        boxes=instances.pred_boxes.tensor.float().numpy(),
        scores=instances.scores.float().numpy(),
        labels=instances.pred_classes.numpy(),
        masks=encode_masks(instances.pred_masks.numpy()) if instances.has("pred_masks") else None,
    )
