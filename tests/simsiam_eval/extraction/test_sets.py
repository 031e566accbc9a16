import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from simsiam_eval.errors import BeingWritten, DataError, UsageError
from simsiam_eval.extraction import sets, to_file
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.extraction.sets import train_and_test_features
from simsiam_eval.features.compatibility import same_rows
from simsiam_eval.features.writer import write_features
from simsiam_eval.files.cache import cache_folder
from simsiam_eval.sources.spec import is_feature_file


def write(path, labels, names=("cat", "dog"), rows=None, width=3, arch="resnet18"):
    rows = np.arange(len(labels)) if rows is None else np.asarray(rows)
    features = np.random.default_rng(0).normal(size=(20, width)).astype(np.float32)[rows]
    source = {"spec": "made", "fingerprint": f"{rows.tolist()}", "class_names": names and list(names)}
    ids = [f"image {row}" for row in rows]
    write_features(path, features, np.asarray(labels), ids, encoder={"arch": arch}, source=source)
    return str(path)


def read(train, test):
    return train_and_test_features(train, test, None, ExtractionOptions(), torch.device("cpu"))


def test_test_labels_are_matched_to_the_training_classes_by_name(tmp_path):
    train = write(tmp_path / "train.h5", [0, 1, 2], ("cat", "dog", "fox"))
    test = write(tmp_path / "test.h5", [0, 1, 1], ("dog", "fox"))
    assert read(train, test)[1].labels.tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (dict(labels=[0, 1]), dict(labels=[0, 1], names=("cat", "emu")), "emu"),
        (dict(labels=[0, 0]), dict(labels=[0, 1]), "dog"),
        (dict(labels=[0, 1], names=None), dict(labels=[2, 1], names=None), "2"),
        (dict(labels=[0, 1]), dict(labels=[0, 1], arch="resnet50"), "arch"),
        (dict(labels=[0, 1]), dict(labels=[0, 1], width=4), "features per row"),
        (dict(labels=[-1, -1]), dict(labels=[0, 1]), "no labels"),
        (dict(labels=[0, 1]), dict(labels=[0, 1], names=None), "only class numbers"),
    ],
)
def test_incompatible_sets_are_rejected(tmp_path, train, test, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "train.h5", **train), write(tmp_path / "test.h5", **test))


def test_unlabeled_rows_are_left_out_with_a_message(tmp_path, capsys):
    train = write(tmp_path / "train.h5", [0, -1, 1, 0])
    features, _ = read(train, train)
    assert features.labels.tolist() == [0, 1, 0]
    assert features.ids.tolist() == ["image 0", "image 2", "image 3"]
    assert "1 image without a label skipped" in capsys.readouterr().err


def test_same_rows_requires_the_same_images_in_the_same_order(tmp_path):
    original = write(tmp_path / "original.h5", [0, 1, 0])
    copy = write(tmp_path / "copy.h5", [0, 1, 0])
    reordered = write(tmp_path / "reordered.h5", [0, 1, 0], rows=[0, 2, 1])
    assert same_rows(*read(original, original))
    assert same_rows(*read(original, copy))
    assert not same_rows(*read(original, reordered))


def test_images_require_a_checkpoint():
    assert is_feature_file("a.h5")
    assert is_feature_file("b/a.HDF5")
    assert not is_feature_file("hdf5:a.h5")
    with pytest.raises(UsageError, match="--checkpoint"):
        read("digits", "digits")


def test_feature_file_of_another_encoder_than_the_checkpoint_is_rejected(call, pipeline, record, small, tmp_path):
    other = record("pretrain", *small, "--epochs", 0, "--seed", 6, "--out", tmp_path / "run")["files"]["checkpoint"]
    result = call("knn", "--train", pipeline / "train.h5", "--test", pipeline / "test.h5", "--checkpoint", other)
    assert result.exit_code == 1
    assert "another encoder" in result.stderr


def test_images_with_a_checkpoint_give_the_same_metrics_as_feature_files(call, record, pipeline, checkpoint):
    from_files = record("knn", "--train", pipeline / "train.h5", "--test", pipeline / "test.h5", "-k", 20)
    from_images = record("knn", "--train", "digits", "--test", "digits", "--checkpoint", checkpoint, "-k", 20)
    assert from_images["metrics"] == from_files["metrics"]
    second_run = call("knn", "--train", "digits", "--test", "digits", "--checkpoint", checkpoint, "-k", 20)
    assert "from the cache" in second_run.stderr


def test_features_of_two_encoders_are_rejected(call, record, pipeline, small, tmp_path):
    other = record("pretrain", *small, "--epochs", 0, "--seed", 5, "--out", tmp_path / "run")["files"]["checkpoint"]
    record("extract", "--checkpoint", other, "--data", "digits#test", "--out", tmp_path / "test.h5")
    result = call("knn", "--train", pipeline / "train.h5", "--test", tmp_path / "test.h5")
    assert result.exit_code == 1
    assert "weights_sha256" in result.output


