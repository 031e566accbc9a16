"""Encoders that were trained on BGR images, and what files say about their images."""

import pytest
import torch
from torch import nn

from simsiam_eval.encoders.checkpoint import inspect_checkpoint, load_encoder
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.encoders.report import weights_sha256
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.options import ExtractionOptions
from tasks.detection.backends.detectron2.weights import detectron2_keys

CAFFE = {"mean": [103.53, 116.28, 123.675], "std": [1.0, 57.0, 58.0]}  # in BGR
DETECTRON2 = """
MODEL:
  PIXEL_MEAN: [103.53, 116.28, 123.675]
  PIXEL_STD: [1.0, 57.0, 58.0]
  RESNETS: {DEPTH: 18, STRIDE_IN_1X1: false, RES5_DILATION: 1}
INPUT: {FORMAT: BGR}
"""


@pytest.fixture(scope="module")
def trunk():
    torch.manual_seed(0)
    return build_trunk("resnet18").eval()


@pytest.fixture(scope="module")
def detectron2(trunk):
    """The trunk under detectron2's names."""
    state = trunk.state_dict()
    return {name: state[key] for key, name in detectron2_keys(state, "fpn").items()}


@pytest.fixture
def saved(tmp_path):
    def save(content):
        torch.save(content, tmp_path / "model.pth")
        return str(tmp_path / "model.pth")

    return save


def openmmlab(trunk, text):
    state = {f"backbone.{key}": value for key, value in trunk.state_dict().items()}
    return {"meta": {"cfg": text}, "state_dict": state}


@torch.no_grad()
def assert_exact(path, trunk, reverse=True, **choice):
    """The report, after comparing features of RGB images with those of the original from what it takes."""
    encoder, report = load_encoder(EncoderChoice(path, **choice))
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    taken = pixels.flip(1) if reverse else pixels
    mean, std = (torch.tensor(CAFFE[name]).view(3, 1, 1) for name in ("mean", "std"))
    expected = trunk((taken.float() - mean) / std)
    features = encoder(ExtractionOptions().preprocessing(report).normalize(pixels))
    assert nn.functional.cosine_similarity(features, expected).min() > 0.99999
    assert (features - expected).abs().max() < 1e-5 * expected.abs().max()
    assert report.weights_sha256 == weights_sha256(encoder.trunk.state_dict(), report.computation)
    return report


def test_detectron2s_config_says_bgr(trunk, detectron2, saved, tmp_path):
    path = saved({"model": detectron2})
    (tmp_path / "config.yaml").write_text(DETECTRON2)
    report = assert_exact(path, trunk, branch="backbone")
    assert (report.channel_order, report.channel_order_from) == ("bgr", "config.yaml")
    assert report.normalization["mean"] == pytest.approx([value / 255 for value in (123.675, 116.28, 103.53)])
    assert report.normalization_from == "config.yaml"
    assert report.assumptions == ()
    (tmp_path / "config.yaml").write_text(DETECTRON2.replace("BGR", "RGB"))
    assert assert_exact(path, trunk, reverse=False, branch="backbone").channel_order == "rgb"
    assert report.weights_sha256 != inspect_checkpoint(EncoderChoice(path, branch="backbone")).weights_sha256


def test_the_user_decides(trunk, detectron2, saved, tmp_path):
    path = saved({"model": detectron2})
    (tmp_path / "model.yaml").write_text(DETECTRON2.replace("INPUT: {FORMAT: BGR}", ""))
    report = assert_exact(path, trunk, branch="backbone", channel_order="bgr")
    assert report.channel_order_from == "--channel-order"
    assert assert_exact(path, trunk, reverse=False, branch="backbone", channel_order="rgb").channel_order == "rgb"


def test_without_a_config_the_order_is_an_assumption(detectron2, saved):
    report = load_encoder(EncoderChoice(saved({"model": detectron2}), branch="backbone"))[1]
    assert any("Assumed RGB images" in sentence and "--channel-order" in sentence for sentence in report.assumptions)
    torchvisions = saved({"model": detectron2, "__author__": "torchvision"})
    report = load_encoder(EncoderChoice(torchvisions, branch="backbone"))[1]
    assert (report.channel_order, report.channel_order_from) == ("rgb", "__author__")


def test_a_yaml_file_of_another_network(trunk, detectron2, saved, tmp_path):
    (tmp_path / "config.yaml").write_text(DETECTRON2.replace("DEPTH: 18", "DEPTH: 50"))
    report = load_encoder(EncoderChoice(saved({"model": detectron2}), branch="backbone"))[1]
    assert "config.yaml beside the weights describes a ResNet-50, so it is not used." in report.assumptions
    assert report.normalization is None
    (tmp_path / "config.yaml").write_text(DETECTRON2)
    assert load_encoder(saved(trunk.state_dict()))[1].normalization is None  # these are not detectron2's names


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "RES5_DILATION: 1",
            "RES5_DILATION: 2",
            "RES5_DILATION 2, which dilates the first block of its last stage too",
        ),
        ("FORMAT: BGR", "FORMAT: YUV-BT.601", "format YUV-BT.601; expected RGB or BGR"),
    ],
)
def test_what_cannot_be_computed_is_rejected(detectron2, saved, tmp_path, old, new, message):
    (tmp_path / "config.yaml").write_text(DETECTRON2.replace(old, new))
    with pytest.raises(DataError, match=message):
        load_encoder(EncoderChoice(saved({"model": detectron2}), branch="backbone"))


