"""The reference protocol in the config, and converted files in detectron2's own tools."""

import pytest

from tasks.detection.backends.detectron2.config import architecture_values, config_values
from tasks.detection.detector_spec import Sizes, detector_spec
from tasks.detection.settings import DetectSettings, preset_schedule


def test_config_holds_the_protocol():
    preset = DetectSettings.PRESETS["voc0712"]
    detector = {name: preset[name] for name in ("heads", "masks", "min_sizes", "test_size", "max_size")}
    spec, _ = detector_spec(**detector, classes=("a",) * 20, sizes=Sizes(), on_cpu=False)
    values = config_values("resnet50", spec, preset_schedule("voc0712"), "SyncBN")
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


@pytest.mark.detectron2
@pytest.mark.parametrize("preset", ["voc07", "coco-1x-fpn"])
def test_detectron2s_own_tools_read_converted_files(tmp_path, preset):
    import torch
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    import tasks.detection.backends.detectron2.heads  # noqa: F401 - as docs/detection.md says
    from simsiam_eval.encoders.encoder import build_trunk
    from tasks.convert import ConvertSettings, convert

    trunk = build_trunk("resnet18")
    torch.save(trunk.state_dict(), tmp_path / "trunk.pth")
    settings = ConvertSettings(
        checkpoint=tmp_path / "trunk.pth", to="detectron2", out=tmp_path / "r18.pth", preset=preset
    )
    assert convert(settings).metrics["largest_difference"] <= 1e-4
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "r18.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = "BN"  # SyncBN requires CUDA
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    bottom = model.backbone if preset == "voc07" else model.backbone.bottom_up
    assert torch.equal(bottom.stem.conv1.weight, trunk.conv1.weight)
    last_stage = model.roi_heads.res5 if preset == "voc07" else bottom.res5
    assert torch.equal(last_stage[1].conv2.norm.running_var, trunk.layer4[1].bn2.running_var)
    assert torch.equal(last_stage[1].conv2.weight, trunk.layer4[1].conv2.weight)
