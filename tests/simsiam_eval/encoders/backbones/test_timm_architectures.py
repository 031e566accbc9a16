import pytest
import torch

from simsiam_eval.encoders.backbones.timm_architectures import timm_architectures_for

timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "channels", "expected"),
    [
        ("resnet14t", 1, ["resnet14t"]),
        ("resnet10t", 3, ["resnet10t"]),
        ("test_resnet", 4, ["test_resnet"]),
        ("resnet26", 3, ["resnet26"]),
        ("skresnet18", 3, ["skresnet18"]),
        ("vit_tiny_patch16_224", 3, []),
    ],
)
def test_networks_with_these_keys_and_shapes(name, channels, expected):
    with torch.device("meta"):
        network = timm.create_model(name, in_chans=channels, num_classes=5)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert timm_architectures_for(shapes) == expected
    shapes = {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}
    assert timm_architectures_for(shapes) == expected
    shapes.popitem()
    assert timm_architectures_for({key: shape for key, shape in shapes.items() if key != "bn1.weight"}) == []
