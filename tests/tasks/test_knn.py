import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.features.reader import read_features
from simsiam_eval.features.writer import write_features
from simsiam_eval.neighbors import classify, exact as neighbors
from tasks.knn import KnnSettings, knn


def write(path, features, labels, arch="made", class_names=None):
    ids = [f"{path.stem} {row}" for row in range(len(features))]
    source = {"spec": path.stem, "fingerprint": path.stem, "class_names": class_names}
    write_features(path, features.astype(np.float32), np.asarray(labels), ids, encoder={"arch": arch}, source=source)
    return str(path)


@pytest.fixture
def sets(tmp_path):
    """Seven classes around seven directions, some of them near each other."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(7, 5))
    drawn = {name: rng.integers(0, 7, rows) for name, rows in (("train", 90), ("test", 60))}
    return {
        name: write(tmp_path / f"{name}.h5", centers[labels] + rng.normal(0, 0.7, (len(labels), 5)), labels)
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


def test_more_neighbors_than_there_are(sets, capsys):
    by_k = knn(KnnSettings(**sets, k=(20, 5000))).metrics["by_k"]
    assert [by_k[k]["k_used"] for k in ("20", "5000")] == [20, 90]
    assert "k = 5000" in capsys.readouterr().err


def test_each_image_is_left_out_of_its_own_neighbors(sets):
    found = knn(KnnSettings(train=sets["test"], test=sets["test"], k=(1, 5000)))
    assert found.provenance["leave_one_out"]
    assert found.metrics["top1"] < 1
    assert found.metrics["by_k"]["5000"]["k_used"] == 59


def test_top5_of_five_classes_says_nothing_and_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 5
    path = write(tmp_path / "a.h5", rng.normal(size=(20, 4)), labels)
    assert "top5" not in knn(KnnSettings(train=path, test=path, k=(3,))).metrics


def test_one_search_serves_every_k_and_temperature(sets, monkeypatch):
    searched = []
    search_blocks = neighbors.search_blocks
    monkeypatch.setattr(classify, "search_blocks", lambda *given: searched.append(1) or search_blocks(*given))
    grid = knn(KnnSettings(**sets, k=(3, 11), temperature=(0.07, 0.5))).metrics["grid"]
    assert searched == [1]
    assert [(one["k"], one["temperature"]) for one in grid] == [(3, 0.07), (11, 0.07), (3, 0.5), (11, 0.5)]
    for one in grid:
        alone = knn(KnnSettings(**sets, k=(one["k"],), temperature=(one["temperature"],))).metrics
        assert (alone["top1"], alone["top5"]) == (one["top1"], one["top5"])


def test_majority_by_distance_is_scikit_learns(sets):
    from sklearn.neighbors import KNeighborsClassifier

    bank, queries = (read_features(Path(sets[name])) for name in ("train", "test"))
    theirs = KNeighborsClassifier(n_neighbors=5).fit(bank.features, bank.labels)
    found = knn(KnnSettings(**sets, k=(5,), vote="majority", metric="l2")).metrics
    assert found["top1"] == theirs.score(queries.features, queries.labels)
    assert found["temperature"] is None


def test_sets_larger_than_memory_give_the_same(sets, monkeypatch):
    whole = knn(KnnSettings(**sets, k=(1, 30))).metrics["grid"]
    monkeypatch.setattr(neighbors, "_CHUNK", 1)  # 128 rows of the bank, one query
    assert knn(KnnSettings(**sets, k=(1, 30))).metrics["grid"] == whole


def test_a_sweep_sees_the_training_set_only(sets, tmp_path):
    found = knn(KnnSettings(**sets, sweep=True, sweep_k=(1, 5, 20), sweep_temperature=(0.05, 0.5))).metrics
    sweep = found["sweep"]
    assert len(sweep["tried"]) == 6
    assert sweep["held_out_top1"] == max(one["held_out_top1"] for one in sweep["tried"])
    assert [(one["k"], one["temperature"]) for one in found["grid"]] == [(sweep["k"], sweep["temperature"])]
    plain = knn(KnnSettings(**sets, k=(sweep["k"],), temperature=(sweep["temperature"],))).metrics
    assert found["top1"] == plain["top1"]
    other = write(tmp_path / "other.h5", np.random.default_rng(9).normal(size=(30, 5)), np.arange(30) % 7)
    again = knn(
        KnnSettings(train=sets["train"], test=other, sweep=True, sweep_k=(1, 5, 20), sweep_temperature=(0.05, 0.5))
    )
    assert again.metrics["sweep"] == sweep
    assert "are among the test images" not in " ".join(again.table.notes)
    own = knn(KnnSettings(train=sets["train"], test=sets["train"], sweep=True, sweep_k=(1, 5)))
    assert "with leave-one-out these are among the test images" in " ".join(own.table.notes)


def test_a_sweep_of_single_images_is_rejected(tmp_path):
    path = write(tmp_path / "a.h5", np.eye(4), np.arange(4))
    with pytest.raises(DataError, match="No class has two training images"):
        knn(KnnSettings(train=path, test=path, sweep=True))


@pytest.mark.parametrize("images", [1, 9])
def test_one_class_is_nothing_to_classify(images, tmp_path):
    bank = write(tmp_path / "a.h5", np.random.default_rng(0).normal(size=(images, 4)), np.full(images, 3))
    with pytest.raises(DataError, match=r"a\.h5 has only one class \(3\); there is nothing to classify"):
        knn(KnnSettings(train=bank, test=bank))


def test_a_setting_that_changes_nothing_is_rejected(sets):
    for given, says in (
        ({"vote": "majority", "temperature": (3.0,)}, "--temperature cannot be used with --vote majority"),
        ({"recall_sample": 5}, "--recall-sample requires --index"),
        ({"held_out": 0.3}, "--held-out requires --sweep"),
    ):
        with pytest.raises(UsageError, match=says):
            KnnSettings(**sets, **given)


def test_classes_that_the_bank_lacks_are_rejected_by_name(tmp_path):
    rng = np.random.default_rng(0)
    names = ["cat", "dog", "owl"]
    bank = write(tmp_path / "a.h5", rng.normal(size=(6, 4)), [0, 1] * 3, class_names=names)
    with pytest.raises(DataError, match="owl"):
        knn(KnnSettings(train=bank, test=write(tmp_path / "b.h5", rng.normal(size=(2, 4)), [0, 2], class_names=names)))
    with pytest.raises(DataError, match=r"no image of a class of .*: 2"):
        knn(KnnSettings(train=write(tmp_path / "c.h5", rng.normal(size=(6, 4)), [0, 1] * 3),
                        test=write(tmp_path / "d.h5", rng.normal(size=(2, 4)), [0, 2])))  # fmt: skip


def test_a_class_without_images_changes_nothing(tmp_path):
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(20, 4)), np.arange(20) % 2 * 2  # nothing is a dog
    named = write(tmp_path / "a.h5", features, labels, class_names=["cat", "dog", "owl"])
    plain = write(tmp_path / "b.h5", features, labels)
    found, expected = (knn(KnnSettings(train=path, test=path, k=(3,))).metrics for path in (named, plain))
    assert found["classes"] == 2
    assert found["grid"] == expected["grid"]


def test_rows_without_a_label_or_a_feature_are_left_out_and_counted(tmp_path, capsys):
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(20, 4)), np.arange(20) % 2
    features[3], labels[5:7] = np.nan, -1
    path = write(tmp_path / "a.h5", features, labels)
    found = knn(KnnSettings(train=path, test=path, k=(3,)))
    said = capsys.readouterr().err
    assert "1 unreadable image skipped" in said
    assert "2 images without a label skipped" in said
    assert found.metrics["images"] == found.provenance["train"]["rows"] == 17
    nothing = write(tmp_path / "b.h5", features, np.full(20, -1))
    with pytest.raises(DataError, match="has no labels"):
        knn(KnnSettings(train=nothing, test=nothing))


def test_another_encoder_is_rejected_by_name(tmp_path):
    ours, theirs = (write(tmp_path / f"{arch}.h5", np.eye(4), np.arange(4), arch) for arch in ("r18", "r50"))
    with pytest.raises(DataError, match=r"cannot be used together: they differ in encoder\.arch"):
        knn(KnnSettings(train=ours, test=theirs))


def test_an_approximate_number_is_marked_with_its_recall(sets, capsys):
    exact = knn(KnnSettings(**sets, k=(5,)))
    flat = knn(KnnSettings(**sets, k=(5,), index="Flat"))
    assert exact.metrics["index"] is None
    assert flat.metrics["index"]["recall"] == 1
    assert flat.metrics["top1"] == exact.metrics["top1"]
    assert flat.metrics["index"]["exact"]
    assert "approximate" not in flat.table.title + flat.table.notes[-1].lower()
    few = knn(KnnSettings(**sets, k=(80,), index="IVF8,Flat", index_parameters="nprobe=1"))  # finds fewer than 80
    assert 0 < few.metrics["index"]["recall"] < 1
    assert "approximate" in few.table.title
    assert few.metrics["index"]["parameters"] == "nprobe=1"
    with pytest.raises(UsageError, match="nprobe=4 requires --index"):
        KnnSettings(**sets, index_parameters="nprobe=4")
    assert "recall@80" in few.table.notes[-1]


def test_the_layer_that_was_asked_for_is_read(tmp_path, sets):
    for name, path in sets.items():
        with h5py.File(path, "a") as file:
            noise = np.random.default_rng(len(name)).normal(size=(len(file["features"]), 3))
            file["layers/layer4"] = noise.astype(np.float32)
            file.attrs["encoder"] = json.dumps({"arch": "made", "layer": "layer1"})
    own = knn(KnnSettings(**sets, k=(5,)))
    other = knn(KnnSettings(**sets, k=(5,), layer="layer4"))
    assert own.metrics["top1"] == knn(KnnSettings(**sets, k=(5,), layer="layer1")).metrics["top1"] > 0.5
    assert other.metrics["top1"] < 0.4
    with pytest.raises(DataError, match="has no layer stem"):
        knn(KnnSettings(**sets, layer="stem"))
    with pytest.raises(UsageError, match="Give one --layer"):
        KnnSettings(**sets, layer=("layer1", "layer4"))


def test_a_set_without_a_fingerprint_is_still_itself(tmp_path):
    path = tmp_path / "bare.h5"
    features = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    ids = [str(row) for row in range(40)]
    write_features(path, features, np.arange(40) % 4, ids, encoder={"arch": "made"}, source={"spec": "mine"})
    found = knn(KnnSettings(train=str(path), test=str(path), k=(1,)))
    assert found.provenance["leave_one_out"]
    assert found.metrics["top1"] < 1


def test_near_duplicates_are_looked_for_by_cosine_whatever_the_metric(sets):
    with h5py.File(sets["train"], "r") as train, h5py.File(sets["test"], "a") as test:
        test["features"][:6] = train["features"][:6] * 2
    for metric in ("cosine", "l2"):
        assert knn(KnnSettings(**sets, k=(5,), metric=metric, leakage=1.0)).metrics["leakage"]["images"] == 6
    # An index that knows features by the nearest of sixteen does not say which of them are equal.
    lossy = knn(KnnSettings(**sets, k=(5,), leakage=1.0, index="PQ1x4")).metrics["leakage"]
    assert (lossy["images"], lossy["of"]) == (6, 60)
    own = KnnSettings(train=sets["test"], test=sets["test"], k=(5,), metric="l2", leakage=0.5)
    assert knn(own).metrics["leakage"]["of"] == 60


def test_the_record_names_what_was_run_and_a_sweep_takes_no_k(sets):
    assert KnnSettings(**sets).protocol() == "dino"
    assert KnnSettings(**sets, sweep=True).protocol() == "dino, changed: sweep"
    assert KnnSettings(**sets, vote="majority", metric="l2").protocol() == "dino, changed: vote, metric"
    for wrong in ({"sweep": True, "k": (5,)}, {"sweep_k": (3,)}, {"held_out": 0.2}):
        with pytest.raises(UsageError, match="--sweep"):
            KnnSettings(**sets, **wrong)
