import csv

import numpy as np
import pytest

from simsiam_eval.features.writer import write_features


def write(path, features, labels, arch="made"):
    source = {"spec": "nowhere", "fingerprint": path.stem, "class_names": None}
    ids = [f"{path.stem}-{row}" for row in range(len(features))]
    write_features(path, features.astype(np.float32), np.asarray(labels), ids, encoder={"arch": arch}, source=source)
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Forty images in random directions; 3, 8 and 21 of the training set are one image, 1 and 4 of the test set leak."""
    folder = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(40, 32)), rng.normal(size=(10, 32))
    train[8], train[21] = 2 * train[3], train[3] + 0.001
    test[1], test[4] = train[5], 3 * train[3]
    write(folder / "train.h5", train, [7 if row == 21 else 0 for row in range(40)])
    write(folder / "test.h5", test, [0] * 10)
    return folder


def test_groups_inside_a_set(record, call, sets, tmp_path):
    found = record("duplicates", sets / "train.h5", "--table", tmp_path / "t.csv", "--out", tmp_path / "s.png")[
        "metrics"
    ]
    assert (found["groups"], found["images"], found["pairs"]) == (1, 3, 3)
    assert [one["id"] for one in found["group_members"][0]] == ["train-3", "train-8", "train-21"]
    assert found["groups_with_several_labels"] == 1
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [row["id"] for row in rows] == ["train-3", "train-8", "train-21"]
    assert (tmp_path / "s.png").exists()
    shown = call("duplicates", sets / "train.h5", "--out", tmp_path / "s.png")
    assert "1 group of near-duplicates" in shown.stdout
    assert "train-3" in shown.stdout
    assert "cannot be shown" in shown.stderr


def test_leakage_counts_pairs_across_only(record, sets, tmp_path):
    found = record("duplicates", sets / "train.h5", sets / "test.h5", "--out", tmp_path / "s.html")["metrics"]
    assert (found["leaked"], found["leaked_share"], found["groups"]) == (2, 0.2, 2)
    together = [{one["id"] for one in group} for group in found["group_members"]]
    assert {"train-5", "test-1"} in together
    assert {"train-3", "train-8", "train-21", "test-4"} in together


def test_knn_says_what_rests_on_leaked_images(record, call, sets):
    command = ["knn", "--train", sets / "train.h5", "--test", sets / "test.h5", "-k", 1]
    found = record(*command)["metrics"]["leakage"]
    assert (found["images"], found["of"]) == (2, 10)
    assert "2 of 10 test images" in " ".join(call(*command).stdout.split())
    assert record(*command, "--leakage", 1, "--metric", "l2")["metrics"]["leakage"]["images"] == 2


def test_nothing_found_and_mistakes(record, call, sets, tmp_path):
    one = write(tmp_path / "one.h5", np.ones((1, 3)), [0])
    assert record("duplicates", one)["metrics"]["groups"] == 0
    other = write(tmp_path / "other.h5", np.ones((1, 3)), [0], "r50")
    assert "encoder" in call("duplicates", one, other).stderr
    assert "contain the same images" in call("duplicates", one, one).stderr
    assert "--threshold must be at most 1" in call("duplicates", one, "--threshold", 1.5).stderr
    assert call("duplicates", one, "--out", "x.gif").exit_code == 2
    assert "none.h5 does not exist" in call("duplicates", tmp_path / "none.h5").stderr
