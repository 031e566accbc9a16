"""Labels of the weights that runs start from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.options import ExtractionOptions
from tasks.detection.backends.torchvision.model import build_detector
from tasks.detection.detector_spec import DetectorSpec
from tasks.detection.initialization import inspect_initializations, labeled_checkpoints
from tasks.detection.settings import DetectSettings

DEFAULTS = ExtractionOptions()
SPEC = DetectorSpec("fpn", False, ("a", "b"), (96,), 96, 128, (100, 100), (50, 50), 16, 2)


def test_labels_come_from_names_and_files():
    assert list(labeled_checkpoints("c.pth", ("random", "a/x.pth", "b/x.pth.tar"))) == [
        "encoder", "random", "x-2", "x-3",
    ]  # fmt: skip
    assert labeled_checkpoints(None, ("supervised=a/x.pth", "runs/lr=1/x.pth", "x=b.pth")) == {
        "supervised": "a/x.pth", "x-1": "runs/lr=1/x.pth", "x": "b.pth",
    }  # fmt: skip
    assert list(labeled_checkpoints(None, ("a/random.pth",))) == ["random-0"]


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (("random=a.pth",), "--init random=a.pth: the name random is reserved"),
        (("random", "random"), "given twice"),
        (("a=x", "a=y"), "the name a is already used"),
    ],
)
def test_ambiguous_labels_are_rejected(init, message):
    with pytest.raises(UsageError, match=message):
        labeled_checkpoints(None, init)


def test_existing_file_with_an_equals_sign_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=1.pth").touch()
    assert labeled_checkpoints(None, ("lr=1.pth",)) == {"lr=1": "lr=1.pth"}


def test_random_weights_have_the_architecture_of_the_first_checkpoint(checkpoint):
    encoder, random = inspect_initializations(
        {"encoder": EncoderChoice.of(checkpoint), "random": None}, "resnet50", "imagenet", DEFAULTS
    )
    assert (random.arch, random.stem) == (encoder.arch, encoder.stem) == ("resnet18", "cifar")
    assert random.to_dict() == {"arch": "resnet18", "stem": "cifar"}
    assert encoder.identity == encoder.to_dict()["weights_sha256"]
    (random,) = inspect_initializations({"random": None}, "resnet34", "imagenet", DEFAULTS)
    assert random.identity == "random resnet34 imagenet"


def test_images_are_normalized_as_the_encoder_was_trained(tmp_path):
    heads = {"projection_head.0.weight": torch.zeros(9, 512), "prototypes.weight": torch.zeros(5, 9)}
    torch.save(build_trunk("resnet18").state_dict() | heads, tmp_path / "swav.pth")
    choices = {"swav": EncoderChoice(str(tmp_path / "swav.pth")), "random": None}
    swav, random = inspect_initializations(choices, "", "", DEFAULTS)
    std = (0.228, 0.224, 0.225)
    assert swav.normalization() == {"mean": (0.485, 0.456, 0.406), "std": std}
    assert swav.to_dict()["normalization"]["std"] == list(std)
    assert random.normalization() == {}
    assert "normalization" not in random.to_dict()
    detector = build_detector(swav.encoder(0), replace(SPEC, **swav.normalization()))
    assert detector.transform.image_std == list(std)


def test_what_is_assumed_is_printed_and_recorded_unless_it_is_given(tmp_path, capsys):
    torch.save(build_trunk("resnet18").state_dict(), tmp_path / "bare.pth")
    choices = {"bare": EncoderChoice(str(tmp_path / "bare.pth"))}
    (bare,) = inspect_initializations(choices, "", "", DEFAULTS)
    (normalization,) = [text for text in bare.to_dict()["assumptions"] if "ImageNet's mean" in text]
    assert f"bare.pth: {normalization}" in capsys.readouterr().err
    (given,) = inspect_initializations(choices, "", "", ExtractionOptions(mean=(0.5,), std=(0.25,)))
    assert normalization not in given.to_dict()["assumptions"]
    assert given.normalization() == {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def test_random_weights_have_the_variant_of_the_first_checkpoint(checkpoint):
    choice = EncoderChoice(str(checkpoint), stem_padding=2)
    encoder, random = inspect_initializations({"encoder": choice, "random": None}, "resnet50", "imagenet", DEFAULTS)
    plain, other = inspect_initializations({"encoder": EncoderChoice.of(checkpoint), "random": None}, "", "", DEFAULTS)
    assert random.encoder(0).trunk.conv1.padding == encoder.encoder(0).trunk.conv1.padding == (2, 2)
    assert encoder.to_dict()["variant"] == random.to_dict()["variant"] == {"stem_padding": 2}
    assert encoder.identity != plain.identity
    assert random.identity != other.identity


def test_options_of_checkpoints_require_one():
    common = dict(train=("voc:a#train",), test="voc:a#test", out="runs")
    for init in (("random",), None):
        with pytest.raises(UsageError, match="--stem-padding requires --checkpoint"):
            DetectSettings(**common, init=init, stem_padding=2)
    with pytest.raises(UsageError, match="--mean requires --checkpoint"):
        DetectSettings(**common, init=("random",), mean=(0.5,), std=(0.5,))
    with pytest.raises(UsageError, match=r"--arch must be one of resnet18, .*, got 'resnet19'"):
        DetectSettings(**common, init=("random",), arch="resnet19")
    assert (
        DetectSettings(**common, init=("random", "a.pth"), branch="teacher").encoder_choice("a.pth").branch == "teacher"
    )
    assert DetectSettings(**common, init=("random",)).random_arch == "resnet50"
