"""Predictions of a detectron2 detector, in the form that all backends give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset

from simsiam_eval.device import autocast
from simsiam_eval.errors import Stopped
from simsiam_eval.stopping import ignore_stop_signals
from tasks.detection.backend import DetectorSpec, Work
from tasks.detection.batches import worker_count
from tasks.detection.dataset import DetectionSet
from tasks.detection.detectron2_images import Mapper, as_dict
from tasks.detection.detectron2_model import run_config
from tasks.detection.predictions import Detections, readable


@torch.no_grad()
def predict(arch: str, spec: DetectorSpec, model: nn.Module, data: DetectionSet, work: Work) -> Sequence[Detections]:
    """One entry for each image, in the set's order, the same in every process."""
    processes = work.processes
    found: dict[int, Detections | str] = {}
    model.to(processes.device).eval()
    images = _TestImages(
        run_config(arch, spec, data, work), data, range(processes.rank, len(data.images), processes.world)
    )
    loader = DataLoader(
        images, batch_size=None, num_workers=worker_count(work.workers), worker_init_fn=ignore_stop_signals
    )
    with work.progress("predict", len(images)) as advance:
        for row, entry in loader:
            if work.stop.status and processes.world == 1:
                raise Stopped("Stopped before the evaluation; the same command goes on with it.", work.stop.status)
            if isinstance(entry, str):
                found[row] = entry
                continue
            with autocast(processes.device, work.precision):
                found[row] = _detections(model([entry])[0]["instances"].to("cpu"))
            advance(1)
    if processes.world > 1:
        parts: list[dict[int, Any]] = [{}] * processes.world
        dist.all_gather_object(parts, found, group=processes.control)
        found = {row: one for part in parts for row, one in part.items()}
    return [readable(found[row]) for row in range(len(data.images))]


class _TestImages(Dataset):
    """Item row -> (row, what the model takes, or the reason why the image cannot be read)."""

    def __init__(self, cfg: Any, data: DetectionSet, rows: range) -> None:
        self.mapper, self.data, self.rows = Mapper(cfg, is_train=False), data, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[int, dict[str, Any] | str]:
        row = self.rows[place]
        mapped = self.mapper(as_dict(self.data.images[row], row))
        return row, mapped.get("unreadable", mapped)


def _detections(instances: Any) -> Detections:
    from pycocotools import mask

    encoded = None
    if instances.has("pred_masks"):
        encoded = []
        for one in instances.pred_masks.numpy():
            run_lengths = mask.encode(np.asfortranarray(one.astype(np.uint8)))
            encoded.append({"size": list(run_lengths["size"]), "counts": run_lengths["counts"].decode()})
    return Detections(
        boxes=instances.pred_boxes.tensor.float().numpy(),
        scores=instances.scores.float().numpy(),
        labels=instances.pred_classes.numpy(),
        masks=encoded,
    )
