"""ResNet-18s whose batch normalization has real statistics, and a function that exports them."""

import functools
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images

from simsiam_eval.encoders.architectures import TRUNK
from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.encoders.export.comparison import Samples
from simsiam_eval.encoders.export.export import export_encoder
from simsiam_eval.encoders.export.targets import TARGETS
from simsiam_eval.encoders.export.writer import Conversion
from simsiam_eval.images.preprocess import Preprocessing

SMALL = Preprocessing(resize=40, crop=36)


@pytest.fixture(scope="session")
def new_encoder(tmp_path_factory):
    """new_encoder(arch="resnet18", stem="cifar") -> an encoder that was loaded from a file, and its report.

    The variant is set on the encoder as if the file had said it. The same arguments give the same encoder, made once.
    """
    folder = tmp_path_factory.mktemp("encoders")

    @functools.cache
    def make(arch="resnet18", stem="imagenet", variant=TRUNK):
        torch.manual_seed(0)
        trunk = build_trunk(arch, stem)
        for key, value in trunk.state_dict().items():
            if "running" in key:
                value.uniform_(-0.2, 0.2) if "mean" in key else value.uniform_(0.5, 1.5)
        torch.save(trunk.state_dict(), folder / "trunk.pth")
        encoder, report = load_encoder(folder / "trunk.pth")
        if variant != TRUNK:
            changed = build_trunk(arch, stem, variant=variant)
            state = encoder.trunk.state_dict()
            state["conv1.weight"] = changed.conv1.weight.detach()
            changed.load_state_dict(state)
            encoder = type(encoder)(changed, arch, stem, variant=variant).eval()
        return encoder, report

    return make


@pytest.fixture(scope="session")
def images():
    """A photograph and a handwritten digit, (H,W,3) uint8."""
    digit = (load_digits().images[0] * 15.9375).astype("uint8")
    return [load_sample_images().images[0], digit[:, :, None].repeat(3, 2)]


@pytest.fixture(scope="session")
def export_to(new_encoder, images):
    """export_to(path, "onnx", stem="cifar") -> (the Export, the encoder, the samples)."""

    def export(path, target, preprocessing=SMALL, preprocessing_in="outside", opset=18, **of_encoder):
        encoder, report = new_encoder(**of_encoder)
        channels = encoder.variant.channels
        mean, std = ((values * 2)[:channels] for values in (preprocessing.mean, preprocessing.std))
        preprocessing = replace(preprocessing, channels=channels, mean=mean, std=std)
        samples = Samples(images, preprocessing)
        assert samples.features(encoder).std(dim=0).max() > 0.05  # features of a dead encoder always agree
        conversion = Conversion(encoder, report, preprocessing, path, preprocessing_in, opset)
        return export_encoder(conversion, TARGETS[target], samples), encoder, samples

    return export


@pytest.fixture
def conversion(new_encoder, tmp_path):
    """conversion(Preprocessing(), variant=...) -> what to write."""
    return lambda preprocessing, **of_encoder: Conversion(
        *new_encoder(**of_encoder), preprocessing, tmp_path / "encoder"
    )


@pytest.fixture
def exported(export_to, tmp_path):
    """exported("onnx", "a.onnx", stem="cifar"), as export_to, in the folder of the test."""
    return lambda target, name, *options, **of_encoder: export_to(tmp_path / name, target, *options, **of_encoder)
