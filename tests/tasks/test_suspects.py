import csv
import json
import sys

import h5py
import numpy as np
import pytest
from sklearn.datasets import load_digits

from simsiam_eval.features.writer import write_features

KINDS = ("label", "outlier", "class_outlier", "conflict", "duplicate")


def write(path, features, labels, names=None, ids=None):
    source = {"spec": "digits", "fingerprint": None, "class_names": names}
    ids = [f"digits/{row:04d}" for row in range(len(features))] if ids is None else ids
    features = features.astype(np.float32)
    write_features(path, features, np.asarray(labels), ids, encoder={"arch": "pixels"}, source=source)
    return path


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """500 digits with 25 wrong labels and a copy with another label: the file, and the rows."""
    features, labels = load_digits(return_X_y=True)
    features, labels = features[:500], labels[:500].copy()
    rows = np.random.default_rng(0).choice(400, 25, replace=False)
    labels[rows] = (labels[rows] + 3) % 10
    features[490], labels[490] = features[450], (labels[450] + 1) % 10
    names = [f"digit {number}" for number in range(10)]
    return write(tmp_path_factory.mktemp("planted") / "train.h5", features, labels, names), rows


def test_wrong_labels_outliers_and_duplicates_are_ranked(record, call, planted, tmp_path):
    path, rows = planted
    outputs = ("--csv", tmp_path / "s.csv", "--sheet", tmp_path / "s.html")
    made = record("suspects", path, *outputs)
    found = made["metrics"]
    first = [one["row"] for one in found["suspects"]["label"][:25]]
    assert np.isin(first, rows).mean() > 0.8
    best = found["suspects"]["label"][0]
    assert best["label"].startswith("digit ") and best["suggested"] != best["label"] and best["score"] < 0
    assert best["reason"].startswith(
        f"the 20 nearest neighbors favor {best['suggested']} over the label {best['label']}"
    )
    assert {one["row"] for one in found["suspects"]["conflict"][:2]} == {450, 490}
    assert found["conflicts"] == len(found["suspects"]["conflict"]) >= 2
    assert found["judged"] == 500 and found["method"] == "neighbors"
    lines = list(csv.DictReader((tmp_path / "s.csv").open()))
    by_kind = {kind: [line for line in lines if line["kind"] == kind] for kind in KINDS}
    assert [len(by_kind[kind]) for kind in KINDS[:3]] == [500, 500, 500]
    assert [int(line["rank"]) for line in by_kind["label"]] == list(range(1, 501))
    assert [int(line["row"]) for line in by_kind["label"][:25]] == first
    scores = [float(line["score"]) for line in by_kind["class_outlier"]]
    assert scores == sorted(scores, reverse=True) and scores[0] > 1
    assert made["files"] == {"table": str(tmp_path / "s.csv"), "sheet": str(tmp_path / "s.html")}
    page = (tmp_path / "s.html").read_text()
    assert f"rather: {best['suggested']}" in page and page.count("<img") > 50
    (tmp_path / "record.json").write_text(json.dumps(made))
    (line,) = record("runs", tmp_path)["metrics"]["runs"]
    assert line["metrics"]["wrong_labels"]["value"] == found["wrong_labels"]
    shown = call("suspects", path, "--sheet", tmp_path / "s.png").stdout
    assert "labels look wrong (--method neighbors)" in " ".join(shown.split())
    assert (tmp_path / "s.png").exists()


@pytest.mark.parametrize("method", ["logistic", "cleanlab"])
def test_other_judges(record, planted, method):
    if method == "cleanlab":
        pytest.importorskip("cleanlab")
    path, rows = planted
    found = record("suspects", path, "--method", method, "--find", "labels")["metrics"]
    first = [one["row"] for one in found["suspects"]["label"][:25]]
    assert np.isin(first, rows).mean() > 0.6
    assert found["duplicate_groups"] is None and found["suspects"]["outlier"] == []
    assert found["method"] == method