def test_features_of_two_decodings_are_rejected(call, record, pipeline, checkpoint, tmp_path):
    scaled = tmp_path / "scaled.h5"
    result = record(
        "extract", "--checkpoint", checkpoint, "--data", "digits#test", "--decode", "scaled", "--out", scaled
    )
    assert result["provenance"]["preprocessing"]["decode"] == "scaled"
    result = call("knn", "--train", pipeline / "train.h5", "--test", scaled)
    assert result.exit_code == 1
    assert "preprocessing.decode" in result.output


def test_knn_waits_for_another_process_that_extracts_the_same_features(call, checkpoint, images, monkeypatch):
    write_extraction, busy = to_file.write_extraction, iter([True, True])

    def write_when_free(*arguments, **options):
        if next(busy, False):
            raise BeingWritten("Another process is writing it.")
        return write_extraction(*arguments, **options)

    monkeypatch.setattr(to_file, "write_extraction", write_when_free)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    sets = ["--train", images, "--test", images, "--checkpoint", checkpoint]
    result = call("knn", *sets, "-k", 1)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("another process is extracting them") == 1


def test_unwritable_cache_folder_is_reported(call, checkpoint, images, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIMSIAM_EVAL_CACHE", str(tmp_path / "file"))
    sets = ["--train", images, "--test", images, "--checkpoint", checkpoint]
    result = call("knn", *sets, "-k", 1)
    assert result.exit_code == 1
    assert "The cache folder" in result.stderr and "$SIMSIAM_EVAL_CACHE" in result.stderr


def test_cache_folder_of_a_user_without_a_home_directory(monkeypatch):
    for name in ("SIMSIAM_EVAL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert cache_folder().name == f"simsiam-eval-{os.getuid()}"


@pytest.fixture
def images(tmp_path):
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(2):
            pixels = np.full((9, 9, 3), 40 * number + ord(label), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / label / f"{number}.png")
    return tmp_path / "set"


@pytest.fixture
def nothing_is_extracted(monkeypatch):
    def extract(plan, spec):
        raise AssertionError(f"{spec} is extracted")

    monkeypatch.setattr(sets, "extract_to_cache", extract)


@pytest.mark.usefixtures("nothing_is_extracted")
@pytest.mark.parametrize("file_is", ["--train", "--test"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--crop", "4"], "differ in preprocessing.crop, preprocessing.resize."),
        (["--layer", "layer2"], "has no layer layer2; it has: pool."),
        (["--pool", "max", "--flip-average"], "differ in encoder.flip_average, encoder.pooling."),
        (["--precision", "bf16"], "differ in precision."),
        (["--stem-padding", "2"], "--stem-padding contradicts"),
    ],
)
def test_images_are_not_extracted_if_they_do_not_fit_a_feature_file(
    call, pipeline, checkpoint, tmp_path, file_is, options, message
):
    shutil.copy(pipeline / "test.h5", tmp_path)
    images_are = {"--train": "--test", "--test": "--train"}[file_is]
    both = (file_is, tmp_path / "test.h5", images_are, "digits")
    for command in ("knn", "linear-eval"):
        result = call(command, *both, "--checkpoint", checkpoint, *options)
        assert result.exit_code in (1, 2)
        assert message in result.stderr


@pytest.mark.usefixtures("nothing_is_extracted")
def test_what_is_missing_is_found_before_an_extraction(call, checkpoint, images, tmp_path):
    unlabeled = tmp_path / "unlabeled"
    unlabeled.mkdir()
    shutil.copy(images / "a" / "0.png", unlabeled)
    commands = [
        (("knn", "--train", images, "--test", tmp_path / "missing"), "missing"),
        (("knn", "--train", images, "--test", unlabeled), f"--test {unlabeled} has no labels."),
        (("retrieval", "eval", "--gallery", images, "--queries", tmp_path / "missing.h5"), "missing.h5"),
        (("retrieval", "search", tmp_path / "missing.h5", "--gallery", images), "missing.h5"),
        (("retrieval", "search", tmp_path / "missing", "--gallery", images), "missing"),
    ]
    for command, message in commands:
        result = call(*command, "--checkpoint", checkpoint)
        assert result.exit_code == 1
        assert message in result.stderr


@pytest.mark.usefixtures("nothing_is_extracted")
def test_a_gallery_that_does_not_fit_the_queries_is_not_extracted(call, pipeline, checkpoint):
    sets = ("--gallery", "digits", "--checkpoint", checkpoint)
    result = call("retrieval", "search", pipeline / "test.h5", *sets, "--crop", 4)
    assert result.exit_code == 1
    assert "differ in preprocessing" in result.stderr


def test_images_get_the_variant_of_the_features_that_they_are_compared_with(record, checkpoint, tmp_path):
    record(
        "extract", "--checkpoint", checkpoint, "--data", "digits#test", "--stem-padding", 2, "--out", tmp_path / "a.h5"
    )
    made = record(
        "retrieval", "eval", "--gallery", tmp_path / "a.h5", "--queries", "digits", "--checkpoint", checkpoint
    )
    assert made["provenance"]["queries"]["encoder"]["variant"] == {"stem_padding": 2}
