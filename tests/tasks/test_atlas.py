"""`atlas` and `export --to fiftyone`: what is written agrees with `knn`, `suspects` and exact search."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from simsiam_eval.features.reader import open_features
from simsiam_eval.features.writer import FeatureWriter, write_features
from simsiam_eval.neighbors.exact import search
from simsiam_eval.sources.opening import open_source
from tasks.atlas import application, table

ROOT = Path(__file__).parents[2]
needs_atlas = pytest.mark.skipif(find_spec("embedding_atlas") is None, reason="embedding-atlas is not installed")


def write_set(path, source, features, labels=None, spec="", names=None):
    labels = source.labels if labels is None else labels
    names = names or (source.class_names and list(source.class_names))
    described = {"spec": spec or source.spec, "fingerprint": source.fingerprint(), "class_names": names}
    ids = source.ids_of(range(len(source)))
    write_features(path, features.astype(np.float32), labels, ids, encoder={"arch": "pixels"}, source=described)
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Feature files of pixels: train and test."""
    folder, files = tmp_path_factory.mktemp("digits"), {}
    for split in ("train", "test"):
        source = open_source(f"digits#{split}")
        files[split] = write_set(folder / f"{split}.h5", source, source.pixels.reshape(len(source), -1))
    return files


@pytest.fixture
def photos_with_markup(tmp_path):
    """40 photos of two classes whose names hold markup and escapes, and their feature file."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("<b>cat", "dog \x1b[31m & 'co'")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for copy in range(20):
            pixels = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
            pixels[..., number] += 150
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"<i>{copy}.png")
    source = open_source(str(tmp_path / "photos"))
    values = np.stack([np.asarray(source.image(row).reduced(1)[0]).mean(axis=(0, 1)) for row in range(40)])
    return write_set(tmp_path / "photos.h5", source, values, spec=str(tmp_path / "photos"))


def rows_of(folder):
    return parquet.read_table(folder / "atlas.parquet").to_pylist()


def test_columns_agree_with_the_other_commands(record, digits, tmp_path):
    made = record("atlas", digits["test"], "--map", "pca", "--out", tmp_path / "a", "--thumbnails", 100)
    metrics, rows = made["metrics"], rows_of(tmp_path / "a")
    assert made["files"] == {"table": str(tmp_path / "a" / "atlas.parquet")}
    assert len(rows) == metrics["images"] == 600
    features = open_features(digits["test"])
    similarities, nearest = search(features.features, None, 10)
    assert [row["neighbors"]["ids"] for row in rows] == nearest.tolist()
    np.testing.assert_allclose([row["neighbors"]["distances"] for row in rows], 1 - similarities, atol=1e-6)
    assert [row["id"] for row in rows] == features.ids.tolist()
    assert [row["row"] for row in rows] == list(range(600))
    top1 = record("knn", "--train", digits["test"], "--test", digits["test"], "-k", 20)["metrics"]["top1"]
    assert metrics["correct"] / 600 == pytest.approx(top1)
    assert sum(row["result"] == "correct" for row in rows) == metrics["correct"]
    assert all((row["label"] == row["predicted"]) == (row["result"] == "correct") for row in rows)
    suspects = record("suspects", digits["test"], "--top", 600)["metrics"]
    assert metrics["wrong_labels"] == suspects["wrong_labels"]
    assert metrics["duplicate_groups"] == suspects["duplicate_groups"] and metrics["conflicts"] == suspects["conflicts"]
    for kind, column in (
        ("label", "margin"),
        ("outlier", "outlier_distance"),
        ("class_outlier", "class_outlier_ratio"),
    ):
        for one in suspects["suspects"][kind]:
            assert rows[one["row"]][column] == pytest.approx(one["score"], abs=1e-6)
    assert {row["suspect"] for row in rows} == {
        None, "likely wrong label", "near-duplicate", "near-duplicate with another label",
    }  # fmt: skip
    thumbnails = [row["image"] for row in rows if row["image"]]
    assert len(thumbnails) == metrics["thumbnails"] == 100 and thumbnails[0][8:12] == b"WEBP"
    assert metrics["map"] == {"method": "pca", "fitted": 600, "placed": 0}


def test_training_features_vote(record, digits, tmp_path):
    made = record("atlas", digits["test"], "--train", digits["train"], "--map", "pca", "--out", tmp_path, "-k", 5)
    top1 = record("knn", "--train", digits["train"], "--test", digits["test"], "-k", 5)["metrics"]["top1"]
    assert made["metrics"]["correct"] / 600 == pytest.approx(top1)
    rows, train, test = rows_of(tmp_path), open_features(digits["train"]), open_features(digits["test"])
    similarities, nearest = search(train.features, test.features, 1)
    assert [row["nearest_training"] for row in rows] == train.ids[nearest[:, 0]].tolist()
    np.testing.assert_allclose([row["training_similarity"] for row in rows], similarities[:, 0], atol=1e-6)
    assert max(max(row["neighbors"]["ids"]) for row in rows) < 600  # rows of this table


def test_a_second_run_keeps_the_table_until_something_changes(call, record, digits, tmp_path):
    arguments = ("atlas", digits["test"], "--map", "pca", "--out", tmp_path / "a", "--thumbnails", 0)
    first = record(*arguments)
    again = call(*arguments, "--json")
    assert "is up to date" in again.stderr and json.loads(again.stdout)["metrics"]["kept"]
    assert json.loads(again.stdout)["metrics"]["correct"] == first["metrics"]["correct"]
    assert not record(*arguments, "-k", 3)["metrics"]["kept"]
    os.utime(digits["test"])
    assert not record(*arguments, "-k", 3)["metrics"]["kept"]


def test_an_index_finds_about_the_same(record, digits, tmp_path):
    exact = record("atlas", digits["test"], "--map", "pca", "--out", tmp_path / "exact", "--thumbnails", 0)["metrics"]
    options = ("--index", "IVF16,Flat", "--index-parameters", "nprobe=8", "--map", "pca", "--thumbnails", 0)
    found = record("atlas", digits["test"], *options, "--out", tmp_path / "ivf")["metrics"]
    assert found["index"]["index"] == "IVF16,Flat" and "nprobe=8" in found["index"]["parameters"]
    assert abs(found["correct"] - exact["correct"]) <= 6
    by_train = record("atlas", digits["test"], "--train", digits["train"], *options, "--out", tmp_path / "train")
    assert by_train["metrics"]["correct"] > 570


@pytest.mark.parametrize("index", [(), ("--index", "IVF4,Flat", "--index-parameters", "nprobe=4")])
def test_images_without_a_label_are_predicted_and_do_not_vote(record, digits, tmp_path, index):
    source = open_source("digits#test")
    labels = np.where(np.arange(600) % 2, source.labels, -1)
    path = write_set(tmp_path / "half.h5", source, source.pixels.reshape(600, -1), labels)
    metrics = record("atlas", path, "--map", "pca", "--out", tmp_path / "a", *index)["metrics"]
    rows = rows_of(tmp_path / "a")
    assert metrics["unlabeled"] == 300 and metrics["correct"] + metrics["wrong"] == 300
    right = [row["predicted"] == str(label) for row, label in zip(rows, source.labels, strict=True)]
    assert np.mean(right) > 0.9
    assert all(row["label"] is None and row["result"] is None and row["margin"] is None for row in rows[::2])
    suspects = record("suspects", path)["metrics"]
    assert metrics["wrong_labels"] == suspects["wrong_labels"] or index


@pytest.mark.parametrize(("labels", "why"), [(-1, "has no labels"), (3, "has labels of only one class")])
def test_without_classes_there_are_no_votes(call, digits, tmp_path, labels, why):
    source = open_source("digits#test")
    path = write_set(tmp_path / "one.h5", source, source.pixels.reshape(600, -1), np.full(600, labels))
    made = call("atlas", path, "--map", "pca", "--out", tmp_path / "a", "--json")
    assert made.exit_code == 0 and why in made.stderr
    metrics, rows = json.loads(made.stdout)["metrics"], rows_of(tmp_path / "a")
    assert metrics["correct"] is metrics["wrong"] is metrics["wrong_labels"] is None
    assert {row["predicted"] for row in rows} == {None} and len(rows[0]["neighbors"]["ids"]) == 10
    if labels < 0:  # the training set names the classes
        made = call("atlas", path, "--train", digits["train"], "--map", "pca", "--out", tmp_path / "b", "--json")
        right = [
            row["predicted"] == str(label) for row, label in zip(rows_of(tmp_path / "b"), source.labels, strict=True)
        ]
        assert made.exit_code == 0 and np.mean(right) > 0.9


@pytest.mark.parametrize("count", [2, 3, 5])
def test_few_rows(record, tmp_path, count):
    ids = [f"{number}" for number in range(count)]
    features = np.eye(count, 4, dtype=np.float32) + 0.1
    source = {"spec": None, "fingerprint": None, "class_names": None}
    write_features(tmp_path / "few.h5", features, np.arange(count) % 2, ids, encoder={"arch": "x"}, source=source)
    record("atlas", tmp_path / "few.h5", "--out", tmp_path / "a")
    assert [len(row["neighbors"]["ids"]) for row in rows_of(tmp_path / "a")] == [count - 1] * count


def test_one_row_and_features_that_are_not_finite_are_errors(call, tmp_path):
    source = {"spec": None, "fingerprint": None, "class_names": None}
    one = np.ones((1, 2), np.float32)
    write_features(tmp_path / "one.h5", one, np.zeros(1, int), ["a"], encoder={"arch": "x"}, source=source)
    failed = call("atlas", tmp_path / "one.h5", "--out", tmp_path / "a")
    assert failed.exit_code == 1 and "only one readable image" in failed.stderr
    features = np.ones((30, 2), np.float32)
    write_features(
        tmp_path / "nan.h5", features, np.zeros(30, int), list("a" * 30), encoder={"arch": "x"}, source=source
    )
    with h5py.File(tmp_path / "nan.h5", "r+") as file:
        file["features"][7, 1] = np.nan
    failed = call("atlas", tmp_path / "nan.h5", "--map", "pca", "--out", tmp_path / "a")
    assert failed.exit_code == 1 and "not finite (row 7)" in failed.stderr
    assert not list((tmp_path / "a").glob("*"))


def test_unreadable_rows_are_left_out(record, tmp_path):
    class Rows:
        labels = np.arange(40) % 2

        def __len__(self):
            return 40

        def ids_of(self, rows):
            return [f"image {row}" for row in rows]

    source = {"spec": None, "fingerprint": None, "class_names": ["a", "b"]}
    attributes = {"encoder": {"arch": "x"}, "preprocessing": {}, "source": source, "precision": "float32"}
    values = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    with FeatureWriter(tmp_path / "f.h5", Rows(), {"features": (3,)}, "float16", attributes) as writer:
        writer.write(0, {"features": values}, {4: ("image 4", "torn")})
        writer.finish()
    metrics = record("atlas", tmp_path / "f.h5", "--map", "pca", "--out", tmp_path / "a")["metrics"]
    rows = rows_of(tmp_path / "a")
    assert metrics["unreadable"] == 1 and metrics["images"] == len(rows) == 39
    assert [row["row"] for row in rows] == [row for row in range(40) if row != 4]
    assert [row["id"] for row in rows][4] == "image 5"
    assert metrics["thumbnails"] == 0  # the source is unknown


def test_blocks_do_not_show(record, digits, tmp_path, monkeypatch):
    whole = record("atlas", digits["test"], "--map", "pca", "--out", tmp_path / "a")
    monkeypatch.setattr(table, "_BLOCK", 70)
    parts = record("atlas", digits["test"], "--map", "pca", "--out", tmp_path / "b")
    assert parquet.ParquetFile(tmp_path / "b" / "atlas.parquet").metadata.num_row_groups == 9
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    assert whole["metrics"]["thumbnails"] == parts["metrics"]["thumbnails"] == 600


def test_rows_that_are_placed_keep_their_neighborhoods(record, digits, tmp_path):
    """kNN in the plane: of a map computed from a third of the digits, about as good as of one computed from all."""
    pytest.importorskip("umap")
    shares = []
    for sample in (20_000, 400):
        options = ("--map", "umap", "--map-sample", sample, "--thumbnails", 0, "--out", tmp_path / str(sample))
        made = record("atlas", digits["train"], *options)["metrics"]
        assert made["map"]["fitted"] == min(sample, 1197)
        rows = rows_of(tmp_path / str(sample))
        points, labels = np.array([(row["x"], row["y"]) for row in rows]), np.array([row["label"] for row in rows])
        distances = np.square(points[:, None] - points[None]).sum(axis=2)
        np.fill_diagonal(distances, np.inf)
        shares.append((labels[distances.argmin(axis=1)] == labels).mean())
    assert min(shares) > 0.88 and shares[1] > shares[0] - 0.08, shares


def test_markup_and_escapes_are_kept_as_text(record, photos_with_markup, tmp_path):
    record("atlas", photos_with_markup, "--map", "pca", "--out", tmp_path / "a")
    rows = rows_of(tmp_path / "a")
    assert {row["label"] for row in rows} == {"<b>cat", "dog \\x1b[31m & 'co'"}
    assert not any("\x1b" in row["id"] or "\x1b" in row["label"] for row in rows)
    assert rows[0]["id"].endswith("<i>0.png") and all(row["image"] for row in rows)


def test_images_that_are_gone_are_counted_and_looked_for_again(call, record, photos_with_markup, tmp_path):
    gone = tmp_path / "photos" / "<b>cat" / "<i>3.png"
    content = gone.read_bytes()
    gone.write_bytes(b"")
    arguments = ("atlas", photos_with_markup, "--map", "pca", "--out", tmp_path / "a")
    made = call(*arguments)
    assert "1 thumbnail could not be made" in made.stdout
    gone.write_bytes(content)
    metrics = record(*arguments)["metrics"]
    assert (metrics["thumbnails"], metrics["thumbnails_missing"]) == (40, 0)
    (tmp_path / "photos").rename(tmp_path / "moved")
    made = call("atlas", photos_with_markup, "--map", "pca", "--out", tmp_path / "b")
    assert made.exit_code == 0 and "cannot be shown" in made.stderr and "--image image" not in made.stdout
    options = ("--images", tmp_path / "moved", "--map", "pca", "--out", tmp_path / "c")
    assert record("atlas", photos_with_markup, *options)["metrics"]["thumbnails"] == 40


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("gone.h5",), 1, "Feature file gone.h5 does not exist"),
        (("TEST", "--train", "gone.h5"), 1, "gone.h5 does not exist"),
        (("TEST", "--train", "TEST"), 1, "contains the same images"),
        (("TEST", "--out", "FILE"), 1, "cannot be written"),
        (("TEST", "--index-parameters", "nprobe=2"), 2, "requires --index"),
        (("TEST", "--port", 80), 2, "--port requires --open"),
        (("TEST", "--map", "pca", "--map-sample", 50), 2, "--map-sample cannot be used with --map pca"),
        (("TEST", "--index", "nonsense"), 2, "is not a FAISS factory string"),
    ],
)
def test_mistakes_are_one_sentence(call, digits, tmp_path, arguments, status, message):
    (tmp_path / "file").write_text("")
    given = {"TEST": digits["test"], "FILE": tmp_path / "file"}
    arguments = [given.get(argument, argument) for argument in arguments]
    out = () if "--out" in arguments else ("--out", tmp_path / "a")
    failed = call("atlas", *arguments, *out)
    assert failed.exit_code == status, failed.output
    assert message in " ".join(failed.stderr.split()), failed.stderr


@pytest.mark.parametrize("option", ["--open", "--application"])
def test_embedding_atlas_is_named_where_it_is_missing(call, digits, tmp_path, monkeypatch, option):
    monkeypatch.setattr(application, "find_spec", lambda name: None)
    failed = call("atlas", digits["test"], option, "--out", tmp_path / "a")
    assert failed.exit_code == 2 and f"{option} requires embedding-atlas" in failed.stderr
    assert not (tmp_path / "a").exists()


@needs_atlas
def test_a_folder_that_is_no_application_is_kept(call, digits, tmp_path):
    (tmp_path / "application").mkdir()
    (tmp_path / "application" / "mine.txt").write_text("mine")
    failed = call("atlas", digits["test"], "--application", "--out", tmp_path)
    assert failed.exit_code == 1 and "is not an application of embedding-atlas" in failed.stderr
    assert (tmp_path / "application" / "mine.txt").read_text() == "mine"


@needs_atlas
def test_the_application_shows_the_table_without_requests_elsewhere(record, browser, photos_with_markup, tmp_path):
    arguments = ("atlas", photos_with_markup, "--map", "pca", "--application", "--out", tmp_path / "a")
    record(*arguments)
    made = record(*arguments)  # replaces the application
    folder = made["files"]["application"]
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.get_by_text("40 points").first.wait_for(timeout=120_000)
        page.get_by_text("<b>cat").first.wait_for(timeout=60_000)
        page.locator("img[src^='data:image/webp'], img[src^='blob:']").first.wait_for(timeout=60_000)
        server.shutdown()
        page.close()
    assert all(url.startswith((f"http://127.0.0.1:{server.server_port}/", "data:", "blob:")) for url in requests)


@needs_atlas
def test_open_serves_until_ctrl_c(digits, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--map", "pca", "--thumbnails", "5", "--out", str(tmp_path / "a"), "--open", "--port", str(port)]
    run = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "atlas", str(digits["test"]), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = []
    for line in run.stderr:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    assert f"http://127.0.0.1:{port}" in lines[-1], lines
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/metadata.json") as answer:
        assert json.load(answer)["props"]["data"]["neighbors"] == "neighbors"
    run.send_signal(signal.SIGINT)
    out, error = run.communicate(timeout=60)
    assert run.returncode == 0 and "embedding-atlas has stopped." in error and "Atlas of" in out
    time.sleep(0.1)
    with socket.socket() as closed:
        assert closed.connect_ex(("127.0.0.1", port)) != 0


def fiftyone_samples(folder):
    metadata, samples = (json.loads((folder / f"{name}.json").read_text()) for name in ("metadata", "samples"))
    return metadata, samples["samples"]


def test_fiftyone_samples_have_labels_predictions_vectors_and_scores(record, digits, tmp_path):
    made = record("export", digits["test"], "--to", "fiftyone", "--train", digits["train"], "--out", tmp_path / "fo",
                  "--map", "pca")  # fmt: skip
    metadata, samples = fiftyone_samples(tmp_path / "fo")
    assert made["metrics"]["samples"] == made["metrics"]["written"] == len(samples) == 600
    record("atlas", digits["test"], "--train", digits["train"], "--map", "pca", "--out", tmp_path / "a")
    for sample, row in zip(samples, rows_of(tmp_path / "a"), strict=True):
        assert sample["ground_truth"]["label"] == row["label"] and sample["prediction"]["label"] == row["predicted"]
        assert sample["prediction"]["confidence"] == pytest.approx(row["confidence"])
        assert sample["tags"] == ([row["suspect"]] if row["suspect"] else [])
        assert (sample["map_x"], sample["map_y"]) == (row["x"], row["y"])
        for column in ("margin", "outlier_distance", "nearest_training", "duplicate_group", "row"):
            assert sample[column] == row[column]
    assert len({sample["_id"]["$oid"] for sample in samples}) == 600
    pixels = np.asarray(Image.open(tmp_path / "fo" / samples[5]["filepath"]))
    assert pixels.shape == (8, 8, 3)
    declared = {field["db_field"] for field in metadata["sample_fields"]}
    assert set(samples[0]) <= declared
    # Its vectors and labels are read back by `import`.
    record("import", tmp_path / "fo", "--to", tmp_path / "back.h5")
    back = open_features(tmp_path / "back.h5")
    np.testing.assert_array_equal(back.features[:], open_features(digits["test"]).features[:])


def test_fiftyone_links_to_image_files(call, record, photos_with_markup, tmp_path):
    made = record("export", photos_with_markup, "--to", "fiftyone", "--out", tmp_path / "fo", "--map", "pca")
    _, samples = fiftyone_samples(tmp_path / "fo")
    assert made["metrics"]["linked"] == 20 and made["metrics"]["written"] == 20  # of a path with escapes: a copy
    assert sum(os.path.isabs(sample["filepath"]) for sample in samples) == 20
    assert all((tmp_path / "fo" / sample["filepath"]).exists() for sample in samples)
    (tmp_path / "photos").rename(tmp_path / "moved")
    made = call("export", photos_with_markup, "--to", "fiftyone", "--out", tmp_path / "gone", "--map", "pca")
    assert made.exit_code == 0 and "40 samples without an image file" in made.stdout
    failed = call("export", photos_with_markup, "--to", "fiftyone", "--out", tmp_path / "gone")
    assert failed.exit_code == 1 and "already exists" in failed.stderr
    failed = call("export", photos_with_markup, "--to", "npy", "-k", 3, "--out", tmp_path / "npy")
    assert failed.exit_code == 2 and "-k requires --to fiftyone" in failed.stderr


def test_fiftyone_imports_the_folder(record, digits, tmp_path):
    """Needs FiftyOne and a MongoDB, its own or that of FIFTYONE_DATABASE_URI."""
    fiftyone = pytest.importorskip("fiftyone", reason="FiftyOne is not installed")
    record("export", digits["test"], "--to", "fiftyone", "--out", tmp_path / "fo", "--map", "pca")
    try:
        dataset = fiftyone.Dataset.from_dir(str(tmp_path / "fo"), dataset_type=fiftyone.types.FiftyOneDataset)
    except fiftyone.core.config.FiftyOneConfigError:
        pytest.skip("FiftyOne has no MongoDB")
    try:
        assert len(dataset) == 600
        correct = dataset.evaluate_classifications("prediction", gt_field="ground_truth").metrics()["accuracy"]
        record("atlas", digits["test"], "--map", "pca", "--out", tmp_path / "a")
        assert correct == np.mean([row["result"] == "correct" for row in rows_of(tmp_path / "a")])
        np.testing.assert_array_equal(dataset.first().embedding, open_features(digits["test"]).features[0])
        assert dataset.count_sample_tags()["likely wrong label"] > 0
        assert Path(dataset.first().filepath).is_file()
    finally:
        dataset.delete()
