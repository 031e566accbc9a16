"""Plain ResNets in files of timm get timm's preprocessing, as real timm has it."""

import argparse
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.images.transform import as_opened_image

timm = pytest.importorskip("timm")

NETWORKS = ("resnet18", "resnet34.tv_in1k")
# Every argument of timm's train.py that has to do with images, as it is if none is given.
TRAIN = {
    "img_size": None, "in_chans": None, "input_size": None, "crop_pct": None, "mean": None, "std": None,
    "interpolation": "", "train_interpolation": "random", "gp": None, "model_kwargs": {},
}  # fmt: skip


@pytest.fixture
def photograph():
    small = np.random.default_rng(0).integers(0, 256, (19, 25, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((250, 190), Image.Resampling.BILINEAR)


@pytest.fixture
def compared(photograph):
    """compared(path, timm's network, timm's transform) -> the report; features of both ways to name the file are timm's."""

    def compare(path, name, network, transform):
        theirs = transform(photograph)
        for checkpoint in (str(path), f"timm:{name}@{path}"):
            encoder, report = load_encoder(checkpoint)
            prepared = ExtractionOptions().preprocessing(report)
            images = prepared.normalize(prepared.pixels(as_opened_image(photograph))[None])
            assert not prepared.is_assumed
            assert ((images[0] - theirs).abs().amax(dim=(1, 2)) * torch.tensor(prepared.std) * 255).max() < 2.1
            with torch.no_grad():
                expected = network.forward_head(network.forward_features(theirs[None]), pre_logits=True)
                assert (encoder(images) - expected).abs().max() < 2e-3 * expected.abs().max()
        plain, named = load_encoder(path)[1], load_encoder(f"timm:{name}@{path}")[1]
        assert (plain.preprocessing, plain.normalization_from) == (named.preprocessing, named.normalization_from)
        return plain

    return compare


def transform_of(**values):
    return timm.data.create_transform(**values)


@pytest.mark.parametrize(
    "stated",
    [
        {},
        {"crop_pct": 0.8, "interpolation": "bilinear", "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.1)},
        {"input_size": (3, 96, 96), "test_input_size": (3, 128, 128), "crop_mode": "squash", "crop_pct": 1.0},
    ],
)
def test_hub_folders(tmp_path, compared, stated):
    from timm.models import save_for_hf

    torch.manual_seed(0)
    save_for_hf(timm.create_model("resnet18", num_classes=5, pretrained_cfg_overlay=stated), tmp_path / "hub")
    network = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(network)
    report = compared(tmp_path / "hub", "resnet18", network, transform_of(**data))
    assert report.normalization == {"mean": list(data["mean"]), "std": list(data["std"])}
    assert (report.stem, report.normalization_from, report.assumptions) == ("imagenet", "config.json", ())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"img_size": 96},
        {"img_size": 96, "input_size": [3, 64, 64], "mean": [0.5], "std": [0.25]},
        {"crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.1]},
    ],
)
def test_checkpoints_of_train_py(tmp_path, compared, name, given):
    torch.manual_seed(0)
    network, arguments = timm.create_model(name, num_classes=5).eval(), {"model": name} | TRAIN | given
    content = {"epoch": 1, "arch": name, "version": 2, "args": argparse.Namespace(**arguments)}
    torch.save(content | {"state_dict": network.state_dict()}, tmp_path / "last.pth.tar")
    data = timm.data.resolve_data_config(arguments, model=network)
    report = compared(tmp_path / "last.pth.tar", name, network, transform_of(**data))
    assert report.normalization_from == (
        "the arguments of timm's train.py" if given else "timm's configuration of the network"
    )
    assert report.assumptions == ()  # its arguments name the network


def test_what_ours_cannot_do_is_named(tmp_path):
    config = {"input_size": [3, 128, 64], "crop_mode": "border", "interpolation": "lanczos", "crop_pct": 1.0}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": config}))
    torch.save(resnet18().state_dict(), tmp_path / "pytorch_model.bin")
    report = load_encoder(tmp_path)[1]
    assert [sentence.split(" ")[3:] for sentence in report.assumptions] == [
        ["with", "bilinear,", "not", "lanczos,", "interpolation."],
        ["at", "the", "center;", "timm's", "crop", "mode", "is", "border."],
        ["to", "64", "x", "64", "pixels;", "timm's", "are", "128", "x", "64."],
    ]


def test_old_folders_have_the_values_beside_the_architecture(tmp_path):
    config = {"architecture": "resnet18", "input_size": [3, 160, 160], "crop_pct": 0.8, "interpolation": "bilinear"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(resnet18().state_dict(), tmp_path / "pytorch_model.bin")
    assert load_encoder(tmp_path)[1].preprocessing["resize"] == 200


def test_without_timm_what_it_knows_of_the_network_is_assumed(tmp_path, monkeypatch):
    def missing(name):
        raise UsageError("Networks of timm require timm: pip.")

    monkeypatch.setattr("simsiam_eval.encoders.recognition.timm_images.timm_config", missing)
    arguments = argparse.Namespace(model="resnet18", img_size=96, mean=None)
    torch.save({"state_dict": resnet18().state_dict(), "version": 2, "args": arguments}, tmp_path / "last.pth.tar")
    report = load_encoder(tmp_path / "last.pth.tar")[1]
    assert report.preprocessing["crop"] == 96
    assert report.assumptions == (
        "Assumed timm's usual preprocessing, since that of resnet18 is not known (Networks of timm require timm: pip).",
    )


@pytest.mark.parametrize("channels", [1, 4])
def test_a_mean_of_other_channels_is_averaged_or_missing(tmp_path, channels):
    config = {"input_size": [channels, 224, 224], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": config}))
    network = timm.create_model("resnet18", in_chans=channels)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    for checkpoint in (str(tmp_path), f"timm:resnet18@{tmp_path}"):
        report = load_encoder(checkpoint)[1]
        prepared = ExtractionOptions().preprocessing(report)
        assert (prepared.crop, prepared.channels, prepared.is_assumed) == (224, channels, True)
        assert len(prepared.mean) == channels
        said = "Assumed the average of the mean" if channels == 1 else "features require --mean and --std"
        assert said in report.assumptions[-1]


def test_options_replace_what_the_file_says(tmp_path):
    config = {"input_size": [3, 96, 96], "crop_pct": 1.0, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": config}))
    torch.save(resnet18().state_dict(), tmp_path / "pytorch_model.bin")
    report = load_encoder(tmp_path)[1]
    chosen = ExtractionOptions(resize=128, crop=64, mean=(0.5,), std=(0.25,)).preprocessing(report)
    assert (chosen.resize, chosen.crop, chosen.interpolation) == (128, 64, "bicubic")
    assert (chosen.mean, chosen.std) == ((0.5,) * 3, (0.25,) * 3)
    assert ExtractionOptions(transform="imagenet").preprocessing(report).mean == (0.1, 0.2, 0.3)
    reversed_ = load_encoder(EncoderChoice(str(tmp_path), channel_order="bgr"))[1]
    assert reversed_.preprocessing["mean"] == reversed_.normalization["mean"] == [0.3, 0.2, 0.1]


def test_arguments_of_other_scripts_are_not_timms(tmp_path):
    arguments = argparse.Namespace(model="resnet18", interpolation="bicubic", val_resize_size=256)  # torchvision's
    torch.save({"model": resnet18().state_dict(), "args": arguments, "epoch": 1}, tmp_path / "model.pth")
    assert load_encoder(tmp_path / "model.pth")[1].preprocessing is None
