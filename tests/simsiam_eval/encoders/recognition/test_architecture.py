"""Architecture and stem from keys and shapes, and the messages where they are not recognized."""

import pytest

from simsiam_eval.encoders.architectures import ARCHITECTURES
from simsiam_eval.encoders.recognition.architecture import recognize_trunk, trunk_shapes
from simsiam_eval.errors import DataError
from simsiam_eval.vocabulary import STEMS
from tests.simsiam_eval.encoders.recognition.state_dicts import R18


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_recognized(arch, stem):
    assert recognize_trunk(trunk_shapes(arch, stem), "file") == (arch, stem, 3)


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_other_numbers_of_channels(channels):
    assert recognize_trunk(trunk_shapes("resnet18", "cifar", channels), "file") == ("resnet18", "cifar", channels)


def test_only_num_batches_tracked_may_be_missing():
    without = {key: shape for key, shape in R18.items() if not key.endswith("num_batches_tracked")}
    assert recognize_trunk(without, "file") == ("resnet18", "imagenet", 3)
    for key in without:
        with pytest.raises(DataError, match=f"missing keys: 1 of 120 .{key}.|unknown architecture"):
            recognize_trunk({other: shape for other, shape in without.items() if other != key}, "file")


@pytest.mark.parametrize(
    "keep",
    [
        lambda key: not key.startswith(("layer3", "layer4")),
        lambda key: key.startswith(("layer3", "layer4")),
        lambda key: "conv" in key,
        lambda key: list(R18).index(key) % 2 == 0,
    ],
)
def test_missing_keys_are_listed(keep):
    shapes = {key: shape for key, shape in R18.items() if keep(key)}
    with pytest.raises(DataError, match=r"^my.pth .*missing keys: \d+ of \d+ \(encoder\..* and \d+ more\)"):
        recognize_trunk(shapes, "my.pth", "encoder.")


def test_extra_trunk_keys():
    shapes = {**R18, "layer1.0.se.weight": (64, 64), "layer1.0.se.bias": (64,)}
    with pytest.raises(DataError, match=r"unexpected keys: 2 \(encoder.layer1.0.se.weight, encoder.layer1.0.se.b"):
        recognize_trunk(shapes, "file", "encoder.")


@pytest.mark.parametrize(
    ("key", "shape"),
    [("layer2.0.conv1.weight", (128, 64, 1, 1)), ("conv1.weight", (32, 3, 7, 7)), ("layer4.1.bn2.running_var", (1,))],
)
def test_shape_mismatch(key, shape):
    with pytest.raises(DataError, match=rf"mismatched shapes: 1 \({key} is .{str(shape)[1:-1]}., not"):
        recognize_trunk({**R18, key: shape}, "file")


def test_unknown_resnet():
    r26 = {key: s for key, s in trunk_shapes("resnet50", "imagenet").items() if key.split(".")[1] not in "2345"}
    with pytest.raises(
        DataError, match=r"unknown architecture \(bottleneck blocks \(2, 2, 2, 2\).*Supported: resnet18"
    ):
        recognize_trunk(r26, "file")


def test_another_normalization_than_batch_normalization():
    shapes = {key: shape for key, shape in R18.items() if "running" not in key and "num_batches" not in key}
    with pytest.raises(DataError, match=r"another than batch normalization, such as group normalization"):
        recognize_trunk(shapes, "my.pth")
