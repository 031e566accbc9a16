"""Build detectron2 configs and detectors in code, without config files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn

import tasks.detection.backends.detectron2.heads  # noqa: F401 - registers the C4 heads
from simsiam_eval.runtime.machine import worker_count
from simsiam_eval.runtime.processes import Processes
from tasks.detection.backends.base import RunContext
from tasks.detection.backends.detectron2.config import config_values
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.detector_spec import DetectorSpec
from tasks.detection.schedule import Schedule


def config(arch: str, spec: DetectorSpec, schedule: Schedule, norm: str, more: Mapping[str, str | int | bool]) -> Any:
    """A detectron2 config of the protocol, with the dotted keys in `more` set as well."""
    cfg = get_cfg()
    values = config_values(arch, spec, schedule, norm) | dict(more)
    cfg.merge_from_list([part for key, value in values.items() for part in (key, value)])
    return cfg


def random_model(arch: str, spec: DetectorSpec, more: Mapping[str, str | int | bool] | None = None) -> nn.Module:
    """A detector with random weights on the CPU; torch's random state is unchanged."""
    values = {"MODEL.DEVICE": "cpu"} | dict(more or {})
    with torch.random.fork_rng(devices=[]):
        return build_model(config(arch, spec, Schedule(1, 0.1, 1, (), 0), "BN", values))


def model_of_files(config_file: Path, weights: Path) -> nn.Module:
    """The detector of a config, with weights as detectron2 reads them, on the CPU; torch's random state is unchanged."""
    cfg = get_cfg()
    cfg.merge_from_file(str(config_file))
    cfg.MODEL.DEVICE = "cpu"
    # SyncBN requires CUDA.
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = "BN"
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = build_model(cfg)
    DetectionCheckpointer(model).load(str(weights))
    return model


def run_config(
    arch: str, spec: DetectorSpec, data: DetectionDataset, run: RunContext, stride_in_1x1: bool = False
) -> Any:
    """The config of a run, with its device and folder; masks are bitmaps unless all of them are polygons."""
    device = run.processes.device
    polygons = not data.images.has_masks()
    return config(
        arch,
        spec,
        run.schedule,
        _norm(run.processes),
        {
            "MODEL.RESNETS.STRIDE_IN_1X1": stride_in_1x1,
            "MODEL.DEVICE": device.type if run.processes.world > 1 else str(device),
            "INPUT.MASK_FORMAT": "polygon" if polygons or not spec.masks else "bitmask",
            "DATALOADER.NUM_WORKERS": worker_count(run.workers),
            "SOLVER.CHECKPOINT_PERIOD": run.checkpoint_every,
            "SOLVER.AMP.ENABLED": device.type == "cuda" and run.precision == "bf16",
            "SEED": run.seed,
            "OUTPUT_DIR": str(run.folder),
        },
    )


def _norm(processes: Processes) -> str:
    """BN over all processes; naiveSyncBN_N, for CPUs, weights images of any size equally."""
    if processes.world == 1:
        return "BN"
    return "SyncBN" if processes.device.type == "cuda" else "naiveSyncBN_N"
