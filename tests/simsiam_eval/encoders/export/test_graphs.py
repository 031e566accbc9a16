"""ONNX, torch.export and OpenVINO: read back by their runtimes, with the preprocessing outside and inside."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

import simsiam_eval
from simsiam_eval.encoders.architectures import ARCHITECTURES, BASIC, TrunkVariant
from simsiam_eval.encoders.export.graph import ResizeAndNormalize
from simsiam_eval.encoders.export.writer import missing_packages
from simsiam_eval.errors import UsageError
from simsiam_eval.images.opened import DecodedImage
from simsiam_eval.images.preprocess import Preprocessing

needs_onnx = pytest.mark.skipif(
    missing_packages("onnx", "onnxscript", "onnxruntime") is not None, reason="needs onnx, onnxscript and onnxruntime"
)
needs_openvino = pytest.mark.skipif(missing_packages("openvino") is not None, reason="needs openvino")


@pytest.fixture(autouse=True, scope="module")
def _resnet10():
    """Half of ResNet-18's blocks: the graphs of larger networks have the same operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "resnet10", (BASIC, (1, 1, 1, 1), 1, 64))
        yield


@pytest.fixture
def exported(exported, _resnet10):
    return partial(exported, arch="resnet10")


def contains_paths(content):
    """Whether a file holds paths of the source code of this machine."""
    folders = [Path(module.__file__).parent for module in (torch, simsiam_eval)]
    return any(str(folder).encode() in content for folder in folders)


@pytest.mark.parametrize(
    "preprocessing",
    [Preprocessing(), Preprocessing(40, 36), Preprocessing(37, 37), Preprocessing(50, 50, squash=True)],
)
def test_resize_inside_is_that_of_extract(images, preprocessing):
    inside = ResizeAndNormalize(preprocessing)
    for image in [*images, images[0].transpose(1, 0, 2).copy(), images[0][:201, :333]]:
        expected = preprocessing.pixels(DecodedImage(image)).float()
        differences = (inside.pixels(torch.tensor(image)[None])[0] - expected).abs()
        assert differences.max() <= 1
        assert (differences > 0).float().mean() < (0.005 if min(image.shape[:2]) > 8 else 0.05)


def test_torch_export(exported, tmp_path):
    variant = TrunkVariant(stem_relu=False)
    export, _, samples = exported("torch-export", "a.pt2", variant=variant, preprocessing_in="normalize")
    assert export.weights is None
    assert export.comparison.relative_difference <= 1e-5
    extra = {"simsiam_eval.json": ""}
    run = torch.export.load(tmp_path / "a.pt2", extra_files=extra).module()
    assert json.loads(extra["simsiam_eval.json"])["preprocessing_in"] == "normalize"
    assert run(samples.pixels[:1].permute(0, 2, 3, 1)).shape == (1, 512)
    assert not contains_paths((tmp_path / "a.pt2").read_bytes())


def test_torch_export_of_any_image(exported, images, tmp_path):
    exported("torch-export", "a.pt2", stem="cifar", preprocessing_in="inside")
    run = torch.export.load(tmp_path / "a.pt2").module()
    assert run(torch.tensor(images[0])[None].expand(3, -1, -1, -1)[:, :100]).shape == (3, 512)


@needs_onnx
def test_onnx(exported, tmp_path):
    import onnx

    variant = TrunkVariant(channels=2, stem_stride=2, stem_padding=0, stem_relu=False)
    export, _, _ = exported("onnx", "a.onnx", stem="cifar", variant=variant, opset=20)
    assert export.weights is None
    assert export.comparison.consumer.startswith("onnxruntime ")
    assert export.comparison.relative_difference <= 1e-5
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert (metadata["opset"], model.opset_import[0].version) == ("20", 20)
    assert float(metadata["min_cosine"]) == pytest.approx(1)
    (given,) = model.graph.input
    assert [side.dim_param or side.dim_value for side in given.type.tensor_type.shape.dim] == ["batch", 2, 36, 36]
    assert not contains_paths((tmp_path / "a.onnx").read_bytes())


@needs_onnx
def test_onnx_of_any_image(exported):
    export, _, _ = exported("onnx", "a.onnx", stem="cifar", preprocessing_in="inside")
    assert export.comparison.min_cosine > 0.9999


@needs_openvino
@pytest.mark.parametrize("preprocessing_in", ["outside", "inside"])
def test_openvino(exported, tmp_path, preprocessing_in, capfd):
    import openvino

    export, _, _ = exported("openvino", "a.xml", preprocessing_in=preprocessing_in, stem="cifar")
    assert capfd.readouterr() == ("", "")  # without the warnings of its converter
    assert export.comparison.min_cosine > 0.9999
    assert export.files == {"checkpoint": tmp_path / "a.xml", "bin": tmp_path / "a.bin"}
    model = openvino.Core().read_model(tmp_path / "a.xml")
    assert model.get_rt_info(["simsiam_eval", "compared_with"]).astype(str).startswith("openvino ")
    shape = {"outside": "[?,3,36,36]", "inside": "[?,?,?,3]"}[preprocessing_in]
    assert str(model.inputs[0].partial_shape) == shape


def test_missing_packages_name_the_extra(exported, monkeypatch):
    import simsiam_eval.encoders.export.onnx_file as onnx_file
    import simsiam_eval.encoders.export.openvino_file as openvino_file

    for module, target, name in ((onnx_file, "onnx", "a.onnx"), (openvino_file, "openvino", "a.xml")):
        monkeypatch.setattr(module, "missing_packages", lambda *names: f"{names[0]} is not installed")
        with pytest.raises(
            UsageError, match=rf'--to {target}: {target} is not installed; pip install "simsiam-eval.{target}'
        ):
            exported(target, name)


def test_preprocessing_inside_is_of_rgb_images(exported):
    with pytest.raises(UsageError, match="requires an encoder of RGB images; this one takes 4 channels"):
        exported("torch-export", "a.pt2", variant=TrunkVariant(channels=4), preprocessing_in="normalize")


def test_bicubic_images_are_not_resized_inside(exported, tmp_path):
    with pytest.raises(UsageError, match=r"with bicubic\. Use --preprocessing outside"):
        exported("torch-export", "a.pt2", Preprocessing(40, 36, interpolation="bicubic"), "inside")
    assert not (tmp_path / "a.pt2").exists()
