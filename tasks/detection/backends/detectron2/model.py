"""Configs and detectors of detectron2, from code alone."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn

import tasks.detection.backends.detectron2.heads  # noqa: F401 - registers the C4 heads
from simsiam_eval.runtime.machine import worker_count
from simsiam_eval.runtime.processes import Processes
from tasks.detection.backends.base import DetectorSpec, Work
from tasks.detection.backends.detectron2.config import config_values
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.schedule import Schedule


def config(arch: str, spec: DetectorSpec, schedule: Schedule, norm: str = "BN", **more: Any) -> Any:
    """A detectron2 config, from code alone; `more` has `__` for the dots of the keys."""
    cfg = get_cfg()
    values = config_values(arch, spec, schedule, norm) | {key.replace("__", "."): value for key, value in more.items()}
    cfg.merge_from_list([part for key, value in values.items() for part in (key, value)])
    return cfg


def fresh_model(arch: str, spec: DetectorSpec, **more: Any) -> nn.Module:
    """A detector of random weights on the CPU."""
    with torch.random.fork_rng(devices=[]):
        return build_model(config(arch, spec, Schedule(1, 0.1, 1, (), 0), MODEL__DEVICE="cpu", **more))


def run_config(arch: str, spec: DetectorSpec, data: DetectionDataset, work: Work) -> Any:
    """The config of a run: on its device, in its folder; masks as bitmaps where not all of them are polygons."""
    polygons = all(isinstance(one.segmentation, list) for image in data.images for one in image.annotations)
    cuda = work.processes.device.type == "cuda"
    return config(
        arch,
        spec,
        work.schedule,
        _norm(work.processes),
        MODEL__DEVICE=work.processes.device.type if work.processes.world > 1 else str(work.processes.device),
        INPUT__MASK_FORMAT="polygon" if polygons or not spec.masks else "bitmask",
        DATALOADER__NUM_WORKERS=worker_count(work.workers),
        SOLVER__CHECKPOINT_PERIOD=work.checkpoint_every,
        SOLVER__AMP__ENABLED=cuda and work.precision == "bf16",
        SEED=work.seed,
        OUTPUT_DIR=str(work.folder),
    )


def _norm(processes: Processes) -> str:
    """Of several processes BN over all of them: without GPUs by detectron2's own, which weighs images of any size alike."""
    if processes.world == 1:
        return "BN"
    return "SyncBN" if processes.device.type == "cuda" else "naiveSyncBN_N"
