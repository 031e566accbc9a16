"""The front door: what `import simsiam_eval` offers, and that its numbers are the commands'."""

import ast
import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import simsiam_eval as se


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return se.load_encoder(checkpoint)


def test_importing_imports_nothing_heavy():
    code = (
        "import simsiam_eval, sys; print([name for name in sys.modules if name.partition('.')[0] in {heavy}])".format(
            heavy={"torch", "torchvision", "numpy", "sklearn", "h5py", "faiss", "click", "cloup", "rich", "matplotlib"}
        )
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", se.__all__)
def test_every_name_is_there_and_documented(name):
    value = getattr(se, name)
    assert name in dir(se)
    assert name == "__version__" or inspect.getdoc(value)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        se.nothing  # noqa: B018


def test_type_checkers_know_every_name():
    tree = ast.parse(inspect.getsource(se))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name))
    names = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    names |= {node.target.id for node in block.body if isinstance(node, ast.AnnAssign)}
    assert names - {"Callable"} == set(se.__all__)
    assert len(se.__all__) == len(set(se.__all__))


def test_only_public_names_are_listed():
    assert dir(se) == sorted(se.__all__)
    position = se.__all__.index("extract")
    assert se.__all__[position - 1 : position + 2] == ["convert", "extract", "import_features"]


def test_every_command_is_a_function_with_its_settings(pipeline, record):
    arguments = ["--train", pipeline / "train.h5", "--test", pipeline / "test.h5", "-k", 20]
    result = se.knn(train=pipeline / "train.h5", test=str(pipeline / "test.h5"), k=np.int64(20))
    assert isinstance(result, se.Result)
    assert result.metrics == record("knn", *arguments)["metrics"]
    assert json.loads(result.to_json())["metrics"]["top1"] == result.metrics["top1"]
    parameters = inspect.signature(se.knn).parameters
    assert list(parameters)[:2] == ["train", "test"]
    assert "Args:" in se.knn.__doc__ and "    k: " in se.knn.__doc__


def test_a_wrong_argument_is_named_as_python_names_it(pipeline, messages_name_arguments):
    with pytest.raises(se.UsageError, match=r"^leakage must be at most 1"):
        se.knn(train=pipeline / "train.h5", test=pipeline / "test.h5", leakage=2)


def test_a_loaded_encoder_says_what_it_is(encoder, checkpoint):
    assert isinstance(encoder, torch.nn.Module) and not encoder.training
    assert (encoder.arch, encoder.stem, encoder.width) == ("resnet18", "cifar", 512)
    assert encoder.report.path == str(checkpoint)
    image = Image.new("RGB", (20, 10), "red")
    assert encoder.preprocess(image).shape == (3, 8, 8)
    with torch.no_grad():
        assert encoder(encoder.preprocess(image)[None]).shape == (1, 512)


def test_layers_and_pooling_are_chosen(checkpoint):
    encoder = se.load_encoder(str(checkpoint), layer="layer2", pooling="max")
    assert encoder.embed(Image.new("RGB", (20, 10))).shape == (1, 128)
    with pytest.raises(se.UsageError, match="layer9"):
        se.load_encoder(checkpoint, layer="layer9")
    with pytest.raises(se.UsageError, match="fast"):
        se.load_encoder(checkpoint, transform="fast")


def test_a_few_images_have_the_features_that_extract_gives(encoder, checkpoint, photos, tmp_path):
    paths = sorted(path for path in photos.rglob("*.png") if path.name != "007.png")
    features = encoder.embed(paths)
    se.extract(checkpoint, photos, out=tmp_path / "photos.h5", extract_batch=4, workers=0)
    stored = se.open_features(tmp_path / "photos.h5")
    assert [str(photos / name) for name in stored.ids] == [str(path) for path in paths]
    assert np.allclose(features, stored.X, atol=1e-5)
    opened = [Image.open(path) for path in paths[:3]]
    assert np.allclose(encoder.embed(opened), features[:3], atol=1e-6)
    assert np.allclose(encoder.embed(np.array([np.asarray(image) for image in opened])), features[:3], atol=1e-6)
    assert encoder.embed([]).shape == (0, 512)


