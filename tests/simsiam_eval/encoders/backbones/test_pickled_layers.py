"""Networks of timm that were pickled whole: computed by timm, if timm builds the same layers."""

import pytest
import torch
from torch import nn

from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.errors import DataError

timm = pytest.importorskip("timm")


def saved(folder, name, **arguments):
    torch.manual_seed(0)
    network = timm.create_model(name, **arguments).eval()
    torch.save(network, folder / "module.pth")
    return network, folder / "module.pth"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnetaa50", {}),
        ("resnetaa50", {"global_pool": "max", "in_chans": 1}),
        ("resnetaa50", {"global_pool": "", "num_classes": 0}),
        ("resnet26d", {"drop_path_rate": 0.1, "drop_rate": 0.2}),
        ("resnet18", {"global_pool": "max"}),
    ],
)
def test_features_are_those_of_the_pickled_network(tmp_path, name, arguments):
    network, path = saved(tmp_path, name, **arguments)
    images = torch.randn(2, arguments.get("in_chans", 3), 64, 64)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(images), pre_logits=True)
    expected = expected.mean(dim=(2, 3)) if expected.ndim == 4 else expected
    for checkpoint in (str(path), f"timm:{name}@{path}"):
        encoder, report = load_encoder(checkpoint)
        with torch.no_grad():
            torch.testing.assert_close(encoder(images), expected, rtol=0, atol=1e-5)
        assert (report.arch, report.normalization_from) == (f"timm:{name}", "the pickled network")


def test_of_two_pickled_networks_the_branch_chooses(tmp_path):
    student, teacher = (timm.create_model("resnetaa50").eval() for _ in range(2))
    torch.save({"student": student, "teacher": teacher}, tmp_path / "both.pth")
    images = torch.randn(1, 3, 64, 64)
    for branch, network in (("student", student), ("teacher", teacher)):
        encoder, _ = load_encoder(EncoderChoice(str(tmp_path / "both.pth"), branch=branch))
        with torch.no_grad():
            expected = network.forward_head(network.forward_features(images), pre_logits=True)
            torch.testing.assert_close(encoder(images), expected, rtol=0, atol=1e-5)


def test_a_plain_resnet_of_timm_has_its_own_preprocessing(tmp_path):
    _, path = saved(tmp_path, "resnet18", pretrained_cfg_overlay={"crop_pct": 0.5, "mean": (0.1, 0.2, 0.3)})
    report = load_encoder(path)[1]
    assert (report.arch, report.preprocessing["resize"]) == ("resnet18", 448)
    assert report.normalization["mean"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("name", "arguments", "difference"),
    [
        ("resnet18", {"act_layer": nn.SiLU}, "SiLU in act1, not ReLU"),
        ("resnetaa50", {"output_stride": 16}, r"dilation 2 in layer4\.0, not 1 as timm's resnetaa50"),
        ("test_vit", {"act_layer": nn.ReLU}, r"ReLU in blocks\.0\.mlp\.act, not GELU"),
    ],
)
def test_other_layers_than_timms_are_rejected(tmp_path, name, arguments, difference):
    _, path = saved(tmp_path, name, **arguments)
    with pytest.raises(DataError, match=rf"has a network of timm with {difference}.* features would differ; compute"):
        load_encoder(f"timm:{name}@{path}")


def test_other_networks_are_rejected_with_their_name(tmp_path):
    network, path = saved(tmp_path, "test_vit")
    with pytest.raises(
        DataError, match=rf"has a vision transformer and no ResNet: .* Give it as timm:test_vit@{path}\."
    ):
        load_encoder(path)
    encoder, _ = load_encoder(f"timm:test_vit@{path}")
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(images), pre_logits=True)
        torch.testing.assert_close(encoder(images), expected, rtol=0, atol=1e-5)
