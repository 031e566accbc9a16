import argparse
import json
import re
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from simsiam_eval.encoders.backbones import fallback
from simsiam_eval.encoders.backbones.timm_backbone import TimmEncoder, build_timm, timm_encoder
from simsiam_eval.encoders.checkpoint import inspect_checkpoint, load_encoder
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.recognition.timm_images import timm_preprocessing
from simsiam_eval.encoders.report import weights_sha256
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.images.transform import as_opened_image

timm = pytest.importorskip("timm")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a socket was opened"))


def saved(folder, name, **arguments):
    torch.manual_seed(0)
    network = timm.create_model(name, **{"num_classes": 7} | arguments).eval()
    path = folder / f"{name}.pth"
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, path)
    return network, path


def images(channels=3, side=64):
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "pooling", "classifier"),
    [("test_resnet", "avg", "fc"), ("test_vit", "cls", "head"), ("test_vit2", "mean", "head"),
     ("test_convnext", "avg", "head.fc"), ("test_efficientnet", "avg", "classifier")],
)  # fmt: skip
def test_features_equal_those_of_timm(tmp_path, name, pooling, classifier):
    network, path = saved(tmp_path, name)
    encoder, report = load_encoder(f"timm:{name}@{path}")
    side = 64 if encoder.side is None else encoder.side[0]
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(images(side=side)), pre_logits=True)
        torch.testing.assert_close(encoder(images(side=side)), expected, rtol=0, atol=1e-5)
    assert encoder.pooling == pooling
    assert encoder.width == expected.shape[1] == report.feature_width
    assert report.arch == f"timm:{name}"
    assert report.skipped == {f"{classifier}.weight": "the classifier", f"{classifier}.bias": "the classifier"}
    assert len(report.loaded) == len(network.state_dict()) - 2
    assert report.weights_sha256 == weights_sha256(encoder.trunk.state_dict(), report.computation)
    config = timm.get_pretrained_cfg(name)
    assert report.normalization == {"mean": list(config.mean), "std": list(config.std)}


def test_loading_leaves_the_random_state_as_it_was(tmp_path):
    _, path = saved(tmp_path, "test_resnet")
    before = torch.get_rng_state()
    load_encoder(f"timm:test_resnet@{path}")
    assert torch.equal(torch.get_rng_state(), before)


def test_poolings_of_a_transformer(tmp_path):
    network, path = saved(tmp_path, "test_vit")
    expected = []
    for kind in ("token", "avg"):
        network.reset_classifier(0, kind)
        with torch.no_grad():
            expected.append(network(images(side=160)))
    cls, mean = expected
    for pooling, features in (("cls", cls), ("mean", mean), ("cls+mean", torch.cat(expected, dim=1))):
        encoder, _ = load_encoder(f"timm:test_vit@{path}", pooling=pooling)
        with torch.no_grad():
            torch.testing.assert_close(encoder(images(side=160)), features, rtol=0, atol=1e-5)
        assert encoder.width == features.shape[1]
    with pytest.raises(UsageError, match=r"--pool avg cannot be used with timm:.*expected one of cls, mean, cls\+mean"):
        load_encoder(f"timm:test_vit@{path}", pooling="avg")
    _, path = saved(tmp_path, "test_vit2")
    with pytest.raises(UsageError, match="--pool cls cannot be used with timm:test_vit2; expected one of mean"):
        load_encoder(f"timm:test_vit2@{path}", pooling="cls")


def test_maximum_over_feature_maps(tmp_path):
    network, path = saved(tmp_path, "test_resnet")
    encoder, _ = load_encoder(f"timm:test_resnet@{path}", pooling="max")
    with torch.no_grad():
        expected = network.forward_features(images()).amax(dim=(2, 3))
        torch.testing.assert_close(encoder(images()), expected)


