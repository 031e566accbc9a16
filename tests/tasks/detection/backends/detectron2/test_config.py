"""The reference protocol in the config, and converted files in detectron2's own tools."""

import pytest

from tasks.detection.backends.detectron2.config import architecture_values, config_values
from tasks.detection.presets import preset_detector, preset_schedule


def test_config_holds_the_protocol():
    values = config_values("resnet50", preset_detector("voc0712"), preset_schedule("voc0712"), "SyncBN")
    expected = {
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm", "MODEL.RESNETS.NORM": "SyncBN", "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53], "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.RESNETS.STRIDE_IN_1X1": False, "MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 1000, "TEST.PRECISE_BN.ENABLED": True, "SOLVER.IMS_PER_BATCH": 16,
        "SOLVER.BASE_LR": 0.02, "SOLVER.MAX_ITER": 24000, "SOLVER.STEPS": [18000, 22000], "SOLVER.WARMUP_ITERS": 100,
        "INPUT.MIN_SIZE_TRAIN": list(range(480, 801, 32)), "INPUT.MIN_SIZE_TEST": 800, "MODEL.ROI_HEADS.NUM_CLASSES": 20,
    }  # fmt: skip
    assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("arch", "depth", "groups"),
    [
        ("resnet18", 18, 1),
        ("resnet34", 34, 1),
        ("resnet50", 50, 1),
        ("resnet101", 101, 1),
        ("resnext50_32x4d", 50, 32),
    ],
)
def test_depth_and_groups_of_architectures(arch, depth, groups):
    values = architecture_values(arch)
    assert (values["DEPTH"], values["NUM_GROUPS"]) == (depth, groups)
