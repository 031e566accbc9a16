"""`convert --to detectron2`: the files, with detectron2 and without it."""

import pytest
import torch

from simsiam_eval.encoders.architectures import TRUNK, TrunkVariant
from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.checkpoint_writer import METADATA_KEY
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.errors import DataError, UsageError
from tasks.convert import ConvertSettings, convert
from tasks.detection.backends.detectron2 import writer
from tasks.detection.backends.detectron2.config import yaml_text
from tasks.detection.backends.detectron2.writer import Detectron2Writer

PREPROCESSING = {"resize": 72, "crop": 64, "mean": [0.5, 0.25, 0.1], "std": [0.2, 0.2, 0.25]}


@pytest.fixture
def converted(tmp_path):
    """converted(arch, preset="voc07") -> the Result and the trunk; the files are d.pth and d.yaml."""

    def run(arch="resnet18", stem="imagenet", variant=TRUNK, **options):
        torch.manual_seed(0)
        trunk = build_trunk(arch, stem, variant=variant)
        metadata = {"preprocessing": PREPROCESSING, "variant": variant.to_dict(stem)}
        torch.save({"state_dict": trunk.state_dict(), METADATA_KEY: metadata}, tmp_path / "trunk.pth")
        given = {"checkpoint": tmp_path / "trunk.pth", "to": "detectron2", "out": tmp_path / "d.pth"}
        return convert(ConvertSettings(**given | options)), trunk

    return run


@pytest.mark.parametrize(("preset", "prefix"), [("voc0712", "backbone."), ("coco-1x-fpn", "backbone.bottom_up.")])
def test_without_detectron2(converted, tmp_path, monkeypatch, preset, prefix):
    monkeypatch.setattr(Detectron2Writer, "missing", lambda _: "detectron2 is not installed")
    result, trunk = converted(preset=preset)
    assert result.files == {"checkpoint": str(tmp_path / "d.pth"), "config": str(tmp_path / "d.yaml")}
    assert result.protocol == preset
    assert result.metrics["weights"] == len(trunk.state_dict())
    assert result.metrics["largest_difference"] is None
    assert result.table.notes[0] == f"Wrote {tmp_path / 'd.pth'} and {tmp_path / 'd.yaml'}."
    assert result.table.notes[-1] == "Not compared with detectron2: detectron2 is not installed."
    content = torch.load(tmp_path / "d.pth", weights_only=True)
    assert content["matching_heuristics"] is False
    assert torch.equal(content["model"][f"{prefix}stem.conv1.weight"], trunk.conv1.weight)
    lines = (tmp_path / "d.yaml").read_text().splitlines()
    for line in (
        "  PIXEL_MEAN: [127.5, 63.75, 25.5]",
        "  PIXEL_STD: [51.0, 51.0, 63.75]",
        "    STRIDE_IN_1X1: false",
        f'  WEIGHTS: "{tmp_path / "d.pth"}"',
    ):
        assert line in lines


def test_a_config_of_another_detector_is_kept(converted, tmp_path):
    (tmp_path / "d.yaml").write_text("mine")
    with pytest.raises(UsageError, match=r"--out .*d.pth would overwrite .*d.yaml, which already exists"):
        converted()
    assert (tmp_path / "d.yaml").read_text() == "mine"


def test_what_detectron2_cannot_rebuild(converted):
    for given, reason in (
        ({"stem": "cifar"}, "the 3x3 stem of CIFAR's ResNets"),
        ({"variant": TrunkVariant(stem_padding=2)}, "padding 2 in the first convolution"),
    ):
        with pytest.raises(UsageError, match=f"detectron2 cannot rebuild this encoder .{reason}.*Use --to onnx"):
            converted(**given)


@pytest.mark.detectron2
@pytest.mark.parametrize(
    ("arch", "preset", "stride_in_1x1"),
    [("resnet18", "voc07", False), ("resnet18", "coco-1x-fpn", False), ("resnet50", "quick", True)],
)
def test_detectron2s_own_tools_read_the_files(converted, tmp_path, arch, preset, stride_in_1x1, capfd):
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    import tasks.detection.backends.detectron2.heads  # noqa: F401 - as docs/detection.md says

    result, trunk = converted(arch, variant=TrunkVariant(stride_in_1x1=stride_in_1x1), preset=preset)
    assert capfd.readouterr() == ("", "")  # without detectron2's log
    assert (result.metrics["compared_with"], result.metrics["compared_images"]) == ("detectron2", 8)
    assert result.metrics["relative_difference"] < 1e-5
    assert result.provenance["versions"]["detectron2"]
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "d.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = "BN"  # SyncBN requires CUDA
    model = build_model(cfg)
    kept = DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    assert kept[METADATA_KEY]["conversion"]["compared_with"].startswith("detectron2 ")
    bottom = model.backbone if preset == "voc07" else model.backbone.bottom_up
    assert torch.equal(bottom.stem.conv1.weight, trunk.conv1.weight)
    last_stage = model.roi_heads.res5 if preset == "voc07" else bottom.res5
    assert torch.equal(last_stage[1].conv2.norm.running_var, trunk.layer4[1].bn2.running_var)
    assert torch.equal(last_stage[1].conv2.weight, trunk.layer4[1].conv2.weight)
    _, report = load_encoder(tmp_path / "d.pth")
    assert (report.family, report.weights_sha256) == ("detectron2", result.metrics["weights_sha256"])
    assert (report.metadata["preprocessing"], report.assumptions) == (PREPROCESSING, ())


@pytest.mark.detectron2
def test_a_config_that_does_not_fit_is_not_written(converted, tmp_path, monkeypatch):
    wrong = {"MODEL.PIXEL_MEAN": [0.0, 0.0, 0.0]}
    monkeypatch.setattr(writer, "yaml_text", lambda values: yaml_text(values | wrong))
    with pytest.raises(DataError, match="detectron2's backbone and torchvision's trunk differ"):
        converted()
    assert not list(tmp_path.glob("d.*"))
