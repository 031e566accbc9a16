"""`convert`: the file contains what was read, and other programs load it."""

import json

import pytest
import safetensors.torch
import torch
import torchvision

from simsiam_eval.encoders.checkpoint import inspect_checkpoint
from simsiam_eval.encoders.encoder import ResNetEncoder, build_trunk
from simsiam_eval.encoders.report import weights_sha256
from simsiam_eval.errors import DataError, UsageError
from tasks.convert import ConvertSettings, convert


@pytest.fixture(scope="module")
def simsiam(tmp_path_factory):
    """A ResNet-18 under the reference's keys."""
    torch.manual_seed(0)
    state = {f"module.encoder.{key}": value for key, value in build_trunk("resnet18").state_dict().items()}
    state |= {"module.predictor.0.weight": torch.zeros(2, 2)}
    path = tmp_path_factory.mktemp("simsiam") / "checkpoint_0099.pth.tar"
    torch.save({"epoch": 100, "arch": "resnet18", "state_dict": state, "optimizer": {}}, path)
    return path


def test_torchvision_and_safetensors(simsiam, tmp_path):
    expected = inspect_checkpoint(simsiam).weights_sha256
    for to, name in (("torchvision", "a.pth"), ("safetensors", "a.safetensors")):
        result = convert(ConvertSettings(checkpoint=simsiam, to=to, out=tmp_path / name))
        assert result.metrics["weights_sha256"] == expected
        load = safetensors.torch.load_file if to == "safetensors" else torch.load
        model = torchvision.models.resnet18()
        loaded = model.load_state_dict(load(tmp_path / name), strict=False)
        assert loaded == (["fc.weight", "fc.bias"], [])
        assert weights_sha256(model.state_dict(), {}) == expected
        assert inspect_checkpoint(tmp_path / name).weights_sha256 == expected


def test_reference_and_back(simsiam, checkpoint, tmp_path):
    convert(ConvertSettings(checkpoint=simsiam, to="torchvision", out=tmp_path / "a.pth"))
    convert(ConvertSettings(checkpoint=tmp_path / "a.pth", to="reference", out=tmp_path / "b.pth.tar"))
    back = torch.load(tmp_path / "b.pth.tar", weights_only=True)
    # As the reference's main_lincls.py loads it.
    prefix = "module.encoder"
    trunk = {key[len(prefix) + 1 :]: value for key, value in back["state_dict"].items() if key.startswith(prefix)}
    assert torchvision.models.resnet18().load_state_dict(trunk, strict=False).missing_keys == ["fc.weight", "fc.bias"]
    assert back["arch"] == "resnet18"
    result = convert(ConvertSettings(checkpoint=checkpoint, to="reference", out=tmp_path / "c.pth.tar"))
    assert "cannot load this encoder" in result.table.notes[1]
    metadata = inspect_checkpoint(tmp_path / "c.pth.tar").metadata
    assert metadata["preprocessing"] == inspect_checkpoint(checkpoint).metadata["preprocessing"]


@pytest.mark.parametrize(("preset", "heads"), [("voc0712", "c4"), ("coco-1x-fpn", "fpn")])
def test_detectron2_without_detectron2(simsiam, tmp_path, monkeypatch, preset, heads):
    from tasks.detection.backends.detectron2.backend import Detectron2Backend

    monkeypatch.setattr(Detectron2Backend, "unavailable", lambda _: "not installed.")
    result = convert(ConvertSettings(checkpoint=simsiam, to="detectron2", out=tmp_path / "d.pth", preset=preset))
    assert f"Wrote {tmp_path / 'd.pth'} and {tmp_path / 'd.yaml'}." in result.table.notes
    (tmp_path / "other.yaml").write_text("mine")
    with pytest.raises(UsageError, match=r"--out .*other.pth would overwrite .*other.yaml, which already exists"):
        convert(ConvertSettings(checkpoint=simsiam, to="detectron2", out=tmp_path / "other.pth", preset=preset))
    assert (tmp_path / "other.yaml").read_text() == "mine"
    assert result.metrics["largest_difference"] is None
    assert "Not compared" in result.table.notes[0]
    content = torch.load(tmp_path / "d.pth", weights_only=True)
    assert content["matching_heuristics"] is False
    name = {"c4": "backbone.stem.conv1.weight", "fpn": "backbone.bottom_up.stem.conv1.weight"}[heads]
    assert torch.equal(content["model"][name], torch.load(simsiam)["state_dict"]["module.encoder.conv1.weight"])
    text = (tmp_path / "d.yaml").read_text()
    assert "STRIDE_IN_1X1: false" in text
    assert f'WEIGHTS: "{tmp_path / "d.pth"}"' in text