LOADED = "pipeline = [dict(type='LoadImageFromFile')]\n"
NORM = f"data_preprocessor = dict(mean={CAFFE['mean']}, std={CAFFE['std']}, FLAG)\n"


@pytest.mark.parametrize(
    ("text", "reverse"),
    [
        (LOADED + NORM.replace("FLAG", "to_rgb=False"), True),
        (LOADED + NORM.replace("FLAG", "bgr_to_rgb=False"), True),
        (LOADED + NORM.replace("FLAG", "to_rgb=True"), False),
        ("dataset_type = 'CIFAR10'\n" + NORM.replace("FLAG", "to_rgb=False"), False),
        (NORM.replace(", FLAG", ""), True),  # what the mean shows
    ],
)
def test_openmmlabs_config_says_the_order(trunk, saved, text, reverse):
    report = assert_exact(saved(openmmlab(trunk, text)), trunk, reverse)
    assert report.channel_order == ("bgr" if reverse else "rgb")
    assert any("Assumed BGR images" in sentence for sentence in report.assumptions) is ("rgb" not in text)


def test_contradictions_are_an_assumption(trunk, saved):
    text = "a = dict(mean=[0, 0, 0], std=[1, 1, 1], to_rgb=True)\nb = dict(to_rgb=False)"
    report = load_encoder(saved(openmmlab(trunk, text)))[1]
    assert any("say both RGB and BGR" in sentence for sentence in report.assumptions)
    assert report.normalization["std"] == [1 / 255] * 3  # gray levels, though no value is above 2


def test_maskrcnn_benchmark(trunk, saved, tmp_path):
    state = {f"module.backbone.body.{'stem.' * key.startswith(('conv1', 'bn1'))}{key}": value
             for key, value in trunk.state_dict().items()}  # fmt: skip
    images = "TO_BGR255: FLAG, PIXEL_MEAN: [0.3, 0.4, 0.5], PIXEL_STD: [1, 1, 1]"
    text = f"MODEL: {{RESNETS: {{STRIDE_IN_1X1: false}}}}\nINPUT: {{{images}}}"
    path = saved({"model": state})
    for flag, order, mean in (("true", "bgr", [0.5 / 255, 0.4 / 255, 0.3 / 255]), ("false", "rgb", [0.3, 0.4, 0.5])):
        (tmp_path / "config.yml").write_text(text.replace("FLAG", flag))
        report = inspect_checkpoint(path)
        assert report.channel_order == order
        assert report.normalization["mean"] == pytest.approx(mean)


def test_swav_has_a_standard_deviation_of_its_own(trunk, saved):
    heads = {"projection_head.0.weight": torch.zeros(9, 512), "prototypes.weight": torch.zeros(5, 9)}
    report = inspect_checkpoint(saved(trunk.state_dict() | heads))
    assert report.normalization == {"mean": [0.485, 0.456, 0.406], "std": [0.228, 0.224, 0.225]}
    assert report.normalization_from == "what swav trains with"
    del heads["prototypes.weight"]
    assert inspect_checkpoint(saved(trunk.state_dict() | heads)).normalization is None


def test_gray_encoders_have_no_order_of_colors(saved):
    gray = nn.Conv2d(1, 64, 7, bias=False).weight.data
    path = saved(build_trunk("resnet18").state_dict() | {"conv1.weight": gray})
    with pytest.raises(UsageError, match="--channel-order cannot be used with an encoder of images of 1 channel"):
        load_encoder(EncoderChoice(path, channel_order="bgr"))


@pytest.mark.parametrize(
    ("names", "mean", "std", "order"),
    [
        (("normalize.mean", "normalize.std"), [0.4, 0.5, 0.6], [0.2, 0.3, 0.1], "rgb"),
        (("mean", "std"), [0.4, 0.5, 0.6], [0.2, 0.3, 0.1], "rgb"),
        (("pixel_mean", "pixel_std"), [103.53, 116.28, 123.675], [1.0, 57.0, 58.0], "bgr"),
    ],
)
def test_a_network_that_normalizes_itself(trunk, saved, names, mean, std, order):
    state = {f"backbone.{key}": value for key, value in trunk.state_dict().items()}
    buffers = {name: torch.tensor(values).view(1, 3, 1, 1) for name, values in zip(names, (mean, std), strict=True)}
    report = inspect_checkpoint(saved({"model": state | buffers}))
    scale, step = (255, -1) if order == "bgr" else (1, 1)
    assert report.normalization["mean"] == pytest.approx([value / scale for value in mean[::step]])
    assert report.normalization["std"] == pytest.approx([value / scale for value in std[::step]])
    assert (report.normalization_from, report.channel_order) == (f"its {names[0]}", order)
    assert not any("--mean" in sentence for sentence in report.assumptions)
