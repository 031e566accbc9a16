"""Settings in a checkpoint that change the features and not the keys and shapes: used, or rejected with the reason."""

import argparse

import pytest
import torch
from torchvision.models import resnet18, resnet50

from simsiam_eval.encoders.checkpoint import inspect_checkpoint, load_encoder
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.errors import DataError, UsageError


def constant(network):
    """A state dict of one repeated value in each tensor, so that the file is small."""
    return {key: torch.ones((), dtype=value.dtype).expand(value.shape) for key, value in network.state_dict().items()}


with torch.device("meta"):
    SMALL, LARGE = resnet18(), resnet50()


@pytest.fixture(scope="module")
def small():
    return constant(SMALL)


@pytest.fixture(scope="module")
def large():
    return constant(LARGE)


@pytest.fixture
def inspected(tmp_path):
    def inspect(state, **content):
        torch.save({"state_dict": state} | content, tmp_path / "model.pth")
        return inspect_checkpoint(str(tmp_path / "model.pth"))

    return inspect


def in_config(**backbone):
    arguments = ", ".join(f"{name}={value!r}" for name, value in backbone.items())
    return {"cfg": f"model = dict(type='SimSiam', backbone=dict(type='ResNet', depth=50, {arguments}))"}


@pytest.mark.parametrize(
    ("strides", "dilations", "stride"), [((1, 2, 2, 1), (1, 1, 1, 2), 16), ((1, 2, 1, 1), (1, 1, 2, 4), 8)]
)
def test_dilations_of_openmmlab(inspected, large, strides, dilations, stride):
    backbone = {"strides": strides, "dilations": dilations}
    report = inspected(large, meta=in_config(**backbone, contract_dilation=True))
    assert report.variant == {"output_stride": stride}
    assert not any("Assumed torchvision" in sentence for sentence in report.assumptions)
    with pytest.raises(DataError, match=r"OpenMMLab config whose backbone has strides=.* and dilations="):
        inspected(large, meta=in_config(**backbone))  # its first block dilates by 2, torchvision's by 1


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"norm_cfg": {"type": "BN", "eps": 1e-3}}, "an epsilon of 0.001"),
        ({"norm_cfg": {"type": "IBN"}}, "the normalization IBN"),
        ({"conv_cfg": {"type": "ConvWS"}}, "convolutions of the type ConvWS"),
        ({"avg_down": True}, "avg_down=True"),
        ({"strides": (1, 2, 2, 1)}, r"strides=\(1, 2, 2, 1\) and dilations=\(1, 1, 1, 1\)"),
        ({"act_cfg": {"type": "GELU"}}, "has the activation GELU in its setting act_cfg"),
    ],
)
def test_layers_of_openmmlab_that_torchvision_does_not_have(inspected, large, backbone, message):
    with pytest.raises(DataError, match=message):
        inspected(large, meta=in_config(**backbone))


def test_an_openmmlab_backbone_like_torchvisions_or_of_another_depth(inspected, small, large):
    plain = {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1), "norm_cfg": {"type": "SyncBN", "requires_grad": True}}
    assert inspected(large, meta=in_config(**plain, out_indices=[4])).variant == {}
    assert inspected(small, meta=in_config(norm_cfg={"type": "IBN"})).variant == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "resnet50", "output_stride": 16},
        {"replace_stride_with_dilation": [False, False, True]},
        {"encoder": {"output_stride": 16, "replace_stride_with_dilation": (False, False, True)}},
    ],
)
def test_an_output_stride_in_the_settings(inspected, large, settings):
    assert inspected(large, hyper_parameters=settings).variant == {"output_stride": 16}


@pytest.mark.parametrize("settings", [{"dilation": False, "last_stride": 2}, {"head": {"dilation": 6}}])
def test_settings_that_say_nothing_about_dilation(inspected, large, settings):
    assert inspected(large, hyper_parameters=settings).variant == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_stride": 4}, "says output_stride 4"),
        ({"encoder_output_stride": 16}, "says encoder_output_stride 16"),
        ({"replace_stride_with_dilation": [True, False, False]}, "says replace_stride_with_dilation"),
        ({"output_stride": 8, "replace_stride_with_dilation": [False, False, True]}, "several output strides"),
        ({"dilation": True}, "says dilation True, but not which stages"),
        ({"backbone": {"dilated": True}}, "says dilated True, but not which stages"),
        ({"MODEL": {"LAST_STRIDE": 1}}, "says LAST_STRIDE 1, a last stage without a stride"),
    ],
)
def test_output_strides_that_are_rejected_unless_one_is_chosen(inspected, large, tmp_path, settings, message):
    with pytest.raises(DataError, match=message):
        inspected(large, hyper_parameters=settings)
    choice = EncoderChoice(str(tmp_path / "model.pth"), output_stride=8)
    assert inspect_checkpoint(choice).variant == {"output_stride": 8}