def test_an_image_that_cannot_be_read_is_named(encoder, photos):
    with pytest.raises(se.DataError, match=r"007\.png"):
        encoder.embed([photos / "ants" / "006.png", photos / "ants" / "007.png"])
    with pytest.raises(TypeError, match="an image must be"):
        encoder.embed([3])


def test_extract_gives_the_feature_files_rows(encoder, pipeline):
    features = se.extract(encoder, "digits#test")
    stored = se.open_features(pipeline / "test.h5")
    X, y = features
    assert np.array_equal(X, stored.X) and np.array_equal(y, stored.y)
    assert features.ids.tolist() == stored.ids.tolist()
    assert features.class_names == stored.class_names
    assert len(features) == 600


def test_unreadable_images_are_left_out(encoder, photos):
    features = se.extract(encoder, photos)
    assert len(features) == 39 and features.unreadable == 1
    assert features.class_names == ["ants", "bées, the longer name"]
    assert np.bincount(features.y).tolist() == [24, 15]


def test_features_on_the_disk_are_indexed_as_arrays(pipeline):
    X = se.open_features(pipeline / "test.h5").X
    array = np.asarray(X)
    mask = np.arange(len(array)) % 2 == 0
    for index in (3, -1, np.int64(4), slice(2, 9, 3), slice(None, None, -100), [5, 3, 3, -2], mask, ..., (mask, ...)):
        assert np.array_equal(X[index], array[index]), index
    assert np.array_equal(X[[5, 2], 1:4], array[[5, 2], 1:4])
    assert (X.shape, X.ndim, X.dtype, len(X)) == (array.shape, 2, np.float32, len(array))
    for outside in (len(array), [len(array)], -len(array) - 1):
        with pytest.raises(IndexError):
            X[outside]


def test_like_takes_over_class_numbers_and_rejects_another_encoder(encoder, photos, pipeline, tmp_path):
    train = se.extract(encoder, photos)
    for name in ("bées, the longer name",):
        (tmp_path / name).symlink_to(photos / name, target_is_directory=True)
    assert set(se.extract(encoder, tmp_path).y) == {0}
    assert set(se.extract(encoder, tmp_path, like=train).y) == {1}
    with pytest.raises(se.DataError, match="layer"):
        se.extract(se.load_encoder(train.attributes and encoder.report.path, layer="layer1"), tmp_path, like=train)


def test_rows_without_labels_are_warned_of_when_unpacked(encoder, photos):
    flat = se.extract(encoder, [photos / "ants" / "000.png", photos / "ants" / "001.png"])
    with pytest.warns(UserWarning, match="2 of 2 rows have no label"):
        _, y = flat
    assert y.tolist() == [-1, -1]


def test_a_loaded_encoder_writes_a_feature_file_too(checkpoint, pipeline, tmp_path):
    encoder = se.load_encoder(checkpoint, layer="layer2")
    features = se.extract(encoder, "digits#test", out=tmp_path / "x.h5")
    assert features.attributes["encoder"]["layer"] == "layer2"
    assert np.array_equal(features.X, se.extract(encoder, "digits#test").X)
    for arguments in ({"like": features}, {"split": "test"}):
        with pytest.raises(se.UsageError, match="without split or like"):
            se.extract(encoder, "digits", out=tmp_path / "y.h5", **arguments)
    with torch.no_grad():
        encoder.trunk.conv1.weight.add_(1)
    with pytest.raises(se.UsageError, match="no longer those of"):
        se.extract(encoder, "digits#test", out=tmp_path / "y.h5")
    assert not (tmp_path / "y.h5").exists()
    with pytest.raises(se.DataError, match="weights_sha256"):
        se.extract(encoder, "digits#test", like=features)


