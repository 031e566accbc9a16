"""What whole pickled modules and TorchScript archives show besides weights is used or rejected, never ignored."""

import sys
import types

import pytest
import torch
from torch import nn
from torchvision.models import ResNet, resnet18, resnet50
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.quantization import resnet50 as quantizable_resnet50
from torchvision.models.resnet import BasicBlock

from simsiam_eval.encoders.checkpoint import inspect_checkpoint, load_encoder
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.errors import DataError


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return resnet18().state_dict()


@pytest.fixture
def network(weights):
    model = resnet18()
    model.load_state_dict(weights)
    return model.eval()


@pytest.fixture(params=["pickled", "scripted", "traced"])
def write(request, tmp_path):
    def write(model):
        path = tmp_path / "model.pt"
        if request.param == "pickled":
            torch.save(model, path)
        elif request.param == "scripted":
            torch.jit.script(model).save(path)
        else:
            torch.jit.trace(model, torch.zeros(1, 3, 64, 64)).save(path)
        return path

    return write


@pytest.fixture
def pickled(tmp_path):
    def pickled(model):
        torch.save(model, tmp_path / "model.pt")
        return tmp_path / "model.pt"

    return pickled


@pytest.fixture
def script_class(monkeypatch):
    """A class of a module `script` that can be pickled."""

    def script_class(name, *bases, **members):
        made = type(name, bases, {"__module__": "script", **members})
        module = types.ModuleType("script")
        setattr(module, name, made)
        monkeypatch.setitem(sys.modules, "script", module)
        return made

    return script_class


def assumed(path):
    """Assumptions, without those about normalization."""
    return [sentence for sentence in inspect_checkpoint(path).assumptions if "--mean" not in sentence]


@torch.no_grad()
def same_features(path, model):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model.fc = nn.Identity()
    expected = model.eval()(images)
    scale = max(1.0, float(expected.abs().max()))  # rounding of large activations is in all features
    torch.testing.assert_close(load_encoder(path)[0](images), expected, rtol=1e-5, atol=1e-5 * scale)


def test_torchvision_needs_no_assumption(write, network):
    path = write(network)
    assert assumed(path) == []
    same_features(path, network)


@pytest.mark.parametrize(
    ("name", "layer", "said"),
    [
        ("maxpool", nn.AvgPool2d(3, 2, 1), "AvgPool2d in maxpool, where .* have MaxPool2d"),
        ("maxpool", nn.MaxPool2d(2, 2), "MaxPool2d in maxpool, with kernel_size 2, padding 0, where .* kernel_size 3"),
        ("maxpool", nn.MaxPool2d(3, 2, 1, ceil_mode=True), "ceil_mode True, where .* ceil_mode False"),
        ("avgpool", nn.AdaptiveMaxPool2d(1), r"AdaptiveMaxPool2d in avgpool, where .* AdaptiveAvgPool2d\(1\)"),
    ],
)
def test_other_poolings(write, network, name, layer, said):
    setattr(network, name, layer)
    path = write(network)
    with pytest.raises(DataError, match=said):
        inspect_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "layer", "said"),
    [
        ("relu", nn.GELU(), "GELU in relu, where .* have a ReLU"),
        ("layer1.0.relu", nn.Identity(), "Identity in layer1.0.relu, where .* have a ReLU"),
        ("layer2.0.relu", nn.LeakyReLU(), "LeakyReLU in layer2.0.relu"),
        ("bn1", nn.InstanceNorm2d(64, affine=True, track_running_stats=True), "InstanceNorm2d in bn1"),
        ("conv1", nn.Conv2d(3, 64, 7, 2, 3, bias=False, padding_mode="reflect"), "conv1 with padding_mode reflect"),
        ("conv1", nn.Conv2d(3, 64, 7, (2, 1), 3, bias=False), r"conv1 with stride \(2, 1\)"),
        ("conv1", nn.Conv2d(3, 64, 7, padding="same", bias=False), "conv1 with padding same"),
        ("conv1", nn.Conv2d(3, 64, 7, 2, 3, 2, bias=False), r"conv1 with dilation \(2, 2\)"),
        ("conv1", nn.Conv2d(3, 64, 7, 2, 3), r"unexpected keys: 1 \(conv1\.bias\)"),
        ("layer1.0.conv1", nn.Conv2d(64, 64, 3, 1, 1, padding_mode="circular", bias=False), "padding_mode circular"),
    ],
)
def test_other_layers(pickled, network, name, layer, said):
    network.set_submodule(name, layer)
    with pytest.raises(DataError, match=said):
        inspect_checkpoint(pickled(network))


@pytest.mark.parametrize("layer", [nn.GroupNorm(8, 64), nn.BatchNorm2d(64, track_running_stats=False)])
def test_normalizations_without_statistics(pickled, network, layer):
    network.bn1 = layer
    with pytest.raises(DataError, match=r"bn1\.running_mean"):
        inspect_checkpoint(pickled(network))