def test_layers_of_a_resnet(tmp_path):
    network, path = saved(tmp_path, "resnet10t")
    names = ("stem", "layer1", "layer2", "layer3", "layer4", "pool")
    encoder, _ = load_encoder(f"timm:resnet10t@{path}", names)
    with torch.no_grad():
        features = encoder.all_layers(images())
        maps = [network.maxpool(network.act1(network.bn1(network.conv1(images()))))]
        maps += network.forward_intermediates(images(), indices=[1, 2, 3, 4], intermediates_only=True)
    assert encoder.widths == tuple(layer.shape[1] for layer in features)
    for layer, stage in zip(features, [*maps, maps[-1]], strict=True):
        torch.testing.assert_close(layer, stage.mean(dim=(2, 3)))
    _, path = saved(tmp_path, "test_vit")
    with pytest.raises(UsageError, match="--layer layer2 cannot be used with timm:test_vit; expected pool"):
        load_encoder(f"timm:test_vit@{path}", "layer2")


def test_image_size_and_channels_come_from_the_weights(tmp_path):
    _, path = saved(tmp_path, "vit_tiny_patch16_224", img_size=32, in_chans=1)
    encoder, report = load_encoder(f"timm:vit_tiny_patch16_224@{path}")
    assert encoder(images(channels=1, side=32)).shape == (2, 192)
    assert report.variant == {"channels": 1}
    assert report.preprocessing["crop"] == 32
    assert report.preprocessing["channels"] == 1
    with pytest.raises(UsageError, match="takes images of 32 x 32 pixels, got 64 x 64; use --crop 32"):
        encoder(images(channels=1))