def test_like_takes_over_class_names(encoder, photos, pipeline, tmp_path):
    train = se.extract(encoder, photos)
    (tmp_path / "bées, the longer name").symlink_to(photos / "bées, the longer name", target_is_directory=True)
    test = se.extract(encoder, tmp_path, like=train)
    assert test.class_names == train.class_names == test.attributes["source"]["class_names"]
    assert {test.class_names[label] for label in test.y} == {"bées, the longer name"}
    train = se.open_features(pipeline / "train.h5")
    assert se.open_features(pipeline / "test.h5", like=train).class_names == train.class_names


def test_iterables_of_images_are_embedded(encoder, photos):
    paths = sorted((photos / "ants").glob("*1.png"))
    expected = encoder.embed(paths)
    for images in (iter(paths), (photos / "ants").glob("*1.png"), np.array([str(path) for path in paths])):
        assert sorted(map(tuple, encoder.embed(images))) == sorted(map(tuple, expected))
    assert np.array_equal(se.extract(encoder, (path for path in paths)).X, expected)
    with pytest.raises(TypeError, match="images must be an image or an iterable of images, got NoneType"):
        encoder.embed(None)


def test_a_broken_image_is_named_without_an_option(encoder, photos):
    for read in (encoder.embed, encoder.preprocess):
        for name in ("ants/007.png", "missing.png"):
            with pytest.raises(se.DataError, match=name) as error:
                read(photos / name)
            assert "strict" not in str(error.value)


def test_a_wrong_keyword_of_extract_is_named(encoder, messages_name_arguments):
    for options, message in (
        ({"extract_bach": 8}, "no keyword 'extract_bach'; did you mean extract_batch"),
        ({"limit": 3}, "limit requires out="),
        ({"num_gpus": 2}, "num_gpus requires out="),
        ({"dtype": "float16"}, "dtype='float16' requires out="),
        ({"layer": "layer1"}, r"layer=layer1 differs from the encoder's pool; load_encoder\(\.\.\., layer="),
        ({"pool": "max"}, r"pool=max differs from the encoder's avg; load_encoder\(\.\.\., pooling="),
        ({"split": "test", "data": ["x.png"]}, "split requires data as a string or path"),
    ):
        with pytest.raises(se.UsageError, match=message):
            se.extract(encoder, **{"data": "digits#test"} | options)
    with pytest.raises(se.UsageError, match="no keyword 'nothing'; expected one of "):
        se.extract(encoder, "digits#test", "x.h5", nothing=3)


@pytest.mark.parametrize("name", ["layer", "pool", "transform", "resize", "crop", "decode", "normalize"])
def test_like_decides_how_features_are_extracted(encoder, pipeline, name):
    train = se.open_features(pipeline / "train.h5")
    with pytest.raises(se.UsageError, match=f"{name} cannot be used with like"):
        se.extract(encoder, "digits#test", like=train, **{name: "pool"})


def test_an_argument_of_another_type_is_named(encoder, pipeline):
    for call, message in (
        (lambda: se.load_encoder(None), "checkpoint must be the path of a file, got NoneType"),
        (lambda: se.extract(torch.nn.Identity(), "digits"), "encoder must be .* from load_encoder, got Identity"),
        (lambda: se.extract(encoder, None), "data must be an image or an iterable of images, got NoneType"),
        (lambda: se.extract(encoder, "digits", like="x.h5"), "like must be Features, .* got str"),
        (lambda: se.open_features(pipeline / "test.h5", like="x.h5"), "like must be Features, .* got str"),
        (lambda: se.open_features(None), "path must be the path of a feature file, got NoneType"),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_the_transform_of_a_loaded_encoder_is_kept(checkpoint, photos, tmp_path):
    encoder = se.load_encoder(checkpoint, transform="cifar")
    in_memory, stored = se.extract(encoder, photos), se.extract(encoder, str(photos), out=tmp_path / "x.h5")
    assert in_memory.attributes["preprocessing"] == stored.attributes["preprocessing"]
    assert stored.attributes["preprocessing"]["crop"] == 32
    assert np.allclose(in_memory.X, stored.X, atol=1e-5)
