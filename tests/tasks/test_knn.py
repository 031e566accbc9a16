from pathlib import Path

import numpy as np
import pytest

from simsiam_eval.feature_file import read_features
from simsiam_eval.feature_writer import write_features
from tasks.knn import KnnSettings, knn


def write(path, features, labels):
    ids = [f"{path.stem} {row}" for row in range(len(features))]
    source = {"spec": path.stem, "fingerprint": path.stem, "class_names": None}
    write_features(path, features.astype(np.float32), np.asarray(labels), ids, encoder={"arch": "made"}, source=source)
    return str(path)


@pytest.fixture
def sets(tmp_path):
    """Seven classes around seven directions, some of them near each other."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(7, 5))
    drawn = {name: rng.integers(0, 7, rows) for name, rows in (("train", 90), ("test", 60))}
    return {
        name: write(tmp_path / f"{name}.h5", centres[labels] + rng.normal(0, 0.7, (len(labels), 5)), labels)
        for name, labels in drawn.items()
    }


def test_accuracy_is_that_of_a_vote_written_out(sets):
    bank, queries = (read_features(Path(sets[name])) for name in ("train", "test"))
    unit = [one.features / np.linalg.norm(one.features, axis=1, keepdims=True) for one in (bank, queries)]
    right1 = right5 = 0
    for query, label in zip(unit[1], queries.labels, strict=True):
        near = sorted(range(90), key=lambda row: -float(unit[0][row] @ query))[:11]
        votes = {}
        for row in near:
            votes[bank.labels[row]] = votes.get(bank.labels[row], 0) + np.exp(float(unit[0][row] @ query) / 0.2)
        order = sorted(votes, key=lambda name: -votes[name])
        right1, right5 = right1 + (order[0] == label), right5 + (label in order[:5])
    metrics = knn(KnnSettings(**sets, k=(11,), temperature=0.2)).metrics
    assert metrics["top1"] == right1 / 60
    assert metrics["top5"] == right5 / 60
    assert metrics["top1_interval"][0] < metrics["top1"] < metrics["top1_interval"][1]


def test_more_neighbours_than_there_are(sets, capsys):
    by_k = knn(KnnSettings(**sets, k=(20, 5000))).metrics["by_k"]
    assert [by_k[k]["k_used"] for k in ("20", "5000")] == [20, 90]
    assert "k = 5000" in capsys.readouterr().err


def test_each_image_is_left_out_of_its_own_neighbours(sets):
    found = knn(KnnSettings(train=sets["test"], test=sets["test"], k=(1, 5000)))
    assert found.provenance["leave_one_out"]
    assert found.metrics["top1"] < 1
    assert found.metrics["by_k"]["5000"]["k_used"] == 59


def test_top5_of_five_classes_says_nothing_and_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 5
    path = write(tmp_path / "a.h5", rng.normal(size=(20, 4)), labels)
    assert "top5" not in knn(KnnSettings(train=path, test=path, k=(3,))).metrics
