"""The reference protocol as detectron2 config values. Does not import detectron2, so that `convert` can write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from simsiam_eval.encoders.architectures import ARCHITECTURES, BASIC
from tasks.detection.detector_spec import DetectorSpec
from tasks.detection.schedule import WARMUP_FACTOR, Schedule

HEADER = "# detectron2 config; for C4 heads, `import tasks.detection.backends.detectron2.heads` first."


def config_values(arch: str, spec: DetectorSpec, schedule: Schedule, norm: str = "BN") -> dict[str, Any]:
    """Dotted key of the config -> value, for all that differs from the defaults of `get_cfg()` or decides the protocol.

    `norm`: BN, or SyncBN on several GPUs.
    """
    values: dict[str, Any] = {
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.WEIGHTS": "",
        "MODEL.MASK_ON": spec.masks,
        **_normalization(spec.mean, spec.std),
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.NORM": norm,
        **{f"MODEL.RESNETS.{name}": value for name, value in architecture_values(arch).items()},
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": spec.proposals_before_nms[0],
        "MODEL.RPN.PRE_NMS_TOPK_TEST": spec.proposals_before_nms[1],
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": spec.proposals[0],
        "MODEL.RPN.POST_NMS_TOPK_TEST": spec.proposals[1],
        "MODEL.ROI_HEADS.NUM_CLASSES": len(spec.classes),
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": spec.rois,
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
        "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
        "INPUT.FORMAT": "RGB",
        "INPUT.MIN_SIZE_TRAIN": list(spec.min_sizes),
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
        "INPUT.MAX_SIZE_TRAIN": spec.max_size,
        "INPUT.MIN_SIZE_TEST": spec.test_size,
        "INPUT.MAX_SIZE_TEST": spec.max_size,
        "SOLVER.IMS_PER_BATCH": schedule.batch,
        "SOLVER.BASE_LR": schedule.lr,
        "SOLVER.MAX_ITER": schedule.iterations,
        "SOLVER.STEPS": [step for step in schedule.steps if step < schedule.iterations],
        "SOLVER.WARMUP_ITERS": schedule.warmup,
        "SOLVER.WARMUP_FACTOR": WARMUP_FACTOR,
        "SOLVER.MOMENTUM": schedule.momentum,
        "SOLVER.WEIGHT_DECAY": schedule.weight_decay,
        "SOLVER.WEIGHT_DECAY_NORM": 0.0,
        "TEST.EVAL_PERIOD": 0,
        "TEST.PRECISE_BN.ENABLED": spec.precise_bn > 0,
        "TEST.PRECISE_BN.NUM_ITER": max(1, spec.precise_bn),
        "VERSION": 2,
    }
    return values | (_c4() if spec.heads == "c4" else _fpn(norm))


def _normalization(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """In gray levels."""
    values = {"MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": std}
    return {name: [round(255 * value, 6) for value in fractions] for name, fractions in values.items()}


def architecture_values(arch: str) -> dict[str, Any]:
    """The MODEL.RESNETS section for an architecture."""
    block, blocks, groups, width = ARCHITECTURES[arch]
    basic = block == BASIC
    return {
        "DEPTH": (2 if basic else 3) * sum(blocks) + 2,
        "NUM_GROUPS": groups,
        "WIDTH_PER_GROUP": width,
        "RES2_OUT_CHANNELS": 64 if basic else 256,
        "STRIDE_IN_1X1": False,  # torchvision strides in the 3x3 convolution
    }


def _c4() -> dict[str, Any]:
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res4"],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
        "MODEL.RPN.IN_FEATURES": ["res4"],
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
        "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 0,
    }


def _fpn(norm: str) -> dict[str, Any]:
    levels = ["p2", "p3", "p4", "p5"]
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.NORM": norm,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
        "MODEL.RPN.IN_FEATURES": [*levels, "p6"],
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES": levels,
        "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
        "MODEL.ROI_MASK_HEAD.NORM": norm,
    }


def yaml_text(values: dict[str, Any]) -> str:
    """A config file that detectron2's `merge_from_file` reads.

    >>> print(yaml_text({"SOLVER.STEPS": [3], "MODEL.RPN.A": 1, "MODEL.B": "x"}), end="")
    # detectron2 config; for C4 heads, `import tasks.detection.backends.detectron2.heads` first.
    MODEL:
      B: "x"
      RPN:
        A: 1
    SOLVER:
      STEPS: [3]
    """
    lines = [HEADER]
    open_sections: list[str] = []
    for key, value in sorted(values.items(), key=lambda item: item[0].split(".")):
        *sections, name = key.split(".")
        shared = 0
        while shared < min(len(sections), len(open_sections)) and sections[shared] == open_sections[shared]:
            shared += 1
        lines += [f"{'  ' * depth}{sections[depth]}:" for depth in range(shared, len(sections))]
        open_sections = sections
        lines.append(f"{'  ' * len(sections)}{name}: {json.dumps(value)}")
    return "\n".join(lines) + "\n"
