"""The page: what it holds, what it says is missing, and names that could be markup."""

import base64
import html
import json
import re
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest
from PIL import Image

from simsiam_eval.features.writer import write_features
from tasks.report import scoreboard
from tasks.report.images import MAX_CLUSTERS, SCALE
from tasks.report.page import embedded
from tests.tasks.detection.conftest import write_voc
from tests.tasks.report.conftest import CLASSES


class Elements(HTMLParser):
    """Names of the elements of a page, and the text of those that are no script or style."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self._skipped = [], [], False

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._skipped = tag in ("script", "style")
        assert not any(name.startswith("on") for name, _ in attributes), attributes

    def handle_endtag(self, tag):
        self._skipped = False

    def handle_data(self, data):
        if not self._skipped:
            self.text.append(data)


def parsed(path):
    elements = Elements()
    elements.feed(path.read_text(encoding="utf-8"))
    return elements


def test_names_of_files_and_classes_are_text_and_not_markup(page, data_of):
    folder, _ = page
    elements = parsed(folder / "page.html")
    assert not {"b", "i", "img", "iframe", "object"} & set(elements.tags)
    assert elements.tags.count("script") == 3  # data, chart library, our script
    text = " ".join(elements.text)
    assert "\x1b" not in (folder / "page.html").read_text(encoding="utf-8")
    assert CLASSES[1] in text
    assert any("<script>bad()" in name for name in data_of(folder / "page.html")["images"]["ids"])


def test_nothing_is_loaded_from_elsewhere(page):
    text = (page[0] / "page.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"(src|href)=\"(?!data:|#)", text.split('<script type="application/json"')[0])


def test_scores_are_those_of_the_commands(page, call, record):
    folder, made = page
    found = record("knn", "--train", folder / "first-train.h5", "--test", folder / "first-test.h5", "-k", 20)["metrics"]
    scores = made["metrics"]["scores"]
    assert scores["kNN top-1, k 20, T 0.07"] == found["top1"]
    assert {"linear top-1", "retrieval recall@1", "retrieval mAP"} <= set(scores)
    assert made["metrics"]["missing"] == []
    assert made["metrics"]["images"] == 90
    assert made["metrics"]["thumbnails"] == 90


def test_the_heat_map_of_many_images_is_of_a_sample_and_the_score_of_all(call, features_of, tmp_path, monkeypatch):
    files = features_of(tmp_path, "many", 0.7)
    monkeypatch.setattr(scoreboard, "GRID_IMAGES", 20)
    for given in ([files["train"], files["test"]], [files["train"]]):
        shown = call("report", *given, "--map", "pca", "--out", tmp_path / "page.html", "--json")
        assert shown.exit_code == 0, shown.output
        name = ["--train", files["train"], "--test", given[-1]]
        knn = json.loads(call("knn", *name, "-k", 20, "--json").stdout)
        assert json.loads(shown.stdout)["metrics"]["scores"]["kNN top-1, k 20, T 0.07"] == knn["metrics"]["top1"]
        assert "of a sample of 20 test images" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_how_to_repeat_it_begins_with_the_page_and_has_the_hashes(page):
    text = html.unescape((page[0] / "page.html").read_text(encoding="utf-8"))
    repeat = text[text.index('<section id="repeat">') :]
    assert repeat.index("this page") < repeat.index("linear.json, 20") < repeat.index("Fingerprint of the test images")


def test_numbers_of_the_map_are_complete(page, data_of):
    data = data_of(page[0] / "page.html")
    images = data["images"]
    decode = lambda name, dtype: np.frombuffer(base64.b64decode(images[name]), dtype)  # noqa: E731
    assert len(images["ids"]) == images["count"] == 90
    assert images["tests"] == 36
    neighbors = decode("neighbors", "<i4").reshape(90, -1)
    assert neighbors.min() >= 36  # training images vote
    assert all(row not in found for row, found in enumerate(neighbors.tolist()))
    similarities = decode("similarities", "<i2").reshape(neighbors.shape) / SCALE
    assert np.abs(similarities).max() <= 1
    assert (np.diff(similarities, axis=1) <= 0).all()
    assert np.isfinite(decode("x", "<f4")).all()
    assert sorted(decode("thumbnails", "<i4").tolist()) == list(range(90))
    change = np.frombuffer(base64.b64decode(images["pair"]["change"]), "<i4")
    assert len(change) == 36
    assert set(change.tolist()) <= {-1, 0, 1}
    assert {"scores", "knn", "fewshot", "confusion"} <= set(data["figures"])


def test_missing_parts_are_said_with_the_command_that_makes_them(call, features_of, tmp_path):
    files = features_of(tmp_path, "alone", 0.4)
    shown = call("report", files["train"], files["test"], "--map", "pca", "--out", tmp_path / "page.html")
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.stdout.split())
    for what in ("linear evaluation", "few-shot accuracy", "retrieval", "quality without labels"):
        assert f"Missing: {what}" in text
    assert "simsiam-eval linear-eval --train" in text


def test_images_of_one_class_lack_no_accuracy(record, tmp_path):
    features, ids = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32), [f"{n}.jpg" for n in range(30)]
    source = {"spec": "nowhere", "fingerprint": "x", "class_names": ["only"]}
    path = tmp_path / "one.h5"
    write_features(path, features, np.zeros(30, np.int64), ids, encoder={"arch": "made"}, source=source)
    metrics = record("report", path, "--map", "pca", "--out", tmp_path / "page.html")["metrics"]
    assert metrics["scores"] == {}
    assert metrics["missing"] == ["quality without labels"]


def test_unlabeled_images_have_a_map_and_no_accuracy(record, tmp_path, data_of):
    rng = np.random.default_rng(0)
    path = tmp_path / "unlabeled.h5"
    features, ids = rng.normal(size=(30, 8)).astype(np.float32), [f"{n}.jpg" for n in range(30)]
    source = {"spec": "nowhere", "fingerprint": "x", "class_names": None}
    write_features(path, features, np.full(30, -1), ids, encoder={"arch": "made"}, source=source)
    made = record("report", path, "--map", "pca", "--out", tmp_path / "page.html")
    assert made["metrics"]["scores"] == {}
    assert made["metrics"]["thumbnails"] == 0
    assert data_of(tmp_path / "page.html")["images"]["count"] == 30


def test_many_classes_have_fewer_clusters_and_a_part_of_the_confusion_matrix(record, tmp_path, data_of):
    rng = np.random.default_rng(0)
    labels = np.arange(210) % 70
    features = (rng.normal(size=(70, 8))[labels] + 0.5 * rng.normal(size=(210, 8))).astype(np.float32)
    source = {"spec": "nowhere", "fingerprint": "x", "class_names": [f"class {n}" for n in range(70)]}
    path = tmp_path / "many.h5"
    write_features(path, features, labels, [f"{n}.jpg" for n in range(210)], encoder={"arch": "made"}, source=source)
    record("report", path, "--map", "pca", "--out", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"Clusters: k-means with k {MAX_CLUSTERS}." in text
    assert "The 60 of 70 classes with the most frequent confusions." in text
    images = data_of(tmp_path / "page.html")["images"]
    clusters = np.frombuffer(base64.b64decode(images["clusters"]), "<i4")
    assert sorted(set(clusters.tolist())) == list(range(MAX_CLUSTERS))
    assert (np.diff(np.bincount(clusters)) <= 0).all()  # the largest first


def test_few_thumbnails_are_those_of_errors_first(record, features_of, tmp_path, data_of):
    files = features_of(tmp_path, "noisy", 0.7)
    made = record(
        "report", files["train"], files["test"], "--map", "pca", "--thumbnails", 70, "--out", tmp_path / "p.html"
    )
    assert made["metrics"]["thumbnails"] == 70
    images = data_of(tmp_path / "p.html")["images"]
    decode = lambda name: np.frombuffer(base64.b64decode(images[name]), "<i4")  # noqa: E731
    wrong = np.flatnonzero(decode("labels")[: images["tests"]] != decode("guesses")[: images["tests"]])
    assert len(wrong)
    assert (decode("thumbnails")[wrong] >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ([], 2, "requires results of other commands, or --test"),
        (["missing.h5"], 1, "missing.h5"),
        (["empty"], 1, "contains no feature file"),
        (["other.txt"], 1, "other.txt"),
        (["--test", "folder:photos"], 2, "images require --checkpoint"),
        (["--checkpoint", "c.pth", "--train", "train.h5"], 2, "--test"),
        (["--checkpoint", "c.pth", "--train", "digits", "--test", "digits"], 2, "leave out --train"),
        (["--test", "test.h5", "--linear", "small2"], 2, "small2"),
        (["test.h5", "--out", "page.pdf"], 2, ".html"),
        (["test.h5", "--thumbnails", "-1"], 2, "--thumbnails"),
    ],
)
def test_what_cannot_be_reported_is_one_sentence(call, tmp_path, monkeypatch, arguments, status, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.txt").write_text("text")
    shown = call("report", *arguments)
    assert shown.exit_code == status, shown.output
    assert says in shown.stderr
    assert not (tmp_path / "report.html").exists()


def test_training_and_test_set_are_not_guessed(call, features_of, tmp_path):
    files = features_of(tmp_path, "same", 0.4)
    for split, name in (("train", "a.h5"), ("test", "b.h5")):
        with h5py.File(files[split], "r+") as file:
            source = json.loads(file.attrs["source"])
            file.attrs["source"] = json.dumps(source | {"spec": "nowhere"})
        files[split].rename(tmp_path / name)
    shown = call("report", tmp_path / "a.h5", tmp_path / "b.h5", "--out", tmp_path / "p.html")
    assert shown.exit_code == 1
    assert "--train" in shown.stderr
    named = call(
        "report",
        "--train",
        tmp_path / "a.h5",
        "--test",
        tmp_path / "b.h5",
        "--map",
        "pca",
        "--out",
        tmp_path / "p.html",
    )
    assert named.exit_code == 0, named.output


def test_a_checkpoint_is_evaluated_first_and_only_once(checkpoint, call, record, tmp_path, data_of):
    arguments = ["report", "--checkpoint", checkpoint, "--train", "digits#train", "--test", "digits#test",
                 "--map", "pca", "--out", tmp_path / "page.html"]  # fmt: skip
    made = record(*arguments)
    assert {"linear top-1", "retrieval mAP"} <= set(made["metrics"]["scores"])
    assert made["metrics"]["missing"] == []
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "page-files").iterdir()}
    assert {"train.h5", "test.h5", "head.safetensors", "linear.json", "few-shot.json", "retrieval.json"} <= set(files)
    again = record(*arguments)
    assert again["metrics"]["scores"] == made["metrics"]["scores"]
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "page-files").iterdir()} == files


def test_a_checkpoint_with_images_that_have_no_labels_or_no_training_set(checkpoint, call, record, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 90, 120)).save(flat / f"{number}.png")
    arguments = ["--checkpoint", checkpoint, "--map", "pca"]
    unlabeled = call("report", *arguments, "--test", flat, "--out", tmp_path / "flat.html", "--json")
    assert unlabeled.exit_code == 0, unlabeled.output
    assert f"--test {flat} do not have labels of at least two classes" in unlabeled.stderr
    assert json.loads(unlabeled.stdout)["metrics"]["scores"] == {}
    alone = record("report", *arguments, "--test", "digits#test", "--out", tmp_path / "digits.html")
    assert {"kNN top-1, k 20, T 0.07", "retrieval mAP"} <= set(alone["metrics"]["scores"])
    assert alone["metrics"]["missing"] == ["a training set"]


def test_detections_of_a_run(record, tmp_path):
    folder = write_voc(tmp_path / "voc", {"trainval": 3, "test": 2}, side=96)
    size = ["--min-sizes", 64, "--test-size", 64, "--max-size", 64]
    few = ["--iterations", 1, "--batch-size", 2, "--proposals", 20, "--rois", 8, "--precise-bn", 1, "--workers", 0]
    record("detect", "--backend", "torchvision", "--init", "random", "--arch", "resnet18", "--preset", "voc07",
           "--heads", "fpn", "--train", f"voc:{folder}#trainval", "--test", f"voc:{folder}#test", "--out",
           tmp_path / "run", *size, *few)  # fmt: skip
    record("report", tmp_path / "run", "--out", tmp_path / "page.html")
    page = html.unescape((tmp_path / "page.html").read_text(encoding="utf-8"))
    for text in ("Protocol voc07 (modified), 2 test images", "paper: SimSiam, base recipe", "is not followed: changed",
                 'src="data:image/png;base64,', "simsiam-eval detect --arch resnet18"):  # fmt: skip
        assert text in page
    (tmp_path / "run").rename(tmp_path / "moved")  # the record has the old path of the picture
    record("report", tmp_path / "moved", "--out", tmp_path / "page.html")
    assert 'src="data:image/png;base64,' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_run_folder_shows_its_training(pipeline, record, tmp_path, data_of):
    made = record("report", pipeline / "run", "--out", tmp_path / "page.html")
    assert made["metrics"]["images"] == 0
    assert "training0" in data_of(tmp_path / "page.html")["figures"]


def test_unreadable_images_are_a_fault_of_the_page(call, checkpoint, photos, tmp_path):
    features = tmp_path / "photos.h5"
    call("extract", "--checkpoint", checkpoint, "--data", photos, "--out", features)
    shown = call("report", features, "--map", "pca", "--max-unreadable", 0.001, "--out", tmp_path / "page.html")
    assert shown.exit_code == 1
    assert "--max-unreadable 0.001" in shown.stderr
    assert (tmp_path / "page.html").exists()


def test_commands_for_missing_parts_can_be_pasted(call, features_of, tmp_path):
    (tmp_path / "my files").mkdir()
    files = features_of(tmp_path / "my files", "quoted", 0.4)
    made = json.loads(call("report", *files.values(), "--map", "pca", "--out", tmp_path / "p.html", "--json").stdout)
    assert "linear evaluation" in made["metrics"]["missing"]
    assert f"--train '{files['train']}'" in html.unescape((tmp_path / "p.html").read_text(encoding="utf-8"))


def test_numbers_that_are_not_finite_are_valid_json():
    assert json.loads(embedded({"score": float("inf"), "name": "</script>"})) == {"score": None, "name": "</script>"}
    assert "</" not in embedded("</script>")


def test_encoders_are_compared_under_the_names_of_their_files(page):
    words = [text.strip() for text in parsed(page[0] / "page.html").text if text.strip()]
    p = words.index("McNemar exact p")
    cells = dict(zip(words[p - 5 : p + 3], words[p + 3 : p + 11], strict=True))
    assert (cells["first"], cells["second"]) == ("first", "second")
    gained, lost = int(cells["only second right"]), int(cells["only first right"])
    assert gained != lost
    assert cells["second minus first, points [95 %]"].startswith(f"{100 * (gained - lost) / 36:.2f} [")
    assert any(text.startswith(f"Only second is right ({gained} image") for text in words)