def test_a_hub_folder_says_arguments_and_preprocessing(tmp_path):
    network = timm.create_model("test_vit", num_classes=7, patch_size=8)
    folder = tmp_path / "hub"
    folder.mkdir()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    config = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 1.0}
    content = {"architecture": "test_vit", "model_args": {"patch_size": 8}, "pretrained_cfg": config}
    (folder / "config.json").write_text(json.dumps(content))
    encoder, report = load_encoder(f"timm:test_vit@{folder}")
    assert encoder.trunk.patch_embed.patch_size == (8, 8)
    assert report.normalization == {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    assert report.normalization_from == "config.json"
    with pytest.raises(DataError, match="has the network test_vit, not test_resnet"):
        load_encoder(f"timm:test_resnet@{folder}")


def test_a_hub_folder_with_a_tag_and_an_image_size(tmp_path):
    _, path = saved(tmp_path, "test_resnet")
    config = {"architecture": "test_resnet.r160_in1k", "pretrained_cfg": {"input_size": [3, 96, 96], "crop_pct": 1.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, report = load_encoder(f"timm:test_resnet.r160_in1k@{path}")
    assert report.preprocessing["crop"] == report.preprocessing["resize"] == 96
    advice = re.escape(f"not test_vit; use timm:test_resnet@{path}.")
    with pytest.raises(DataError, match=advice):
        load_encoder(f"timm:test_vit@{path}")


def test_a_training_script_says_the_preprocessing(tmp_path):
    network, path = saved(tmp_path, "test_resnet")
    args = argparse.Namespace(
        model="test_resnet", mean=[0.1] * 3, std=None, interpolation="bicubic", crop_pct=0.5, img_size=64
    )
    torch.save({"state_dict": network.state_dict(), "args": args}, path)
    _, report = load_encoder(f"timm:test_resnet@{path}")
    prepared = report.preprocessing
    assert (prepared["crop"], prepared["resize"], prepared["interpolation"]) == (64, 128, "bicubic")
    assert report.normalization == {"mean": [0.1] * 3, "std": list(timm.get_pretrained_cfg("test_resnet").std)}
    assert report.normalization_from == "the arguments of timm's train.py"


def test_the_image_size_comes_from_the_branch_that_is_chosen(tmp_path):
    states = [timm.create_model("test_vit", num_classes=0, img_size=side).state_dict() for side in (64, 96)]
    torch.save({"model": dict(zip(("student", "teacher"), states, strict=True))}, tmp_path / "both.pth")
    for branch, side in (("teacher", 96), ("student", 64)):
        choice = EncoderChoice(f"timm:test_vit@{tmp_path / 'both.pth'}", branch=f"model.{branch}")
        assert load_encoder(choice)[1].preprocessing["crop"] == side


def test_weights_under_their_authors_names_in_a_branch(tmp_path, monkeypatch):
    weights = timm.create_model("test_vit", num_classes=0).state_dict()
    student = {key.replace("blocks", "layers"): value for key, value in weights.items()}
    teacher = {key: value + 1 for key, value in student.items()}
    torch.save({"model": {"student": student, "teacher": teacher}}, tmp_path / "both.pth")

    def rename(state, model):
        return {key.replace("layers", "blocks"): value for key, value in state.items()}

    monkeypatch.setattr("timm.models.vision_transformer.checkpoint_filter_fn", rename)
    path = f"timm:test_vit@{tmp_path / 'both.pth'}"
    for branch, shift in ((None, 1), ("teacher", 1), ("student", 0)):
        encoder, report = load_encoder(EncoderChoice(path, branch=branch))
        assert torch.equal(encoder.trunk.norm.weight, weights["norm.weight"] + shift)
        assert report.branches == ("student", "teacher")
    with pytest.raises(UsageError, match="no network --branch nobody; expected one of student; teacher"):
        load_encoder(EncoderChoice(path, branch="nobody"))


def test_weights_that_are_not_complete_are_rejected(tmp_path):
    network, path = saved(tmp_path, "test_resnet")
    weights = network.state_dict()
    for change, message in (
        ({"layer5.weight": torch.zeros(2)}, r"1 key that the network does not have \(layer5.weight\)"),
        ({"conv1.0.weight": None}, r"missing keys: 1 of \d+ \(conv1.0.weight\)"),
        ({"bn1.weight": torch.zeros(5)}, r"mismatched shapes: 1 \(bn1.weight is \(5,\)"),
        ({"bn1.weight": weights["bn1.weight"] * np.nan}, "NaN or infinite weights in bn1.weight"),
    ):
        torch.save({key: value for key, value in (weights | change).items() if value is not None}, path)
        with pytest.raises(DataError, match=message):
            load_encoder(f"timm:test_resnet@{path}")


def test_of_two_complete_networks_the_branch_or_the_role_chooses(tmp_path):
    network, path = saved(tmp_path, "test_resnet")
    other = {key: value + 1 for key, value in network.state_dict().items()}
    torch.save({"state_dict": network.state_dict(), "state_dict_ema": other}, path)
    name = f"timm:test_resnet@{path}"
    encoder, report = load_encoder(name)
    assert torch.equal(encoder.trunk.conv1[0].weight, network.state_dict()["conv1.0.weight"])
    assert (report.branch, report.branches) == ("state_dict", ("state_dict", "state_dict_ema"))
    assert report.skipped["state_dict_ema"] == "another network: --branch state_dict_ema"
    for branch in ("state_dict_ema", "ema", "momentum"):
        encoder, _ = load_encoder(EncoderChoice(name, branch=branch))
        assert torch.equal(encoder.trunk.conv1[0].weight, other["conv1.0.weight"])
    with pytest.raises(UsageError, match="no network --branch teacher; expected one of state_dict; state_dict_ema"):
        load_encoder(EncoderChoice(name, branch="teacher"))


def test_two_networks_without_roles_need_a_choice(tmp_path):
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    torch.save({"left": state, "right": {key: value + 1 for key, value in state.items()}}, tmp_path / "both.pth")
    name = f"timm:test_vit@{tmp_path / 'both.pth'}"
    with pytest.raises(DataError, match=r"2 encoders and .* choose one with --branch: left; right"):
        load_encoder(name)
    assert load_encoder(EncoderChoice(name, branch="right"))[1].branch == "right"


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
def test_two_networks_in_one_state_dict(tmp_path, arch):
    state = timm.create_model(arch, num_classes=0).state_dict()
    key = next(iter(state))
    both = {f"module.{name}.{key}": value + shift for shift, name in enumerate(("teacher", "student"))
            for key, value in state.items()}  # fmt: skip
    torch.save({"state_dict": both, "epoch": 3}, tmp_path / "both.pth")
    name = f"timm:{arch}@{tmp_path / 'both.pth'}"
    for branch, expected in ((None, "teacher"), ("student", "student"), ("state_dict.student", "student")):
        encoder, report = load_encoder(EncoderChoice(name, branch=branch))
        assert torch.equal(encoder.trunk.state_dict()[key], state[key] + (expected == "student"))
        assert (report.branch, report.branches) == (expected, ("teacher", "student"))
        assert report.epoch == 3


def test_an_encoder_of_bgr_images_is_rejected(tmp_path):
    _, path = saved(tmp_path, "test_resnet")
    for flag in ("True", "False"):
        torch.save(torch.load(path) | {"meta": {"cfg": f"norm = dict(to_rgb={flag})"}}, tmp_path / f"{flag}.pth")
    load_encoder(f"timm:test_resnet@{tmp_path / 'True.pth'}")
    with pytest.raises(DataError, match=r"says in meta\.cfg that its encoder takes BGR images; expected RGB"):
        load_encoder(f"timm:test_resnet@{tmp_path / 'False.pth'}")


def test_options_without_a_meaning_are_rejected(tmp_path):
    _, path = saved(tmp_path, "test_resnet")
    name = f"timm:test_resnet@{path}"
    for option, value in (("branch", "teacher"), ("arch", "resnet50"), ("channel_order", "bgr"), ("stem_stride", 1)):
        with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} "):
            load_encoder(EncoderChoice(name, **{option: value}))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("timm:test_resne", UsageError, "timm has no network 'test_resne'; did you mean test_resnet"),
        (
            "timm:test_resnet.none",
            UsageError,
            "timm has no weights 'test_resnet.none'; expected one of test_resnet.r160",
        ),
        ("timm:test_resnet", DataError, "not in the local cache; give timm:test_resnet@FILE, or --download"),
        ("timm:resnet14t@missing.pth", DataError, "missing.pth does not exist"),
    ],
)
def test_missing_networks_and_weights(tmp_path, monkeypatch, name, error, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(error, match=message):
        inspect_checkpoint(name)


def test_cached_weights_are_found_without_a_download(tmp_path, monkeypatch):
    network, path = saved(tmp_path, "test_resnet")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name, **_: str(path))
    encoder, report = load_encoder("timm:test_resnet")
    assert torch.equal(encoder.trunk.conv1[0].weight, network.conv1[0].weight)
    assert report.path == "timm:test_resnet"


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_preprocessing_is_that_of_timm(name):
    config = timm.get_pretrained_cfg(name).to_dict()
    ours, _ = timm_preprocessing(config)
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (190, 250, 3), dtype=np.uint8))
    normalized = ours.normalize(ours.pixels(as_opened_image(image))[None])[0]
    assert (normalized - theirs(image)).abs().max() <= 2.01 / 255 / 0.5


