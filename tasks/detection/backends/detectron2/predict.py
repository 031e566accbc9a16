"""Predictions of a detectron2 detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from tasks.detection.backends.base import RunContext
from tasks.detection.backends.detectron2.images import Mapper, dataset_dict, problem_of
from tasks.detection.backends.detectron2.model import run_config
from tasks.detection.backends.inference import predict_all, process_rows
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.detections import Detections
from tasks.detection.data.images import ImageProblem
from tasks.detection.data.masks import encode_masks
from tasks.detection.detector_spec import DetectorSpec


@torch.no_grad()
def predict(
    arch: str, spec: DetectorSpec, model: nn.Module, data: DetectionDataset, run: RunContext
) -> Sequence[Detections]:
    """One entry for each image, in the order of the dataset, the same in every process."""
    model.to(run.processes.device).eval()
    images = _TestImages(run_config(arch, spec, data, run), data, process_rows(len(data.images), run))
    return predict_all(
        images, len(data.images), lambda entry: _detections(model([entry])[0]["instances"].to("cpu")), run
    )


class _TestImages(Dataset):
    """Item index -> (row, input of the model or an ImageProblem), for the given rows of the dataset."""

    def __init__(self, cfg: Any, data: DetectionDataset, rows: range) -> None:
        self.mapper, self.data, self.rows = Mapper(cfg, is_train=False), data, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, dict[str, Any] | ImageProblem]:
        row = self.rows[index]
        mapped = self.mapper(dataset_dict(self.data.images[row], row))
        return row, problem_of(mapped) or mapped


def _detections(instances: Any) -> Detections:
    return Detections(
        boxes=instances.pred_boxes.tensor.float().numpy(),
        scores=instances.scores.float().numpy(),
        labels=instances.pred_classes.numpy(),
        masks=encode_masks(instances.pred_masks.numpy()) if instances.has("pred_masks") else None,
    )