def test_epsilon_is_that_of_the_module(write, network):
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-2
    same_features(write(network), network)


def test_a_smaller_epsilon_beside_variances_below_it(pickled, network, tmp_path):
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-6
    network.layer2[0].bn1.running_var[:3] = 1e-7
    encoder, _ = load_encoder(pickled(network))
    same_features(pickled(network), network)
    torch.save(encoder.trunk.state_dict(), tmp_path / "written.pt")
    again, report = load_encoder(tmp_path / "written.pt")
    assert report.arch == "resnet18"
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images), encoder(images))


def test_different_epsilons(pickled, network):
    network.layer1[0].bn1.eps = 1e-3
    with pytest.raises(DataError, match=r"epsilons \(1e-05 in bn1, 0\.001 in layer1\.0\.bn1\)"):
        inspect_checkpoint(pickled(network))


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        (("maxpool",), {"stem_relu": False}),
        (("relu",), {"stem_pool": False}),
        (("relu", "maxpool"), {}),
        ((), {"stem_pool": False, "stem_relu": False}),
    ],
)
def test_layers_of_a_sequential(pickled, network, between, expected):
    names = ("conv1", "bn1", *between, "layer1", "layer2", "layer3", "layer4")
    model = nn.Sequential(*(getattr(network, name) for name in names))
    path = pickled(model)
    report = inspect_checkpoint(path)
    assert report.variant == expected
    assert assumed(path) == ["Assumed global average pooling after layer4, which the file's module does not have."]
    model.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten())
    path = pickled(model)
    assert assumed(path) == []
    same_features(path, model)
    model[len(names)] = nn.AdaptiveMaxPool2d(1)
    with pytest.raises(DataError, match=f"AdaptiveMaxPool2d in {len(names)}, where"):
        inspect_checkpoint(pickled(model))


def test_state_dict_of_a_sequential(tmp_path, network):
    names = ("conv1", "bn1", "relu", "layer1", "layer2", "layer3", "layer4")
    torch.save(nn.Sequential(*(getattr(network, name) for name in names)).state_dict(), tmp_path / "model.pt")
    (sentence,) = [said for said in assumed(tmp_path / "model.pt") if "index 3" in said]
    assert "Assumed a ReLU and no max pooling" in sentence


def test_a_layer_before_the_network(pickled, network):
    with pytest.raises(DataError, match="InstanceNorm2d in 0, a layer before the ResNet"):
        inspect_checkpoint(pickled(nn.Sequential(nn.InstanceNorm2d(3), network)))
    assert assumed(pickled(nn.Sequential(nn.Identity(), network))) == []


def test_own_classes(pickled, network, script_class, weights):
    flip = script_class("Flip", ResNet)(BasicBlock, [2, 2, 2, 2])
    flip.load_state_dict(weights)
    sentence = (
        "Assumed the forward pass of torchvision's resnet18; the file's class script.Flip may compute something else."
    )
    assert assumed(pickled(flip)) == [sentence]
    wrapper = script_class("Flip", nn.Module)()
    wrapper.encoder = network
    assert assumed(pickled(wrapper)) == [sentence]
    assert assumed(pickled(nn.DataParallel(network))) == []


@pytest.mark.parametrize(("path", "base"), [("layer1.0.conv1", nn.Conv2d), ("conv1", nn.Conv2d), ("relu", nn.ReLU),
                                          ("layer2.0.relu", nn.ReLU), ("bn1", nn.BatchNorm2d),
                                          ("maxpool", nn.MaxPool2d)])  # fmt: skip
def test_own_layers_with_names_of_torch(pickled, network, script_class, path, base):
    """Such as a convolution with weight standardization."""
    own = script_class(base.__name__, base)
    network.get_submodule(path).__class__ = own
    with pytest.raises(DataError, match=rf"has a script\.{base.__name__} in {path}, "):
        inspect_checkpoint(pickled(network))


def test_traced_graph_modules(pickled, network):
    path = pickled(create_feature_extractor(network, {"flatten": "features"}))
    assert any("forward pass" in sentence for sentence in assumed(path))
    same_features(path, network)


def test_own_class_in_torchscript(tmp_path, network):
    class Flip(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = network

        def forward(self, images):
            return self.encoder(images.flip(3))

    torch.jit.trace(Flip(), torch.zeros(1, 3, 64, 64)).save(tmp_path / "model.pt")
    (sentence,) = assumed(tmp_path / "model.pt")
    assert "Flip may compute something else" in sentence


def test_functional_pooling(pickled, network):
    del network.maxpool
    path = pickled(network)
    (sentence,) = assumed(path)
    assert sentence.startswith("Assumed torchvision's max pooling in the stem")
    assert not assumed(EncoderChoice(str(path), stem_pool=True))


def test_quantizable_networks(pickled):
    model, plain = quantizable_resnet50().eval(), resnet50().eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    path = pickled(model)
    assert inspect_checkpoint(path).arch == "resnet50"
    same_features(path, plain)