def test_mean_and_std_go_into_what_is_written(simsiam, tmp_path, monkeypatch):
    from tasks.detection.backends.detectron2.backend import Detectron2Backend

    monkeypatch.setattr(Detectron2Backend, "unavailable", lambda _: "not installed.")
    given = {"checkpoint": str(simsiam), "mean": (0.5, 0.25, 0.5), "std": (0.2,)}
    convert(ConvertSettings(to="safetensors", out=tmp_path / "a.safetensors", **given))
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        preprocessing = json.loads(file.metadata()["preprocessing"])
    assert (preprocessing["mean"], preprocessing["std"]) == ([0.5, 0.25, 0.5], [0.2] * 3)
    convert(ConvertSettings(to="detectron2", out=tmp_path / "d.pth", **given))
    text = (tmp_path / "d.yaml").read_text()
    assert "PIXEL_MEAN: [127.5, 63.75, 127.5]" in text
    assert "PIXEL_STD: [51.0, 51.0, 51.0]" in text


@pytest.mark.detectron2
@pytest.mark.parametrize("preset", ["voc0712", "coco-1x-fpn"])
def test_detectron2_computes_the_same_from_images(simsiam, tmp_path, preset):
    given = {"checkpoint": str(simsiam), "to": "detectron2", "preset": preset, "mean": (0.5, 0.25, 0.1), "std": (0.2,)}
    result = convert(ConvertSettings(out=tmp_path / "d.pth", images="digits#test", **given))
    assert result.metrics["compared_with"] == "detectron2"
    assert result.metrics["compared_images"] == 32
    assert result.metrics["relative_difference"] < 1e-4
    assert result.provenance["versions"]["detectron2"]


def test_errors(simsiam, checkpoint, tmp_path, call):
    with pytest.raises(UsageError, match="CIFAR's 3x3 stem"):
        convert(ConvertSettings(checkpoint=checkpoint, to="detectron2", out=tmp_path / "a.pth"))
    with pytest.raises(UsageError, match=r"must end in \.pth"):
        ConvertSettings(checkpoint=checkpoint, to="detectron2", out=tmp_path / "a.pkl")
    for to, name, expected in (
        ("onnx", "a.pth", r"must end in \.onnx with --to onnx"),
        ("openvino", "a.onnx", r"must end in \.xml"),
        ("safetensors", "a.pth", r"must end in \.safetensors with --to safetensors"),
        ("torchvision", "a.safetensors", r"must end in \.pth or .* with --to torchvision"),
        ("timm", "a.xyz", r"must end in \.pth or .* or \.safetensors with --to timm"),
        ("timm-folder", "", "already exists; choose a new folder"),
    ):
        with pytest.raises(UsageError, match=expected):
            ConvertSettings(checkpoint=str(checkpoint), to=to, out=tmp_path / name)
    with pytest.raises(UsageError, match="--preprocessing requires --to onnx, torch-export, openvino"):
        ConvertSettings(checkpoint=str(checkpoint), to="timm", out=tmp_path / "a.pth", preprocessing="inside")
    with pytest.raises(UsageError, match="--opset requires --to onnx"):
        ConvertSettings(checkpoint=str(checkpoint), to="timm", out=tmp_path / "a.pth", opset=20)
    with pytest.raises(UsageError, match="would overwrite the file of CHECKPOINT"):
        convert(ConvertSettings(checkpoint=simsiam, to="reference", out=simsiam))
    content = torch.load(simsiam)
    content["state_dict"] = {key: value for key, value in content["state_dict"].items() if "layer4" not in key}
    torch.save(content, tmp_path / "part.pth")
    with pytest.raises(DataError, match="does not have a complete encoder"):
        convert(ConvertSettings(checkpoint=tmp_path / "part.pth", to="torchvision", out=tmp_path / "a.pth"))
    result = call("convert", simsiam, "--to", "torchvision", "--out", tmp_path / "none" / "a.pth")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert not list(tmp_path.glob("a.*"))


@pytest.mark.parametrize(
    ("arch", "stem", "name"),
    [
        ("resnet18", "imagenet", "a.pth"),
        ("resnext50_32x4d", "imagenet", "a.safetensors"),
        ("resnet18", "cifar", "a's.pth"),
    ],
)
def test_timm_computes_the_same_features(arch, stem, name, tmp_path):
    """Runs the printed code, on an encoder whose BN statistics differ from a new one's."""
    torch.manual_seed(0)
    trunk = build_trunk(arch, stem).eval()
    for key, value in trunk.state_dict().items():
        if "running" in key:
            value.uniform_(-0.2, 0.2) if "mean" in key else value.uniform_(0.5, 1.5)
    torch.save(trunk.state_dict(), tmp_path / "trunk.pth")
    result = convert(ConvertSettings(checkpoint=tmp_path / "trunk.pth", to="timm", out=tmp_path / name))
    assert result.metrics["weights"] == len(trunk.state_dict())
    lines = result.table.notes[1:]
    assert len(lines) == (2 if stem == "imagenet" else 5)
    namespace = {}
    exec("\n".join(lines), namespace)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = ResNetEncoder(trunk, arch, stem)(images)
        torch.testing.assert_close(
            namespace["model"].eval()(images), expected, rtol=0, atol=1e-6 * float(expected.abs().max())
        )
