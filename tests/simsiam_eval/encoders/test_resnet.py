"""Our ResNets are torchvision's: modules, keys, initial weights and outputs."""

import pytest
import torch
from torchvision.models import get_model

from simsiam_eval.encoders.architectures import ARCHITECTURES, NOT_IN_TORCHVISION
from simsiam_eval.encoders.resnet import ResNet

DILATED = {32: [False, False, False], 16: [False, False, True], 8: [False, True, True]}


def leaves(model):
    """The modules without children, by name: types, widths, strides, paddings."""
    return [(name, repr(module)) for name, module in model.named_modules() if not any(module.children())]


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch not in NOT_IN_TORCHVISION])
def test_modules_are_those_of_torchvision(arch):
    with torch.device("meta"):
        ours, theirs = ResNet(arch), get_model(arch, weights=None)
    assert leaves(ours) == leaves(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_architectures_of_our_own():
    """resnet10_x0_5 has the keys of one block per stage of ResNet-18, and half its channels."""
    with torch.device("meta"):
        ours, theirs = ResNet("resnet10_x0_5"), get_model("resnet18", weights=None)
    first = {
        key: tensor for key, tensor in theirs.state_dict().items() if ".1." not in key.replace("downsample.1.", "")
    }
    assert list(ours.state_dict()) == list(first)
    for key, tensor in ours.state_dict().items():
        channels = {size for size in first[key].shape[:2] if size not in (3, 1000)}
        assert {size for size in tensor.shape[:2] if size not in (3, 1000)} == {size // 2 for size in channels}


@pytest.mark.parametrize("output_stride", DILATED)
def test_dilations_are_those_of_torchvision(output_stride):
    with torch.device("meta"):
        theirs = get_model("resnet50", weights=None, replace_stride_with_dilation=DILATED[output_stride])
        assert leaves(ResNet("resnet50", output_stride)) == leaves(theirs)


@pytest.mark.parametrize("zero_init_residual", [False, True])
@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_a_seed_gives_the_weights_and_outputs_of_torchvision(arch, zero_init_residual):
    torch.manual_seed(0)
    ours = ResNet(arch, zero_init_residual=zero_init_residual)
    next_of_ours = torch.rand(1)
    torch.manual_seed(0)
    theirs = get_model(arch, weights=None, zero_init_residual=zero_init_residual)
    assert torch.equal(torch.rand(1), next_of_ours)
    for (key, weights), expected in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(weights, expected), key
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
        assert torch.equal(ours.eval()(images), theirs.eval()(images))
