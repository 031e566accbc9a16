"""Commands with an encoder of timm."""

import pytest
import torch

import simsiam_eval as se
from simsiam_eval.errors import UsageError

timm = pytest.importorskip("timm")

SIZES = {"resize": 32, "crop": 32, "extract_batch": 64}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("timm") / "weights.pth"
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return f"timm:test_resnet@{path}"


def test_a_feature_file_of_a_timm_network(checkpoint, tmp_path):
    out = tmp_path / "test.h5"
    features = se.extract(checkpoint, "digits#test", out=out, **SIZES)
    assert features.attributes["encoder"]["arch"] == "timm:test_resnet"
    assert features.attributes["encoder"]["stem"] is None
    assert features.attributes["encoder"]["pooling"] == "avg"
    assert features.attributes["preprocessing"]["mean"] == [0.5] * 3
    assert se.verify(out, checkpoint=checkpoint, data="digits#test").metrics
    encoder = se.load_encoder(checkpoint)
    in_memory = se.extract(encoder, "digits#test", **SIZES)
    assert abs(in_memory.X - features.X[:]).max() < 1e-5
    assert se.knn(train=str(out), test=str(out), checkpoint=checkpoint, k=5).metrics


@pytest.mark.parametrize("protocol", [{"end_to_end": True}])
def test_linear_evaluation_from_images(checkpoint, protocol, tmp_path, monkeypatch):
    monkeypatch.setenv("SIMSIAM_EVAL_CACHE", str(tmp_path))
    result = se.linear_eval(
        train="digits", test="digits#test", checkpoint=checkpoint, preset="small", epochs=1, **SIZES, **protocol
    )
    assert result.metrics


def test_conversion_for_torchvision_requires_its_resnet(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="timm:test_resnet from its weights; expected a ResNet of torchvision"):
        se.convert(checkpoint, to="torchvision", out=tmp_path / "out.pth")


def test_inspection(checkpoint):
    result = se.inspect(checkpoint)
    assert result.metrics["arch"] == "timm:test_resnet"
    assert result.metrics["assumptions"] == ["Features are pooled as avg."]
    assert result.metrics["normalization_from"] == "timm's configuration of the network"