def test_a_head_judges(record, call, pipeline, planted, tmp_path):
    head = tmp_path / "head.safetensors"
    record("linear-eval", "--train", pipeline / "train.h5", "--test", pipeline / "test.h5", "--save-head", head)
    found = record("suspects", pipeline / "test.h5", "--head", head)["metrics"]
    assert found["method"] == "head" and found["judged"] == 600
    assert "the head favors" in found["suspects"]["label"][0]["reason"]
    assert "has learned their labels" in call("suspects", pipeline / "test.h5", "--head", head).stdout
    other = call("suspects", planted[0], "--head", head)
    assert other.exit_code == 1 and "was trained on other features" in other.stderr
    pytest.importorskip("cleanlab")
    command = ("suspects", pipeline / "test.h5", "--head", head, "--method", "cleanlab", "--find", "labels")
    assert record(*command)["metrics"]["judged"] == 600


def test_unlabeled_and_unreadable_rows_and_single_images_are_left_out(record, call, tmp_path):
    features, labels = load_digits(return_X_y=True)
    features, labels = features[:100], labels[:100].copy()
    labels[:10], labels[10] = -1, 17
    features[20:23] = np.nan  # marked as invalid rows
    path = write(tmp_path / "a.h5", features, labels)
    found = record("suspects", path)["metrics"]
    counts = ("images", "unreadable", "unlabeled", "alone_in_class", "judged")
    assert [found[name] for name in counts] == [97, 3, 10, 1, 86]
    rows = {one["row"] for one in found["suspects"]["label"]}
    assert not rows & {*range(11), 20, 21, 22} and 23 in rows
    notes = call("suspects", path).stdout
    assert "Not judged: 10 images without a label." in notes
    assert "Not judged: 1 image with no other image of the class." in notes


def test_one_class_no_labels_and_large_k(record, call, tmp_path):
    features = load_digits(return_X_y=True)[0][:30]
    one = write(tmp_path / "one.h5", features, [0] * 30)
    shown = call("suspects", one)
    assert shown.exit_code == 0 and "labels of only one class: likely wrong labels are not looked for" in shown.stderr
    assert "k = 10" not in shown.stderr
    unlabeled = write(tmp_path / "none.h5", features, [-1] * 30)
    failed = call("suspects", unlabeled, "--find", "labels")
    assert failed.exit_code == 1 and "has no labels, so no label can be judged" in failed.stderr
    assert record("suspects", unlabeled)["metrics"]["suspects"]["class_outlier"] == []
    two = write(tmp_path / "two.h5", features, [0, 1] * 15)
    assert "k = 500: there are only 29 neighbors; all of them vote" in call("suspects", two, "-k", 500).stderr
    alone = call("suspects", write(tmp_path / "alone.h5", features[:1], [0]))
    assert alone.exit_code == 1 and "only one readable image" in alone.stderr


def test_an_index(record, call, planted, tmp_path):
    found = record("suspects", planted[0], "--index", "HNSW16", "--find", "labels")["metrics"]
    assert found["index"]["index"] == "HNSW16"
    assert np.isin([one["row"] for one in found["suspects"]["label"][:25]], planted[1]).mean() > 0.8
    features = load_digits(return_X_y=True)[0][:30]
    path = write(tmp_path / "a.h5", features, [-1, *[0, 1] * 14, 0])
    assert "without a label, with which --index cannot be used" in call("suspects", path, "--index", "Flat").stderr


@pytest.mark.parametrize(("options", "message"), [
    (("--method", "head"), "--method head requires --head"),
    (("--method", "logistic", "-k", 3), "-k cannot be used with --method logistic"),
    (("--folds", 3), "--folds requires --method logistic or cleanlab"),
    (("--find", "outliers", "-k", 3), "-k requires labels among --find"),
    (("--find", "labels", "--threshold", 0.9), "--threshold requires duplicates among --find"),
    (("--find", "labels", "--outlier-k", 3), "--outlier-k requires outliers among --find"),
    (("--images", "digits"), "--images requires --sheet"),
    (("--index-parameters", "nprobe=3"), "requires --index"),
    (("--csv", "a.txt"), "--csv must end in .csv"),
])  # fmt: skip
def test_settings_that_contradict_each_other(call, planted, options, message):
    result = call("suspects", planted[0], *options)
    assert result.exit_code == 2 and message in result.stderr


