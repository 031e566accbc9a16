import json
import socket

import pytest
import torch

from simsiam_eval.encoders.backbones.huggingface import _keys_in_network
from simsiam_eval.encoders.checkpoint import inspect_checkpoint, load_encoder
from simsiam_eval.errors import DataError, UsageError

transformers = pytest.importorskip("transformers")

SMALL = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16
)
CNN = dict(embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic")
R18 = dict(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
PREPROCESSOR = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 64, "width": 64}, "resample": 3}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a socket was opened"))


def saved(folder, kind, config, **arguments):
    torch.manual_seed(0)
    model = kind(config).eval()
    model.save_pretrained(folder, **arguments)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return model


@pytest.mark.parametrize(
    ("kind", "config", "pooling"),
    [
        ("ViTForImageClassification", ("ViTConfig", SMALL), "cls"),
        ("ViTModel", ("ViTConfig", SMALL), "mean"),
        ("Dinov2WithRegistersModel", ("Dinov2WithRegistersConfig", SMALL | {"num_register_tokens": 2}), "mean"),
        ("DeiTForImageClassification", ("DeiTConfig", SMALL), "cls+mean"),
        ("ResNetForImageClassification", ("ResNetConfig", CNN), "avg"),
        ("ResNetModel", ("ResNetConfig", CNN), "max"),
    ],
)
def test_features_equal_those_of_transformers(tmp_path, kind, config, pooling):
    name, values = config
    saved(tmp_path, getattr(transformers, kind), getattr(transformers, name)(**values))
    encoder, report = load_encoder(f"hf:{tmp_path}", pooling=pooling)
    reference = transformers.AutoModel.from_pretrained(tmp_path, local_files_only=True).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        outputs, features = reference(pixel_values=images), encoder(images)
    state = outputs.last_hidden_state
    prefix = {"Dinov2WithRegistersModel": 3, "DeiTForImageClassification": 2}.get(kind, 1)
    expected = {
        "cls": lambda: state[:, 0],
        "mean": lambda: state[:, prefix:].mean(dim=1),
        "cls+mean": lambda: torch.cat([state[:, 0], state[:, prefix:].mean(dim=1)], dim=1),
        "avg": lambda: outputs.pooler_output.flatten(1),
        "max": lambda: state.amax(dim=(2, 3)),
    }[pooling]()
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    assert encoder.width == expected.shape[1]
    assert report.arch == f"hf:{type(reference).__name__}"
    assert set(report.skipped.values()) <= {"the classifier"}
    assert report.normalization == {"mean": [0.5] * 3, "std": [0.25] * 3}
    assert report.preprocessing["interpolation"] == "bicubic"


def test_torch_weights_are_read_by_our_reader(tmp_path, monkeypatch):
    model = saved(tmp_path, transformers.ViTModel, transformers.ViTConfig(**SMALL))
    from safetensors.torch import load_file

    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    encoder, _ = load_encoder(f"hf:{tmp_path}")
    assert torch.equal(encoder.trunk.embeddings.cls_token, model.embeddings.cls_token)


def test_shards_are_read(tmp_path):
    saved(tmp_path, transformers.ViTModel, transformers.ViTConfig(**SMALL), max_shard_size="50KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert load_encoder(f"hf:{tmp_path}")[0].width == 32


@pytest.mark.parametrize(
    "config",
    [
        CNN | {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 2, 1, 1], "layer_type": "bottleneck"},
        R18 | {"hidden_act": "gelu"},
        R18 | {"downsample_in_first_stage": True},
        R18 | {"embedding_size": 32},
    ],
)
def test_resnets_that_torchvision_lacks_are_computed_by_transformers(tmp_path, config):
    model = saved(tmp_path, transformers.ResNetForImageClassification, transformers.ResNetConfig(**config)).resnet
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images).pooler_output.flatten(1)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        encoder, report = load_encoder(path)
        with torch.no_grad():
            torch.testing.assert_close(encoder(images), expected, rtol=0, atol=1e-5)
        assert (report.arch, report.stem) == ("hf:ResNetModel", None)
        assert report.preprocessing["crop"] == 64
    assert inspect_checkpoint(tmp_path).weights_sha256 == report.weights_sha256


def test_without_transformers_its_resnets_are_rejected_with_what_to_do(tmp_path, monkeypatch):
    saved(tmp_path, transformers.ResNetModel, transformers.ResNetConfig(**CNN))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        DataError, match=rf'transformers computes it as hf:{tmp_path}: pip install "simsiam-eval\[hf\]"'
    ):
        load_encoder(tmp_path)


def test_other_networks_of_transformers_are_rejected_with_their_name(tmp_path):
    saved(tmp_path, transformers.ViTModel, transformers.ViTConfig(**SMALL))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(DataError, match=rf"has a vision transformer and no ResNet: .* Give it as hf:{path}\."):
            load_encoder(path)
        assert load_encoder(f"hf:{path}")[0].width == 32


def test_keys_of_the_file_and_of_the_network(tmp_path):
    saved(tmp_path, transformers.ViTForImageClassification, transformers.ViTConfig(**SMALL))
    encoder, report = load_encoder(f"hf:{tmp_path}")
    assert report.loaded["vit.embeddings.cls_token"] == "embeddings.cls_token"
    assert set(report.loaded.values()) == set(encoder.trunk.state_dict())
    # Names that transformers changes: by their values.
    renamed = {f"other.{key}": value for key, value in encoder.trunk.state_dict().items()}
    named = _keys_in_network(renamed, encoder.trunk, "vit.")
    assert all(torch.equal(renamed[key], encoder.trunk.state_dict()[name]) for key, name in named.items())
    assert len(set(named.values())) == len(renamed)
    assert _keys_in_network({"qkv": torch.zeros(3)}, encoder.trunk, "vit.") == {
        "qkv": "a weight that is made of several"
    }


def test_other_folders_are_rejected(tmp_path):
    with pytest.raises(
        DataError, match=r"has no config.json; expected a local folder of transformers. Nothing is down"
    ):
        load_encoder(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "none", "auto_map": {"AutoConfig": "evil.Config"}}))
    (tmp_path / "evil.py").write_text("raise SystemExit('code was run')")
    with pytest.raises(DataError, match=r"config.json names no model of transformers"):
        load_encoder(f"hf:{tmp_path}")


def test_incomplete_weights_are_rejected(tmp_path):
    saved(tmp_path, transformers.ViTModel, transformers.ViTConfig(**SMALL))
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "cls_token" not in key}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"does not have the weights of a ViTModel: missing keys: 1 \(embeddings.cls"):
        load_encoder(f"hf:{tmp_path}")


def test_poolings_layers_and_sizes_that_do_not_fit(tmp_path):
    saved(tmp_path, transformers.ViTModel, transformers.ViTConfig(**SMALL))
    with pytest.raises(
        UsageError, match=r"--pool max cannot be used with hf:ViTModel; expected one of cls, mean, cls\+"
    ):
        load_encoder(f"hf:{tmp_path}", pooling="max")
    with pytest.raises(UsageError, match="--layer layer4 cannot be used with hf:ViTModel; expected pool"):
        load_encoder(f"hf:{tmp_path}", "layer4")
    encoder, _ = load_encoder(f"hf:{tmp_path}")
    with pytest.raises(UsageError, match="cannot take images of 32 x 32 pixels; see --crop"):
        encoder(torch.zeros(1, 3, 32, 32))
