"""A ResNet-18 whose batch normalization has real statistics, and a function that exports it."""

from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images

from simsiam_eval.encoders.architectures import TRUNK
from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.encoders.export.comparison import Samples
from simsiam_eval.encoders.export.export import export_encoder, writer_of
from simsiam_eval.encoders.export.writer import Subject
from simsiam_eval.images.preprocess import Preprocessing

SMALL = Preprocessing(resize=40, crop=36)


def new_encoder(folder, arch="resnet18", stem="imagenet", variant=TRUNK):
    """An encoder and its report; the variant is set on both, as if the file had said it."""
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


@pytest.fixture(scope="session")
def images():
    """A photograph and a handwritten digit, (H,W,3) uint8."""
    digit = (load_digits().images[0] * 15.9375).astype("uint8")
    return [load_sample_images().images[0], digit[:, :, None].repeat(3, 2)]


@pytest.fixture
def subject(tmp_path):
    """subject(Preprocessing(), variant=...) -> the Subject of a new encoder."""
    return lambda preprocessing, **of_encoder: Subject(*new_encoder(tmp_path, **of_encoder), preprocessing)


@pytest.fixture
def exported(tmp_path, images):
    """exported("onnx", "a.onnx", stem="cifar") -> (the Export, the encoder, the samples)."""

    def export(target, name, preprocessing=SMALL, preprocessing_in="outside", opset=18, **of_encoder):
        encoder, report = new_encoder(tmp_path, **of_encoder)
        channels = encoder.variant.channels
        mean, std = ((values * 2)[:channels] for values in (preprocessing.mean, preprocessing.std))
        preprocessing = replace(preprocessing, channels=channels, mean=mean, std=std)
        writer = writer_of(target, Subject(encoder, report, preprocessing, preprocessing_in, opset))
        samples = Samples(images, preprocessing)
        assert samples.features(encoder).std(dim=0).max() > 0.05  # features of a dead encoder always agree
        return export_encoder(tmp_path / name, target, writer, samples), encoder, samples

    return export
