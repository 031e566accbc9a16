"""A file that does not agree is not written, and the comparison is stored in its metadata."""

import logging

import numpy as np
import pytest
import safetensors
import torch

from simsiam_eval.encoders.architectures import TrunkVariant
from simsiam_eval.encoders.export.comparison import Samples, compare
from simsiam_eval.encoders.export.export import export_encoder
from simsiam_eval.encoders.export.state_dicts import Timm, Torchvision
from simsiam_eval.encoders.export.targets import TARGETS
from simsiam_eval.encoders.export.writer import Writer, quiet
from simsiam_eval.errors import DataError
from simsiam_eval.images.preprocess import Preprocessing, preprocessing_for


def test_metadata_says_how_far_it_is(exported, tmp_path):
    exported("safetensors", "a.safetensors")
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["compared_with"].startswith("torchvision ")
    assert (metadata["largest_difference"], metadata["compared_images"], metadata["arch"]) == ("0", "2", "resnet18")
    assert float(metadata["min_cosine"]) == pytest.approx(1)


def test_other_features_are_not_written(exported, tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_text("before")
    right = Torchvision.features
    monkeypatch.setattr(Torchvision, "features", lambda *given: right(*given) * 1.001)
    with pytest.raises(
        DataError, match=r"a.pth was not written: torchvision .* relative 0.001, tolerance 1e-06; .* 1.000000"
    ):
        exported("torchvision", "a.pth")
    monkeypatch.setattr(Torchvision, "features", lambda *given: right(*given)[:1])
    with pytest.raises(DataError, match=r"features of shape \(1, 512\), the encoder \(2, 512\)"):
        exported("torchvision", "a.pth")
    assert (tmp_path / "a.pth").read_text() == "before"
    assert not list(tmp_path.glob(".*"))


def test_the_file_with_the_comparison_in_its_metadata_is_compared_too(exported, tmp_path, monkeypatch):
    right, factors = Torchvision.features, iter((1, 1.001))
    monkeypatch.setattr(Torchvision, "features", lambda *given: right(*given) * next(factors))
    with pytest.raises(DataError, match=r"a.pth was not written"):
        exported("torchvision", "a.pth")
    assert not (tmp_path / "a.pth").exists()


def test_other_weights_are_not_written(exported, tmp_path, monkeypatch):
    read = Torchvision.weights
    monkeypatch.setattr(Torchvision, "weights", lambda *given: read(*given) | {"bn1.bias": torch.ones(64)})
    with pytest.raises(
        DataError, match=r"a.pth was not written: what was read back are not the weights of .*trunk.pth"
    ):
        exported("torchvision", "a.pth")
    assert not (tmp_path / "a.pth").exists()


def test_without_the_library_the_note_says_so(exported, monkeypatch):
    monkeypatch.setattr(Timm, "missing", lambda _: "timm is not installed")
    export, _, _ = exported("timm", "a.pth")
    assert export.comparison is None
    assert export.notes[-1] == "Not compared with timm: timm is not installed."


def test_quiet_blocks_nest():
    with quiet():
        with quiet():
            pass
        assert not logging.getLogger("openvino").isEnabledFor(logging.WARNING)
    assert logging.getLogger("openvino").isEnabledFor(logging.WARNING)


def test_nan_does_not_agree():
    comparison = compare("a", torch.tensor([[float("nan"), 1.0]]), torch.ones(1, 2))
    assert not comparison.relative_difference <= 1


def test_dead_encoder_is_equal_to_itself():
    comparison = compare("a", torch.zeros(2, 3), torch.zeros(2, 3))
    assert (comparison.largest_difference, comparison.relative_difference, comparison.min_cosine) == (0, 0, 1)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_samples_for_encoders_of_other_channels(channels):
    normalization = {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    preprocessing = Preprocessing(resize=4, crop=4, channels=channels, **normalization)
    samples = Samples([np.full((5, 9, 3), 255, dtype=np.uint8)], preprocessing)
    assert torch.equal(samples.normalized, torch.full((1, channels, 4, 4), 2.0))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_every_target_has_a_writer(target):
    module, _, name = target.writer.partition(":")
    assert issubclass(getattr(__import__(module, fromlist=[name]), name), Writer)


def test_an_assumed_normalization_is_not_written(conversion, images):
    assumed = preprocessing_for("imagenet", None, channels=13)
    given = conversion(assumed, variant=TrunkVariant(channels=13))
    with pytest.raises(DataError, match="images of 13 channels were normalized; give --mean and --std"):
        export_encoder(given, TARGETS["torch-export"], Samples(images, assumed))
    assert not given.out.exists()