def test_features_that_are_not_finite_and_a_missing_cleanlab(call, planted, tmp_path, monkeypatch):
    features = load_digits(return_X_y=True)[0][:30]
    path = write(tmp_path / "nan.h5", features, [0, 1] * 15)
    with h5py.File(path, "r+") as file:
        file["features"][3, 3] = np.nan
    assert "not finite" in call("suspects", path).stderr
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    missing = call("suspects", planted[0], "--method", "cleanlab", "--find", "labels")
    assert missing.exit_code == 2 and 'pip install "simsiam-eval[cleanlab]"' in missing.stderr


def test_control_characters_do_not_reach_the_terminal(call, tmp_path):
    features = load_digits(return_X_y=True)[0][:30]
    ids = [f"\x1b[2J{row}" for row in range(30)]
    path = write(tmp_path / "a.h5", features, [0, 1] * 15, ["\x1b[31ma", "b"], ids=ids)
    assert "\x1b" not in call("suspects", path).stdout


def test_a_reason_names_the_neighbor_that_the_distance_is_to(record, call, tmp_path):
    features = load_digits(return_X_y=True)[0]
    path = write(tmp_path / "few.h5", features[:9], [*[0] * 4, *[1] * 5])
    found = record("suspects", path)["metrics"]["suspects"]
    assert "to neighbor 8;" in found["outlier"][0]["reason"]
    ranks = {one["label"]: one["reason"].partition("neighbor ")[2][0] for one in found["class_outlier"]}
    assert ranks == {"0": "3", "1": "4"}
    two = call("suspects", write(tmp_path / "two.h5", features[:2], [0, 1]))
    assert "--outlier-k = 10: there is only 1 neighbor; distances are to the last one." in two.stderr
    copies = call("suspects", write(tmp_path / "copies.h5", features[[0, 0, 1]], [0, 0, 1])).stdout
    assert "1 group of near-duplicates, 0 images with a near-duplicate of another label" in " ".join(copies.split())


def test_the_table_says_what_each_file_holds(call, planted, tmp_path):
    table, sheet = tmp_path / "s.csv", tmp_path / "s.html"
    notes = " ".join(call("suspects", planted[0], "--find", "labels", "--csv", table, "--sheet", sheet).stdout.split())
    assert f"All ranked images are in {table}." in notes and f"The worst of each kind are shown in {sheet}." in notes
    notes = " ".join(call("suspects", planted[0], "--find", "labels", "--sheet", sheet).stdout.split())
    assert "--csv writes all ranked images." in notes and f"shown in {sheet}" in notes


def test_cleanlab_with_a_class_of_one_image(record, call, tmp_path, recwarn):
    pytest.importorskip("cleanlab")
    features, labels = load_digits(return_X_y=True)
    path = write(tmp_path / "a.h5", features[:60], [17, *labels[1:60]])
    found = record("suspects", path, "--method", "cleanlab", "--find", "labels")["metrics"]
    assert found["suspects"]["label"][0]["reason"].startswith("confident learning ")
    assert found["judged"] == 59 and not [one for one in recwarn if "May not flag" in str(one.message)]


def test_foreign_images_of_a_class_are_ranked_first(record, tmp_path):
    features, labels = load_digits(return_X_y=True)
    foreign = np.flatnonzero(labels == 0)[:10]
    kept = np.concatenate([np.flatnonzero((labels != 0) & (np.arange(len(labels)) < 900)), foreign])
    given = np.where(labels[kept] == 0, 1, labels[kept])
    found = record("suspects", write(tmp_path / "a.h5", features[kept], given))["metrics"]["suspects"]
    of_class = [one["row"] for one in found["class_outlier"] if one["label"] == "1"][:10]
    assert np.isin(of_class, np.arange(len(kept) - 10, len(kept))).mean() > 0.6