def test_state_dict_of_a_trunk():
    network = build_timm("resnet10t", channels=4).eval()
    weights = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    encoder = timm_encoder("resnet10t", weights, in_chans=4, layers=("layer2", "pool"), pooling="max")
    assert isinstance(encoder, TimmEncoder)
    assert encoder.all_layers(images(channels=4))[1].shape == (2, 512)
    with pytest.raises(DataError, match="The weights are not those of timm:resnet14t"):
        timm_encoder("timm:resnet14t", weights, in_chans=4)


@pytest.mark.parametrize("form", ["args", "config.json"])
def test_the_name_that_a_file_states_decides_between_networks_of_the_same_keys(tmp_path, monkeypatch, form):
    network, path = saved(tmp_path, "resnet10t")
    monkeypatch.setattr(fallback, "timm_architectures_for", lambda _: ["resnet14t", "resnet10t"])
    with pytest.raises(UsageError, match="choose one with --arch: resnet14t, resnet10t"):
        inspect_checkpoint(path)
    if form == "args":
        torch.save({"state_dict": network.state_dict(), "args": argparse.Namespace(model="resnet10t")}, path)
    else:
        (tmp_path / "config.json").write_text('{"architecture": "resnet10t"}')
    assert inspect_checkpoint(path).arch == "timm:resnet10t"


def test_selective_kernels_are_recognized(tmp_path):
    _, path = saved(tmp_path, "skresnet18")
    assert inspect_checkpoint(path).arch == "timm:skresnet18"
