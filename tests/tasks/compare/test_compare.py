import csv
import shutil

import h5py
import numpy as np
import pytest

from simsiam_eval.features.writer import write_features
from simsiam_eval.metrics.intervals import mcnemar, paired_interval
from tasks.knn import KnnSettings, knn
from tasks.linear.linear_eval import linear_eval
from tasks.linear.settings import LinearEvalSettings


def write(path, features, labels, arch, ids=None, class_names=None):
    source = {"spec": "made", "fingerprint": path.stem.split("-")[-1], "class_names": class_names}
    ids = [f"image {row}" for row in range(len(features))] if ids is None else ids
    write_features(path, features.astype(np.float32), labels, ids, encoder={"arch": arch}, source=source)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two seeds of a good encoder and two of a bad one: train and test files."""
    folder = tmp_path_factory.mktemp("compare")
    labels = {"train": np.arange(120) % 4, "test": np.arange(80) % 4}
    for encoder, noise in (("good1", 0.6), ("good2", 0.7), ("bad1", 1.6), ("bad2", 1.7)):
        rng = np.random.default_rng(len(encoder) + int(10 * noise))
        centers = rng.normal(size=(4, 6))
        for split, names in labels.items():
            features = centers[names] + rng.normal(0, noise, (len(names), 6))
            write(folder / f"{encoder}-{split}.h5", features, names, encoder)
    return folder


def files(folder, split, *encoders):
    return [folder / f"{encoder}-{split}.h5" for encoder in encoders]


def trained(folder, *encoders):
    return [part for path in files(folder, "train", *encoders) for part in ("--train", path)]


def test_two_encoders_image_by_image(record, folder, tmp_path):
    tests = files(folder, "test", "bad1", "good1")
    found = record("compare", *tests, *trained(folder, "bad1", "good1"), "-k", 5, "--out", tmp_path / "c.csv")[
        "metrics"
    ]
    rows = list(csv.reader((tmp_path / "c.csv").open()))
    right = np.array([row[2:] for row in rows[1:]], dtype=int)
    for place, (encoder, one) in enumerate(zip(("bad1", "good1"), found["methods"], strict=True)):
        sets = {split: str(folder / f"{encoder}-{split}.h5") for split in ("train", "test")}
        assert one["top1"] == right[:, place].mean() == knn(KnnSettings(**sets, k=(5,))).metrics["top1"]
    pair = found["pairs"][0]
    gained = int((right[:, 1] > right[:, 0]).sum())
    lost = int((right[:, 1] < right[:, 0]).sum())
    assert (pair["only_second_right"], pair["only_first_right"]) == (gained, lost)
    assert pair["difference"] == pytest.approx((gained - lost) / 80)
    assert pair["difference_interval"] == pytest.approx(paired_interval(right[:, 1] - right[:, 0]))
    assert pair["mcnemar"] == mcnemar(lost, gained)
    assert pair["mcnemar"]["mid_p"] < 0.05
    assert pair["gained"][0] == rows[1 + int(np.flatnonzero(right[:, 1] > right[:, 0])[0])][0]


def test_near_duplicates_in_the_training_sets_are_reported(record, call, folder, tmp_path):
    paths = []
    for place, encoder in enumerate(("good1", "good2")):
        with h5py.File(folder / f"{encoder}-train.h5") as train, h5py.File(folder / f"{encoder}-test.h5") as test:
            features, labels = test["features"][:], test["labels"][:]
            features[: 4 + place] = train["features"][: 4 + place] * 2
        paths.append(write(tmp_path / f"{encoder}-test.h5", features, labels, encoder))
    asked = ("compare", *paths, *trained(folder, "good1", "good2"), "--leakage", 1)
    found = record(*asked)["metrics"]["leakage"]
    assert (found["images"], found["of"], found["file"]) == (5, 80, str(paths[1]))
    assert "5 of 80 test images" in " ".join(call(*asked).stdout.split())
    assert record("compare", *paths)["metrics"]["leakage"] is None


def heads(folder, tmp_path, *encoders):
    made = {name: tmp_path / f"{name}.safetensors" for name in encoders}
    accuracies = []
    for name, path in made.items():
        sets = {split: str(folder / f"{name}-{split}.h5") for split in ("train", "test")}
        result = linear_eval(LinearEvalSettings(preset="small", epochs=5, save_head=path, **sets))
        accuracies.append(result.metrics["top1"])
    return [part for path in made.values() for part in ("--head", path)], accuracies


def test_linear_heads_image_by_image(record, call, folder, tmp_path):
    given, accuracies = heads(folder, tmp_path, "bad1", "good1")
    tests = files(folder, "test", "bad1", "good1")
    found = record("compare", *tests, *given)["metrics"]
    assert [one["top1"] for one in found["methods"]] == pytest.approx(accuracies)
    assert found["pairs"][0]["difference"] == pytest.approx(accuracies[1] - accuracies[0])
    assert "linear heads" in call("compare", *tests, *given).stdout
    other = [shutil.copy(path, tmp_path) for path in tests]
    with h5py.File(other[0], "r+") as file:
        file.attrs["precision"] = "bf16"
    for wrong, says in (
        ((*tests[::-1], *given), "encoder.arch differs"),
        ((*other, *given), "precision differs"),
        ((*tests, *given[:2]), "--head must be given once for each"),
        ((*tests, *given, *trained(folder, "bad1", "good1")), "cannot be combined"),
        ((*tests, "--head", tests[0], *given[2:]), "is not a safetensors file"),
    ):
        rejected = call("compare", *wrong)
        assert rejected.exit_code and says in rejected.stderr, rejected.output


def test_classes_are_matched_by_name_where_files_number_them_differently(record, tmp_path):
    """Second encoder: the same features, its classes numbered in another order."""
    rng, names = np.random.default_rng(3), ["ant", "bee", "cat", "dog"]
    labels = {"train": np.arange(120) % 4, "test": np.arange(80) % 4}
    centers, order = rng.normal(size=(4, 6)), np.array([2, 0, 3, 1])
    tests, banks, saved, expected = [], [], [], []
    for split, mine in labels.items():
        features = centers[mine] + rng.normal(0, 0.6, (len(mine), 6))
        write(tmp_path / f"one-{split}.h5", features, mine, "one", class_names=names)
        other = np.argsort(order)[mine]
        write(tmp_path / f"two-{split}.h5", features, other, "two", class_names=[names[at] for at in order])
    for encoder in ("one", "two"):
        sets = {split: str(tmp_path / f"{encoder}-{split}.h5") for split in labels}
        saved += ["--head", tmp_path / f"{encoder}.safetensors"]
        result = linear_eval(LinearEvalSettings(preset="small", lr=100, epochs=40, save_head=saved[-1], **sets))
        expected.append(result.metrics["top1"])
        tests.append(sets["test"])
        banks += ["--train", sets["train"]]
    assert min(expected) > 0.6
    found = [[one["top1"] for one in record("compare", *tests, *how)["metrics"]["methods"]] for how in (banks, saved)]
    assert found[0][0] == found[0][1] > 0.6
    assert found[1] == pytest.approx(expected)


def test_training_sets_that_answer_nothing_are_rejected(call, folder, tmp_path):
    rng, names = np.random.default_rng(0), ["ant", "bee"]
    tests = [tmp_path / f"{one}-test.h5" for one in "ab"]
    banks = [tmp_path / f"{one}-train.h5" for one in "ab"]
    for test, bank in zip(tests, banks, strict=True):
        write(test, rng.normal(size=(20, 4)), np.arange(20) % 2, test.stem[0], class_names=names)
        write(bank, rng.normal(size=(10, 4)), np.zeros(10, int), test.stem[0], class_names=names)
    for trained, says in (
        (banks, "has no image of a class of"),
        (tests, "omit --train"),
    ):
        rejected = call("compare", *tests, *(part for one in trained for part in ("--train", one)))
        assert rejected.exit_code == 1 and says in rejected.stderr, rejected.output
    three = [tmp_path / f"{one}-three.h5" for one in "ab"]
    for path in three:
        write(path, rng.normal(size=(30, 4)), np.arange(30) % 3, path.stem[0], class_names=[*names, "cat"])
    heads = []
    for test, path in zip(tests, three, strict=True):
        head = path.with_suffix(".safetensors")
        linear_eval(LinearEvalSettings(preset="small", epochs=2, train=str(test), test=str(test), save_head=head))
        heads += ["--head", head]
    rejected = call("compare", *three, *heads)
    assert rejected.exit_code == 1 and "it lacks cat" in rejected.stderr, rejected.output


def test_seeds_have_a_mean_and_a_std(record, call, folder):
    encoders = ("good1", "good2", "bad1", "bad2")
    names = [part for name in ("good", "good", "bad", "bad") for part in ("--name", name)]
    found = record("compare", *files(folder, "test", *encoders), *trained(folder, *encoders), *names)["metrics"]
    good, bad = found["methods"]
    assert (good["name"], good["seeds"]) == ("good", 2)
    assert good["top1"] == pytest.approx(np.mean(good["top1_each"]))
    assert good["top1_std"] == pytest.approx(np.std(good["top1_each"], ddof=1))
    assert len(found["pairs"]) == 1
    assert found["pairs"][0]["difference"] == pytest.approx(bad["top1"] - good["top1"])
    assert "mcnemar" not in found["pairs"][0]
    assert len(found["features"]) == 6
    paths = files(folder, "test", *encoders)
    shown = call("compare", *paths, *trained(folder, *encoders), *names).stdout
    assert f"{paths[0]} and {paths[1]}: linear CKA" in " ".join(shown.split())


def test_the_same_features_are_the_same(record, call, folder, tmp_path):
    path = files(folder, "test", "good1")[0]
    shutil.copy(path, tmp_path / "copy.h5")
    found = record("compare", path, tmp_path / "copy.h5")["metrics"]
    assert found["features"][0]["cka"] == pytest.approx(1)
    assert found["features"][0]["neighbor_overlap"] == 1
    with h5py.File(tmp_path / "copy.h5", "a") as file:
        file["features"][:] = 1
    shown = call("compare", path, tmp_path / "copy.h5").stdout
    assert "linear CKA undefined (one of the two is constant)" in " ".join(shown.split())


def test_images_that_one_file_lacks_are_left_out_and_order_does_not_matter(record, call, folder, tmp_path):
    path = files(folder, "test", "good1")[0]
    rng = np.random.default_rng(5)
    features, order = rng.normal(size=(80, 6)), rng.permutation(80)
    features[order[3]] = np.nan
    ids = [f"image {row}" for row in range(80)]
    labels = np.arange(80) % 4
    whole = write(tmp_path / "whole.h5", np.nan_to_num(features), labels, "r50", ids)
    other = write(tmp_path / "other.h5", features[order], labels[order], "r50", [ids[row] for row in order])
    found = record("compare", path, other)["metrics"]
    assert found["images"] == 79
    assert "1 images that are not in every file" in call("compare", path, other).stderr
    assert found["features"][0]["cka"] != record("compare", path, whole)["metrics"]["features"][0]["cka"]


def test_without_labels_only_the_features_are_compared(record, tmp_path):
    rng = np.random.default_rng(0)
    paths = [write(tmp_path / f"{n}.h5", rng.normal(size=(20, 3)), np.full(20, -1), f"r{n}") for n in (1, 2)]
    found = record("compare", *paths)["metrics"]
    assert found["pairs"] == []
    assert 0 < found["features"][0]["cka"] < 1
    assert "top1" not in found["methods"][0]


def test_what_cannot_be_compared_is_one_sentence(call, folder, tmp_path):
    good, bad = files(folder, "test", "good1", "bad1")
    assert "at least two feature files" in call("compare", good).stderr
    assert "--train must be given once for each" in call("compare", good, bad, "--train", good).stderr
    assert "encoder" in call("compare", good, bad, *trained(folder, "bad1", "good1")).stderr
    assert "--leakage requires --train" in call("compare", good, bad, "--leakage", 0.5).stderr
    assert "-k cannot be used with --head" in call("compare", good, bad, "--head", good, "--head", bad, "-k", 3).stderr
    assert "is given twice" in call("compare", good, bad, good).stderr
    assert "cannot be written" in call("compare", good, bad, "--out", tmp_path).stderr
    banks = files(folder, "train", "good1", "bad1")
    part = write(tmp_path / "part.h5", np.ones((30, 6)), np.arange(30) % 4, "bad1")  # of the same source
    assert "do not contain the same images" in call("compare", good, bad, "--train", banks[0], "--train", part).stderr
    half = write(tmp_path / "half.h5", np.ones((60, 6)), np.arange(60) % 4, "bad1")
    assert "do not contain the same images" in call("compare", good, bad, "--train", banks[0], "--train", half).stderr
    again = write(
        tmp_path / "again-elsewhere.h5", np.random.default_rng(0).normal(size=(80, 6)), np.arange(80) % 4, "x"
    )
    assert "of different sources" in call("compare", good, again).stderr
    bare = [write(tmp_path / f"{n}-bare.h5", np.eye(4), np.full(4, -1), f"b{n}") for n in (1, 2)]
    assert "no labels" in call("compare", *bare, "--out", tmp_path / "c.csv").stderr
    alone = [write(tmp_path / f"{n}-alone.h5", np.ones((1, 4)), np.zeros(1, int), f"b{n}") for n in (1, 2)]
    assert "at least two images" in call("compare", *alone).stderr
    strangers = write(tmp_path / "s.h5", np.ones((2, 3)), np.zeros(2, int), "r9", ["x", "y"])
    assert "no image in common" in call("compare", good, strangers).stderr
    other = write(tmp_path / "o.h5", np.ones((2, 3)), np.array([3, 3]), "r9", ["image 0", "image 1"])
    assert "disagree on the label" in call("compare", good, other).stderr
    unlabeled = write(tmp_path / "u.h5", np.ones((2, 3)), np.array([-1, -1]), "r9", ["image 0", "image 1"])
    assert f"{unlabeled} has no label for image 0" in call("compare", good, unlabeled).stderr
    twice = write(tmp_path / "t.h5", np.ones((2, 3)), np.zeros(2, int), "r9", ["image 0", "image 0"])
    assert "duplicate ids" in call("compare", good, twice).stderr
