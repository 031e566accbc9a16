"""Images are prepared as the image processors of transformers prepare them, for plain ResNets and for hf:FOLDER."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import CheckpointFile
from simsiam_eval.encoders.recognition.transformers_images import transformers_images
from simsiam_eval.errors import DataError
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.images.transform import as_opened_image

transformers = pytest.importorskip("transformers")

COLORS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
OF_2022 = {"do_normalize": True, "do_resize": True, "resample": 3, **COLORS}  # before image processors
BASIC = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}


@pytest.fixture
def photograph():
    small = np.random.default_rng(0).integers(0, 256, (19, 25, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((500, 380), Image.Resampling.BILINEAR)


def stated(values, name="preprocessor_config.json"):
    return transformers_images(CheckpointFile("folder", {}, "", configs={name: values}), 3)


def assert_prepared_as_by_transformers(folder, preprocessing, image):
    processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    theirs = processor(images=image, return_tensors="pt")["pixel_values"][0]
    ours = preprocessing.normalize(preprocessing.pixels(as_opened_image(image))[None])[0]
    assert ((ours - theirs).abs().amax(dim=(1, 2)) * torch.tensor(preprocessing.std) * 255).max() < 2.1


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Beit",
            "Bit",
            "Blip",
            "CLIP",
            "ConvNext",
            "DINOv3ViT",
            "DPT",
            "EfficientNet",
            "Flava",
            "Levit",
            "MobileNetV1",
        ),
        *("MobileNetV2", "OwlViT", "PoolFormer", "Pvt", "Segformer", "Siglip", "ViT"),
    ],
)
def test_image_processors(tmp_path, photograph, name):
    getattr(transformers, f"{name}ImageProcessor")().save_pretrained(tmp_path)
    found = stated(json.loads((tmp_path / "preprocessor_config.json").read_text()))
    assert found.assumptions == ()
    assert_prepared_as_by_transformers(tmp_path, found.preprocessing, photograph)


@pytest.mark.parametrize(
    "values",
    [
        {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "size": 224},  # microsoft/resnet-50
        {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 1.0, "size": 384},
        {"feature_extractor_type": "CLIPFeatureExtractor", "crop_size": 224, "do_center_crop": True, "size": 224},
        {"feature_extractor_type": "BeitFeatureExtractor", "crop_size": 224, "do_center_crop": False, "size": 224},
        {"feature_extractor_type": "LevitFeatureExtractor", "size": 224},
        {"feature_extractor_type": "PoolFormerFeatureExtractor", "crop_pct": 0.9, "size": 224},
        {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, "crop_size": 224,
         "do_center_crop": True, "rescale_factor": 1 / 127.5},
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 96, "width": 96}, "do_normalize": False},
    ],
)  # fmt: skip
def test_files_of_the_hub(tmp_path, photograph, values):
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(OF_2022 | values))
    found = stated(OF_2022 | values)
    assert (found.source, found.assumptions) == ("preprocessor_config.json", ())
    assert_prepared_as_by_transformers(tmp_path, found.preprocessing, photograph)
    nested = stated({"image_processor": OF_2022 | values, "tokenizer": {}}, "processor_config.json")
    assert nested.preprocessing == found.preprocessing


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"feature_extractor_type": "DeiTFeatureExtractor", "crop_size": 224, "do_center_crop": True, "size": 256},
         "resized to a short side of 256 pixels; transformers resizes them to a square"),
        ({"size": {"height": 224, "width": 192}}, "cropped to 192 x 192 pixels; transformers' are 224 x 192"),
        ({"size": 224, "resample": 1}, "bilinear, not lanczos"),
        ({"size": 224, "do_resize": False}, "the image processor of transformers only crops them"),
        ({"size": 224, "image_processor_type": "JanusImageProcessor", "do_pad": True}, r"Janus .* may do more \(do_pad\)"),
        ({"size": {"shortest_edge": 224}}, "transformers does not crop them"),
        ({"size": {"longest_edge": 1024}}, "states the size {'longest_edge': 1024}, expected"),
    ],
)  # fmt: skip
def test_what_ours_cannot_do_is_named(values, said):
    assert re.search(said, " ".join(stated(OF_2022 | values).assumptions))


def test_a_file_without_all_settings_is_not_used():
    found = stated({"image_processor_type": "BitImageProcessor", "size": 224})
    assert found.preprocessing is None
    assert "does not say image_mean and image_std" in found.assumptions[0]
    with pytest.raises(DataError, match=r"preprocessor_config\.json of folder cannot be used"):
        stated({"size": 224, "image_mean": ["a"], "image_std": [1]})


@pytest.mark.parametrize("channels", [1, 3])
def test_a_plain_resnet_in_a_folder_of_transformers(tmp_path, photograph, channels):
    torch.manual_seed(0)
    model = transformers.ResNetModel(transformers.ResNetConfig(num_channels=channels, **BASIC)).eval()
    model.save_pretrained(tmp_path)
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 96}, crop_pct=0.75)
    processor.save_pretrained(tmp_path)
    encoder, report = load_encoder(tmp_path)
    prepared = ExtractionOptions().preprocessing(report)
    assert (report.stem, report.normalization_from) == ("imagenet", "preprocessor_config.json")
    assert (prepared.resize, prepared.crop, prepared.channels) == (128, 96, channels)
    assert load_encoder(f"hf:{tmp_path}")[1].preprocessing == report.preprocessing
    if channels == 1:
        assert prepared.mean == (0.5,)
        return
    theirs = processor(images=photograph, return_tensors="pt")["pixel_values"]
    ours = prepared.normalize(prepared.pixels(as_opened_image(photograph))[None])
    with torch.no_grad():
        expected = model(theirs).pooler_output.flatten(1)
        assert (encoder(ours) - expected).abs().max() < 2e-3 * expected.abs().max()


def test_a_resnet_of_bgr_images(tmp_path):
    transformers.ResNetModel(transformers.ResNetConfig(**BASIC)).save_pretrained(tmp_path)
    values = OF_2022 | {"size": 224, "do_flip_channel_order": True, "image_mean": [0.1, 0.2, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    report = load_encoder(tmp_path)[1]
    assert (report.channel_order, report.preprocessing["mean"]) == ("bgr", [0.3, 0.2, 0.1])
    with pytest.raises(DataError, match=r"takes BGR images; expected RGB.*weight\.flip\(1\)"):
        load_encoder(f"hf:{tmp_path}")
