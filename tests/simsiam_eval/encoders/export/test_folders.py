"""Folders for timm and transformers: loaded offline by the real libraries, with a classifier too."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image

from simsiam_eval.encoders.architectures import TrunkVariant
from simsiam_eval.encoders.encoder import ResNetEncoder, build_trunk
from simsiam_eval.encoders.export.card import model_card
from simsiam_eval.encoders.export.timm_folder import TimmFolder, crop_share, hub_config
from simsiam_eval.encoders.export.transformers_folder import image_processor_config, transformers_key
from simsiam_eval.encoders.export.writer import Conversion, missing_packages
from simsiam_eval.encoders.report import CheckpointReport
from simsiam_eval.errors import UsageError
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.images.transform import ImageTransform

needs_timm = pytest.mark.skipif(missing_packages("timm") is not None, reason="needs timm")
needs_transformers = pytest.mark.skipif(missing_packages("transformers") is not None, reason="needs transformers")


@needs_timm
@pytest.mark.parametrize(
    ("arch", "variant"), [("resnet18", TrunkVariant()), ("resnext50_32x4d", TrunkVariant(channels=1))]
)
def test_timm_loads_the_folder(exported, tmp_path, images, arch, variant):
    import timm

    export, encoder, samples = exported("timm-folder", "encoder", arch=arch, variant=variant)
    assert (export.files, export.comparison.largest_difference) == ({"folder": tmp_path / "encoder"}, 0)
    assert sorted(path.name for path in (tmp_path / "encoder").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    classifier = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True, num_classes=10).eval()
    with torch.inference_mode():
        assert classifier(samples.normalized).shape == (2, 10)
        features = classifier.forward_head(classifier.forward_features(samples.normalized), pre_logits=True)
    torch.testing.assert_close(features, samples.features(encoder), rtol=0, atol=0)
    # timm's own transform prepares the same pixels.
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(classifier))
    ours = ImageTransform(samples.preprocessing)(images[0])
    shown = Image.fromarray(images[0]).convert("L" if variant.channels == 1 else "RGB")
    assert (transform(shown) - ours).abs().max() < 1.01 / 255 / 0.224
    with safetensors.safe_open(tmp_path / "encoder" / "model.safetensors", "pt") as file:
        assert file.metadata()["compared_with"].startswith("timm ")


@needs_timm
@pytest.mark.parametrize(
    ("arch", "variant"), [("resnet50", TrunkVariant()), ("resnext50_32x4d", TrunkVariant(channels=1))]
)
def test_config_is_what_timm_writes(tmp_path, arch, variant):
    import timm
    from timm.models._hub import save_config_for_hf

    with torch.device("meta"):
        encoder = ResNetEncoder(build_trunk(arch, variant=variant), arch, "imagenet", variant=variant)
        model = timm.create_model(arch, num_classes=0, in_chans=variant.channels)
    assert model.state_dict().keys() == encoder.trunk.state_dict().keys()
    save_config_for_hf(model, tmp_path / "config.json")
    theirs = json.loads((tmp_path / "config.json").read_text())
    ours = hub_config(Conversion(encoder, None, Preprocessing(), tmp_path))
    about_the_images = {"tag", "input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "pool_size"}
    about_timms_weights = {"test_input_size", "test_crop_pct", "license", "origin_url", "paper_ids"}
    mine, real = ours.pop("pretrained_cfg"), theirs.pop("pretrained_cfg")
    assert ours == {key: theirs.get(key, ours[key]) for key in ours}
    assert set(theirs) <= set(ours)
    assert set(real) - about_timms_weights <= set(mine)
    assert {key: value for key, value in mine.items() if key not in about_the_images} == {
        key: value for key, value in real.items() if key not in about_the_images | about_timms_weights
    }


@needs_transformers
@pytest.mark.parametrize(
    ("arch", "variant"),
    [
        ("resnet50", TrunkVariant()),
        ("resnet50", TrunkVariant(stride_in_1x1=True)),
        ("resnet18", TrunkVariant(channels=1)),
    ],
)
def test_transformers_loads_the_folder(exported, tmp_path, images, arch, variant):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    export, encoder, samples = exported("transformers", "encoder", arch=arch, variant=variant)
    assert export.comparison.largest_difference == 0
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path / "encoder", num_labels=10).eval()
    with torch.inference_mode():
        assert classifier(samples.normalized).logits.shape == (2, 10)
        features = classifier.resnet(samples.normalized).pooler_output.flatten(1)
    torch.testing.assert_close(features, samples.features(encoder), rtol=0, atol=0)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "encoder")
    # transformers rounds half a pixel of the crop down, torchvision to the even number: here there is none.
    image = images[0][:400, :600]
    shown = Image.fromarray(image).convert("L" if variant.channels == 1 else "RGB")
    pixels = processor(images=shown, return_tensors="pt")["pixel_values"][0]
    ours = ImageTransform(samples.preprocessing)(image)
    assert (pixels - ours).abs().max() < 1.01 / 255 / 0.224


def test_transformers_keys():
    assert transformers_key("layer2.0.downsample.1.weight") == "encoder.stages.1.layers.0.shortcut.normalization.weight"
    with pytest.raises(ValueError, match=r"fc\.weight"):
        transformers_key("fc.weight")


@pytest.mark.parametrize(
    ("target", "of_encoder", "reason"),
    [
        ("timm-folder", {"stem": "cifar"}, "timm.create_model cannot rebuild this encoder .the 3x3 stem"),
        ("timm-folder", {"variant": TrunkVariant(stride_in_1x1=True)}, "strides in the 1x1 convolutions"),
        ("transformers", {"stem": "cifar"}, "transformers' ResNet cannot rebuild this encoder .the 3x3 stem"),
        ("transformers", {"arch": "resnext50_32x4d"}, "cannot rebuild resnext50_32x4d; use --to timm-folder"),
    ],
)
def test_what_a_folder_cannot_say_is_rejected(exported, tmp_path, target, of_encoder, reason):
    with pytest.raises(UsageError, match=reason):
        exported(target, "encoder", **of_encoder)
    assert not (tmp_path / "encoder").exists()


def test_card(new_encoder):
    report = CheckpointReport(
        "a.pth", "simsiam", "state_dict", "resnet18", "imagenet", 100, 512, None, None, {}, {}, "ab12",
        {"settings": {"epochs": 100, "lr": 0.05, "data": "/home/me/photos"}},
    )  # fmt: skip
    conversion = Conversion(new_encoder()[0], report, Preprocessing(), Path("encoder"))
    metadata = TimmFolder(conversion).metadata()
    card = model_card(conversion, "timm", "R18", ["import timm", "model = ..."], metadata)
    assert card.startswith("---\nlibrary_name: timm\n")
    assert "family\nsimsiam after 100 epochs." in card
    assert "```python\nimport timm\nmodel = ...\n```" in card
    assert "| epochs | 100 |\n| lr | 0.05 |\n" in card
    assert "/home/me" not in card
    assert "`ab12`" in card
    assert "Compared" not in card
    compared = metadata | {
        "compared_with": "timm 1", "compared_images": "8", "largest_difference": "0", "min_cosine": "1",
    }  # fmt: skip
    assert "on 8 images by timm 1" in model_card(conversion, "timm", "R18", [], compared)


@pytest.mark.parametrize("crop", range(8, 512, 7))
def test_timm_resizes_to_the_same_side(crop):
    for resize in range(crop, 2 * crop):
        assert int(np.floor(crop / crop_share(Preprocessing(resize, crop)))) == resize


def test_folders_state_the_interpolation(conversion):
    preprocessing = Preprocessing(40, 36, interpolation="bicubic")
    bicubic = conversion(preprocessing)
    assert hub_config(bicubic)["pretrained_cfg"]["interpolation"] == "bicubic"
    assert image_processor_config(preprocessing)["resample"] == Image.Resampling.BICUBIC
    assert "(bicubic, antialiased)" in model_card(bicubic, "timm", "title", [], {"written_by": "this"})