@pytest.mark.parametrize("decoder", ["aspp.0.convs.0.0", "aspp.convs.0.0", "fpa.branch1.1.conv"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_dilated_encoders_of_segmentation_models_are_rejected(tmp_path, small, decoder, prefix):
    path = tmp_path / "model.pth"
    heads = {f"decoder.{decoder}.weight": torch.zeros(2, 2, 3, 3), "segmentation_head.0.bias": torch.zeros(1)}
    parts = {f"encoder.{key}": value for key, value in small.items() if not key.startswith("fc.")} | heads
    torch.save({prefix + key: value for key, value in parts.items()}, path)
    with pytest.raises(DataError, match="dilates also the first block"):
        inspect_checkpoint(EncoderChoice(str(path), branch="encoder"))
    assert inspect_checkpoint(EncoderChoice(str(path), branch="encoder", output_stride=32)).variant == {}
    (tmp_path / "config.json").write_text(
        '{"_model_class": "PAN", "encoder_name": "resnet18", "encoder_output_stride": 32}'
    )
    assert inspect_checkpoint(EncoderChoice(str(path), branch="encoder")).variant == {}


@pytest.mark.parametrize(
    ("decoder", "config", "last"),
    [("psp.blocks.0.pool.1.0", {}, "layer2"), ("psp.blocks.0.pool.1.0", {"encoder_depth": 5}, None),
     ("blocks.0.conv1.0", {"encoder_depth": 4}, "layer3"), ("blocks.0.conv1.0", {}, None)],
)  # fmt: skip
def test_stages_that_segmentation_models_does_not_train(inspected, tmp_path, small, decoder, config, last):
    """PSPNet and `encoder_depth`: the stages after the last one used are in the file."""
    heads = {f"decoder.{decoder}.weight": torch.zeros(2, 2, 3, 3), "segmentation_head.0.bias": torch.zeros(1)}
    state = {f"encoder.{key}": value for key, value in small.items() if not key.startswith("fc.")} | heads
    torch.save({"state_dict": state, "hyper_parameters": config}, tmp_path / "model.pth")
    said = inspect_checkpoint(EncoderChoice(str(tmp_path / "model.pth"), branch="encoder")).assumptions
    assert [text.endswith(f"up to {last} only (--layer {last}).") for text in said if "trained, but" in text] == (
        [True] if last else []
    )


def test_an_output_stride_needs_bottleneck_blocks(inspected, small):
    with pytest.raises(DataError, match="says output_stride 16, which torchvision's resnet18 cannot have"):
        inspected(small, hyper_parameters={"output_stride": 16})


@pytest.mark.parametrize(
    "settings", [{"act_layer": "silu"}, {"model": {"activation": "leaky_relu"}}, {"activation": torch.nn.GELU}]
)
def test_another_activation_is_rejected(inspected, small, settings):
    with pytest.raises(DataError, match="has the activation"):
        inspected(small, hyper_parameters=settings)


@pytest.mark.parametrize("activation", ["relu", "ReLU", "sigmoid", None, torch.nn.ReLU])
def test_relu_and_the_activation_of_a_head_are_not(inspected, small, activation):
    assert inspected(small, hyper_parameters={"activation": activation}).arch == "resnet18"


@pytest.mark.parametrize(
    "settings",
    [
        {"encoder_name": "tu-resnetaa50"},
        {"network": "resnetaa50"},
        {"model": {"type": "timm/resnetaa50.a1_in1k"}},
        {"own": "hf-hub:timm/resnetaa50.a1_in1k"},
    ],
)
def test_a_name_of_an_anti_aliased_network_under_any_setting(inspected, large, settings):
    pytest.importorskip("timm")
    assert inspected(large, hyper_parameters=settings).arch == "timm:resnetaa50"


def test_a_name_of_a_teacher_is_not_that_of_the_encoder(inspected, large):
    assert inspected(large, hyper_parameters={"arch": "resnet50", "teacher": "resnetaa50"}).arch == "resnet50"


@pytest.mark.parametrize(
    "name", ["resnetaa50", "resnet50", "resnetaa50d", "skresnet34", "seresnext50_32x4d", "vit_b_16"]
)
def test_a_name_that_the_weights_do_not_fit_is_an_assumption(inspected, small, name):
    report = inspected(small, hyper_parameters={"arch": name})
    assert report.arch == "resnet18"
    sentence = f"whose keys and shapes the weights have; the file says {name} in hyper_parameters's arch."
    assert any(sentence in assumption for assumption in report.assumptions)
    fitting = inspected(small, hyper_parameters={"arch": name, "student": {"arch": "resnet18"}})
    assert not any("the file says" in assumption and name in assumption for assumption in fitting.assumptions)


@pytest.mark.parametrize("name", ["simsiam", "cifar10", "simsiam_resnet50_8xb32", "my_resnet50_run3", "byol"])
def test_a_name_of_an_experiment_is_no_architecture(inspected, small, name):
    assert not any(name in assumption for assumption in inspected(small, hyper_parameters={"name": name}).assumptions)


@pytest.mark.parametrize(
    "arguments", [{"model_kwargs": {"act_layer": "silu"}}, {"model_kwargs": {"output_stride": 16}}, {"gp": "avgmax"}]
)
def test_arguments_of_timms_training_script(tmp_path, arguments):
    timm = pytest.importorskip("timm")
    given = {"global_pool": arguments["gp"]} if "gp" in arguments else arguments["model_kwargs"]
    original = timm.create_model("resnet18", num_classes=0, **given).eval()
    args = argparse.Namespace(model="resnet18", num_classes=1000, **arguments)
    torch.save({"arch": "resnet18", "args": args, "state_dict": original.state_dict()}, tmp_path / "last.pth.tar")
    encoder, report = load_encoder(tmp_path / "last.pth.tar")
    assert report.arch == "timm:resnet18"
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), original(images), rtol=1e-5, atol=1e-5)


def test_an_argument_that_is_an_object_is_rejected(inspected, small):
    args = argparse.Namespace(model="resnet18", model_kwargs={"act_layer": torch.nn.SiLU})
    with pytest.raises((DataError, UsageError), match="built with act_layer, whose value is an object"):
        inspected(small, args=args)
