"""`convert`: the file contains what was read, and other programs load it."""

import json

import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image

from simsiam_eval.encoders.checkpoint import inspect_checkpoint
from simsiam_eval.encoders.checkpoint_writer import METADATA_KEY
from simsiam_eval.encoders.encoder import ResNetEncoder, build_trunk
from simsiam_eval.encoders.report import weights_sha256
from simsiam_eval.errors import DataError, UsageError
from tasks.convert import ConvertSettings, convert, images_to_compare

# Images of this size keep the comparison short.
SMALL = {"preprocessing": {"resize": 40, "crop": 36, "mean": [0.5] * 3, "std": [0.2] * 3}}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Stem -> a ResNet-18 under the reference's keys."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {}
    for stem in ("imagenet", "cifar"):
        torch.manual_seed(0)
        state = {f"module.encoder.{key}": value for key, value in build_trunk("resnet18", stem).state_dict().items()}
        state |= {"module.predictor.0.weight": torch.zeros(2, 2)}
        paths[stem] = folder / f"{stem}.pth.tar"
        about = {"epoch": 100, "arch": "resnet18", METADATA_KEY: SMALL}
        torch.save(about | {"state_dict": state, "optimizer": {}}, paths[stem])
    return paths


@pytest.fixture(scope="module")
def simsiam(checkpoints):
    return checkpoints["imagenet"]


@pytest.mark.parametrize(("to", "name"), [("torchvision", "a.pth"), ("safetensors", "a.safetensors")])
def test_torchvision_and_safetensors(simsiam, tmp_path, to, name):
    expected = inspect_checkpoint(simsiam).weights_sha256
    result = convert(ConvertSettings(checkpoint=simsiam, to=to, out=tmp_path / name))
    assert result.metrics["weights_sha256"] == expected
    assert (result.protocol, result.files) == (None, {"checkpoint": str(tmp_path / name)})
    load = safetensors.torch.load_file if to == "safetensors" else torch.load
    model = torchvision.models.resnet18()
    loaded = model.load_state_dict(load(tmp_path / name), strict=False)
    assert loaded == (["fc.weight", "fc.bias"], [])
    assert weights_sha256(model.state_dict(), {}) == expected
    assert inspect_checkpoint(tmp_path / name).weights_sha256 == expected


def test_reference_and_back(simsiam, checkpoints, tmp_path):
    convert(ConvertSettings(checkpoint=simsiam, to="torchvision", out=tmp_path / "a.pth"))
    image = tmp_path / "image.png"  # the file does not say how images are prepared: at 224 px, one is enough
    Image.new("RGB", (32, 32), "red").save(image)
    convert(
        ConvertSettings(checkpoint=tmp_path / "a.pth", to="reference", out=tmp_path / "b.pth.tar", images=str(image))
    )
    back = torch.load(tmp_path / "b.pth.tar", weights_only=True)
    # As the reference's main_lincls.py loads it.
    prefix = "module.encoder"
    trunk = {key[len(prefix) + 1 :]: value for key, value in back["state_dict"].items() if key.startswith(prefix)}
    assert torchvision.models.resnet18().load_state_dict(trunk, strict=False).missing_keys == ["fc.weight", "fc.bias"]
    assert back["arch"] == "resnet18"
    result = convert(ConvertSettings(checkpoint=checkpoints["cifar"], to="reference", out=tmp_path / "c.pth.tar"))
    assert "cannot load this encoder" in result.table.notes[1]
    assert inspect_checkpoint(tmp_path / "c.pth.tar").metadata["preprocessing"] == SMALL["preprocessing"]


def test_mean_and_std_go_into_what_is_written(simsiam, tmp_path):
    given = {"checkpoint": str(simsiam), "mean": (0.5, 0.25, 0.5), "std": (0.4,)}
    convert(ConvertSettings(to="safetensors", out=tmp_path / "a.safetensors", **given))
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        preprocessing = json.loads(file.metadata()["preprocessing"])
    assert (preprocessing["mean"], preprocessing["std"]) == ([0.5, 0.25, 0.5], [0.4] * 3)


@pytest.mark.parametrize(
    ("to", "name", "options", "expected"),
    [
        ("onnx", "a.pth", {}, r"must end in \.onnx with --to onnx"),
        ("openvino", "a.onnx", {}, r"must end in \.xml"),
        ("safetensors", "a.pth", {}, r"must end in \.safetensors with --to safetensors"),
        ("torchvision", "a.safetensors", {}, r"must end in \.pth or .* with --to torchvision"),
        ("timm", "a.xyz", {}, r"must end in \.pth or .* or \.safetensors with --to timm"),
        ("detectron2", "a.pkl", {}, r"must end in \.pth with --to detectron2"),
        ("timm-folder", "", {}, "already exists; choose a new folder"),
        ("openvino", "weights.xml", {}, r"would overwrite .*weights\.bin, which already exists"),
        ("timm", "a.pth", {"preprocessing": "inside"}, "--preprocessing requires --to onnx, torch-export, openvino"),
        ("torch-export", "a.pt2", {"opset": 20}, "--opset requires --to onnx"),
        ("timm", "a.pth", {"preset": "quick"}, "--preset requires --to detectron2"),
    ],
)
def test_settings_that_contradict_each_other(simsiam, tmp_path, to, name, options, expected):
    (tmp_path / "weights.bin").touch()
    with pytest.raises(UsageError, match=expected):
        ConvertSettings(checkpoint=str(simsiam), to=to, out=tmp_path / name, **options)


def test_errors(simsiam, tmp_path, call):
    with pytest.raises(UsageError, match="would overwrite the file of CHECKPOINT"):
        convert(ConvertSettings(checkpoint=simsiam, to="reference", out=simsiam))
    content = torch.load(simsiam)
    content["state_dict"] = {key: value for key, value in content["state_dict"].items() if "layer4" not in key}
    torch.save(content, tmp_path / "part.pth")
    with pytest.raises(DataError, match="does not have a complete encoder"):
        convert(ConvertSettings(checkpoint=tmp_path / "part.pth", to="torchvision", out=tmp_path / "a.pth"))
    result = call("convert", simsiam, "--to", "torchvision", "--out", tmp_path / "part.pth" / "a.pth")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert not list(tmp_path.glob("a.*"))


def test_images_to_compare(photos):
    assert len(images_to_compare(None)) == 8
    assert len(images_to_compare("digits#test")) == 32
    with pytest.raises(DataError, match=r"007\.png: .*; give images that can be decoded with --images"):
        images_to_compare(str(photos / "ants"))


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
    torch.save({"state_dict": trunk.state_dict(), METADATA_KEY: SMALL}, tmp_path / "trunk.pth")
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
