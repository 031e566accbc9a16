"""The three commands on handwritten digits and on made features."""

import csv

import h5py
import numpy as np
import pytest
from PIL import Image

from simsiam_eval.errors import DataError
from simsiam_eval.features.writer import write_features
from simsiam_eval.sources.opening import open_source
from tasks.retrieval.evaluate import RetrievalEvalSettings, retrieval_eval


def write(path, features, labels, arch="made", class_names=None, **more):
    source = {"spec": "nowhere", "fingerprint": path.stem, "class_names": class_names}
    ids = [f"{path.stem} {row}" for row in range(len(features))]
    write_features(
        path, features.astype(np.float32), np.asarray(labels), ids, encoder={"arch": arch}, source=source, **more
    )
    return str(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten of the test digits as PNG files, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    digits = open_source("digits#test")
    for row in range(10):
        Image.fromarray(digits.image(row).pixels()).save(folder / f"{row}.png")
    (folder / "torn.png").write_bytes(b"torn")
    return folder


def test_eval_by_hand(tmp_path):
    path = write(tmp_path / "a.h5", np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0.5, 0.6]]), [0, 0, 1, 1, 2])
    metrics = retrieval_eval(RetrievalEvalSettings(gallery=path, k=(1, 10))).metrics
    assert metrics["queries_without_relevant"] == 1  # the only image of class 2
    assert metrics["queries"] == 4
    assert metrics["recall_at_1"] == metrics["map"] == metrics["mrr"] == metrics["r_precision"] == 1
    assert metrics["precision_at_10"] == 1 / 4  # there are four others
    assert metrics["by_class"]["1"]["recall_at_1"] == 1
    assert set(metrics["by_class"]) == {"0", "1"}


def test_a_class_that_the_gallery_lacks_is_left_out_and_said(tmp_path):
    rng = np.random.default_rng(0)
    gallery, queries = (
        write(tmp_path / f"{n}.h5", rng.normal(size=(9, 3)), np.arange(9) % m) for n, m in ((1, 2), (2, 3))
    )
    found = retrieval_eval(RetrievalEvalSettings(gallery=gallery, queries=queries))
    assert (found.metrics["queries"], found.metrics["queries_without_relevant"]) == (6, 3)
    assert any("3 queries" in note for note in found.table.notes)
    for labels, says in (([0, 1], "nothing to find"), ([0], "nothing to classify"), ([2, 2], "nothing to classify")):
        few = write(tmp_path / f"{labels}.h5", rng.normal(size=(len(labels), 3)), labels)
        with pytest.raises(DataError, match=says):
            retrieval_eval(RetrievalEvalSettings(gallery=few))


def test_queries_with_a_copy_in_the_gallery_are_reported(tmp_path):
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 8)), np.arange(60) % 3
    asked = np.concatenate([features[:7] * 2, rng.normal(size=(20, 8))])
    sets = {
        "gallery": write(tmp_path / "g.h5", features, labels),
        "queries": write(tmp_path / "q.h5", asked, np.concatenate([labels[:7], np.arange(20) % 3])),
    }
    found = retrieval_eval(RetrievalEvalSettings(**sets, k=(1,), leakage=1.0))
    leaked = found.metrics["leakage"]
    assert (leaked["images"], leaked["of"], leaked["top1"]) == (7, 27, 1)
    assert 7 + 20 * leaked["top1_without"] == pytest.approx(27 * found.metrics["recall_at_1"])
    assert any("7 of 27 queries have a gallery image" in note for note in found.table.notes)
    assert retrieval_eval(RetrievalEvalSettings(gallery=sets["gallery"])).metrics["leakage"] is None


def test_queries_that_are_in_the_gallery_are_not_their_own_hits(tmp_path):
    """Images with the same ids and features, in another order, rank as in leave-one-out."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3
    for name, rows in (("gallery", np.arange(30)), ("reversed", np.arange(30)[::-1]), ("half", np.arange(0, 30, 2))):
        source = {"spec": name, "fingerprint": name, "class_names": None}
        ids = [f"{row}.png" for row in rows]
        write_features(tmp_path / f"{name}.h5", features[rows], labels[rows], ids, encoder={"arch": "a"}, source=source)
    gallery = str(tmp_path / "gallery.h5")
    alone = retrieval_eval(RetrievalEvalSettings(gallery=gallery))
    found = retrieval_eval(RetrievalEvalSettings(gallery=gallery, queries=str(tmp_path / "reversed.h5")))
    assert found.provenance["left_out_of_own_neighbors"] == 30
    for name in ("recall_at_1", "map", "r_precision", "mrr"):
        assert found.metrics[name] == pytest.approx(alone.metrics[name])
    half = retrieval_eval(RetrievalEvalSettings(gallery=gallery, queries=str(tmp_path / "half.h5"), limit=5))
    assert half.provenance["left_out_of_own_neighbors"] == 5
    assert any("5 of 5 query images are also gallery images" in note for note in half.table.notes)
    assert "left_out_of_own_neighbors" not in alone.provenance


def test_another_encoder_is_rejected(tmp_path):
    ours, theirs = (write(tmp_path / f"{arch}.h5", np.eye(3), [0, 0, 1], arch) for arch in ("r18", "r50"))
    with pytest.raises(DataError, match="encoder"):
        retrieval_eval(RetrievalEvalSettings(gallery=ours, queries=theirs))


def test_recall_at_1_is_the_accuracy_of_one_neighbor(record, pipeline):
    found = record("retrieval", "eval", "--gallery", pipeline / "train.h5", "--queries", pipeline / "test.h5", "-k", 1)
    near = record("knn", "--train", pipeline / "train.h5", "--test", pipeline / "test.h5", "-k", 1)
    assert found["metrics"]["recall_at_1"] == near["metrics"]["top1"] > 0.5
    assert len(found["metrics"]["by_class"]) == 10


def test_the_curve_of_index_types_is_drawn(record, pipeline, tmp_path):
    picture = tmp_path / "curve.png"
    found = record(
        "retrieval", "eval", "--gallery", pipeline / "train.h5", "--limit", 100, "--out", picture,
        "--index", "IVF8,Flat", "--index", "HNSW8",
    )  # fmt: skip
    indexes = found["metrics"]["indexes"]
    assert found["metrics"]["queries"] == 100
    assert {one["index"] for one in indexes} == {"IVF8,Flat", "HNSW8"}
    assert 1 >= max(one["recall"] for one in indexes) > min(one["recall"] for one in indexes) > 0
    with Image.open(picture) as chart:
        assert min(chart.size) > 400


@pytest.mark.parametrize("suffix", ["png", "html"])
def test_search_of_a_folder_finds_the_images_themselves(record, pipeline, checkpoint, photos, tmp_path, suffix):
    found = record(
        "retrieval", "search", photos, "--gallery", pipeline / "test.h5", "--checkpoint", checkpoint, "-k", 3,
        "--out", tmp_path / f"sheet.{suffix}", "--table", tmp_path / "found.csv",
    )  # fmt: skip
    digits = open_source("digits#test")
    assert found["metrics"]["queries"] == 10  # without the torn one
    for one in found["metrics"]["found"]:
        first = one["neighbors"][0]
        assert first["id"] == digits.id(int(one["query"].split(".")[0]))
        assert first["similarity"] > 0.9999
        assert len(one["neighbors"]) == 3
    assert (tmp_path / f"sheet.{suffix}").stat().st_size > 5000
    rows = list(csv.reader((tmp_path / "found.csv").open()))
    assert len(rows) == 1 + 30
    assert rows[0] == ["query", "rank", "id", "similarity"]


def test_build_then_search_of_one_image(record, call, pipeline, checkpoint, photos, tmp_path):
    index = tmp_path / "digits.index"
    built = record("retrieval", "build", "--gallery", pipeline / "train.h5", "--out", index, "--index", "IVF8,Flat")
    assert built["metrics"]["recall"] > 0.5
    assert not built["metrics"]["exact"]
    search = ["retrieval", "search", photos / "3.png", "--gallery", index, "--checkpoint", checkpoint]
    exact = record(*search[:4], pipeline / "train.h5", *search[5:])["metrics"]["found"]
    found = record(*search, "--index-parameters", "nprobe=8")["metrics"]
    near, far = ([two["id"] for two in one[0]["neighbors"]] for one in (found["found"], exact))
    assert near == far  # all eight lists were looked at
    assert not found["exact"]
    assert "approximate" in call(*search).stdout
    by_features = record("retrieval", "search", pipeline / "test.h5", "--gallery", index, "-k", 1)["metrics"]
    assert by_features["queries"] == 600


def test_flat_is_exact(record, pipeline, tmp_path):
    built = record("retrieval", "build", "--gallery", pipeline / "test.h5", "--out", tmp_path / "a.index")["metrics"]
    assert built["exact"]
    assert built["recall"] > 0.999  # FAISS and torch round the last bit of a similarity differently


def test_what_goes_wrong_is_one_sentence(call, record, pipeline, checkpoint, photos, tmp_path):
    index = tmp_path / "a.index"
    record("retrieval", "build", "--gallery", pipeline / "test.h5", "--out", index)
    search = ["retrieval", "search", photos / "3.png", "--gallery", index]
    assert "require --checkpoint" in call(*search).stderr
    assert (
        "must end in .index" in call("retrieval", "build", "--gallery", pipeline / "test.h5", "--out", "x.bin").stderr
    )
    assert "must end in .png or .html" in call(*search, "--out", "sheet.gif").stderr
    other = write(tmp_path / "other.h5", np.ones((3, 512)), [0, 1, 2])
    assert "differ in encoder" in call("retrieval", "search", other, "--gallery", index).stderr
    other_index = tmp_path / "other.index"
    record("retrieval", "build", "--gallery", other, "--out", other_index)
    stranger = call("retrieval", "search", photos / "3.png", "--gallery", other_index, "--checkpoint", checkpoint)
    assert "is not the encoder" in stranger.stderr
    one = write(tmp_path / "one.h5", np.ones((1, 3)), [0])
    assert (
        "contains only one image"
        in call("retrieval", "build", "--gallery", one, "--out", tmp_path / "one.index").stderr
    )
    index.write_bytes(index.read_bytes()[:-100])
    assert "from different builds" in call(*search, "--checkpoint", checkpoint).stderr
    with h5py.File(f"{index}.h5", "r+") as file:
        del file["ids"]
    assert "Build the index again" in call(*search, "--checkpoint", checkpoint).stderr
    index.unlink()
    assert "are both needed" in call(*search, "--checkpoint", checkpoint).stderr


def test_an_index_rejects_the_queries_that_features_reject(call, record, tmp_path):
    rng = np.random.default_rng(0)
    index, features = tmp_path / "a.index", write(tmp_path / "a.h5", rng.normal(size=(20, 6)), np.arange(20) % 2)
    record("retrieval", "build", "--gallery", features, "--out", index)
    resized = write(tmp_path / "b.h5", rng.normal(size=(3, 6)), [0, 1, 0], preprocessing={"resize": 99})
    narrow = write(tmp_path / "c.h5", rng.normal(size=(3, 4)), [0, 1, 0])
    for gallery in (index, features):
        assert "differ in preprocessing.resize." in call("retrieval", "search", resized, "--gallery", gallery).stderr
        said = call("retrieval", "search", narrow, "--gallery", gallery)
        assert said.exit_code == 1
        assert "6 features per row" in said.stderr


def test_an_index_is_searched_as_its_recall_was_measured_and_says_it(call, record, pipeline, tmp_path):
    index = tmp_path / "a.index"
    command = ["retrieval", "build", "--gallery", pipeline / "train.h5", "--out", index, "--index", "IVF16,Flat"]
    built = record(*command, "--index-parameters", "nprobe=2")["metrics"]
    assert built["parameters"] == "nprobe=2"
    search = ["retrieval", "search", pipeline / "test.h5", "--gallery", index, "-k", 10]
    found = record(*search)["metrics"]
    assert (found["parameters"], found["recall"], found["recall_k"]) == ("nprobe=2", built["recall"], 10)
    assert found["found"] == record(*search, "--index-parameters", "nprobe=2")["metrics"]["found"]
    assert found["found"] != record(*search, "--index-parameters", "nprobe=16")["metrics"]["found"]
    assert f"nprobe=2: recall@10 {built['recall']:.4f}" in " ".join(call(*search).stdout.split())
    other = call(*search, "--index-parameters", "nprobe=3").stdout
    assert "nprobe=3: recall unknown, measured with -k 10 and nprobe=2" in " ".join(other.split())
    assert record(*search, "--index-parameters", "nprobe=3")["metrics"]["recall"] is None
    assert record(*search, "-k", 3)["metrics"]["recall"] is None  # of three neighbors it is another
    wide, said = record(*search, "-k", 1197)["metrics"], call(*search, "-k", 1197).stdout
    assert wide["fewer"] == sum(len(one["neighbors"]) < 1197 for one in wide["found"]) > 0 == found["fewer"]
    assert f"found fewer than -k images for {wide['fewer']} quer" in " ".join(said.split())
    with h5py.File(f"{index}.h5", "r+") as file:
        del file.attrs["parameters"]
    assert "Build the index again" in call(*search).stderr


def test_settings_without_effect_are_rejected(call, record, pipeline, tmp_path):
    features, index = pipeline / "test.h5", tmp_path / "a.index"
    record("retrieval", "build", "--gallery", features, "--out", index)
    assert record("retrieval", "search", features, "--gallery", index, "-k", 3)["metrics"]["recall"] == 1  # exact
    search, evaluate = ["retrieval", "search", features, "--gallery"], ["retrieval", "eval", "--gallery", features]
    for command, message in (
        ([*search, features, "--index-parameters", "nprobe=3"], "is searched exactly"),
        ([*search, index, "--metric", "l2"], "was built for cosine"),
        ([*search, index, "--layer", "layer2"], "is an index of one layer"),
        ([*search, index, "--index-parameters", "nprobe=3"], "cannot be used with Flat"),
        ([*search, features, "--images", "digits"], "--images requires --out"),
        ([*search, features, "--sheet-queries", 3], "--sheet-queries requires --out"),
        ([*evaluate, "--leakage", 0.9], "--leakage requires --queries"),
        ([*evaluate, "--out", tmp_path / "c.png"], "requires --index"),
        ([*evaluate, "--index", "Flat", "--out", tmp_path / "c.jpg"], "must end in .png"),
    ):
        said = call(*command)
        assert said.exit_code == 2, said.output
        assert message in said.stderr
    assert not list(tmp_path.glob("c.*"))
    assert record(*search, index, "--metric", "cosine", "-k", 1)["metrics"]["metric"] == "cosine"


def test_the_option_that_is_wrong_is_named(call, pipeline, photos):
    for option, command in (
        ("--gallery", ["eval", "--gallery", photos]),
        ("--queries", ["eval", "--gallery", pipeline / "test.h5", "--queries", photos]),
        ("--gallery", ["build", "--gallery", photos, "--out", "a.index"]),
        ("--gallery", ["search", pipeline / "test.h5", "--gallery", photos]),
    ):
        said = call("retrieval", *command)
        assert said.exit_code == 2
        assert f"{option} {photos} is not a feature file" in said.stderr


def test_a_layer_is_that_of_queries_too(record, checkpoint, tmp_path):
    made = ["--checkpoint", checkpoint, "--layer", "pool", "--layer", "layer2"]
    for split in ("train", "test"):
        record("extract", *made, "--data", f"digits#{split}", "--out", tmp_path / f"{split}.h5")
    index = tmp_path / "a.index"
    record("retrieval", "build", "--gallery", tmp_path / "train.h5", "--layer", "layer2", "--out", index)
    search = ["retrieval", "search", tmp_path / "test.h5", "-k", 3, "--gallery"]
    by_index, by_features = record(*search, index), record(*search, tmp_path / "train.h5", "--layer", "layer2")
    assert by_index["provenance"]["encoder"]["layer"] == by_features["provenance"]["encoder"]["layer"] == "layer2"
    near, far = ([one["neighbors"][0]["id"] for one in found["metrics"]["found"]] for found in (by_index, by_features))
    assert near == far
    evaluate = ["retrieval", "eval", "--gallery", tmp_path / "train.h5", "--layer", "layer2", "--queries"]
    by_images = record(*evaluate, "digits#test", "--checkpoint", checkpoint)["metrics"]
    assert by_images == record(*evaluate, tmp_path / "test.h5")["metrics"]


def test_a_set_in_itself_finds_others_only(call, record, pipeline, tmp_path):
    features, index = pipeline / "test.h5", tmp_path / "a.index"
    record("retrieval", "build", "--gallery", features, "--out", index)
    for gallery in (features, index):
        found = record("retrieval", "search", features, "--gallery", gallery, "-k", 2)
        assert found["provenance"]["leave_one_out"]
        assert not [one for one in found["metrics"]["found"] if one["query"] in [two["id"] for two in one["neighbors"]]]
    said = call("retrieval", "search", features, "--gallery", features)
    assert "leave-one-out" in said.stdout
    assert not record("retrieval", "search", pipeline / "train.h5", "--gallery", features)["provenance"][
        "leave_one_out"
    ]


def test_images_are_missed_only_where_they_are_to_be_shown(call, tmp_path):
    path = write(tmp_path / "a.h5", np.eye(4), np.arange(4))
    search = ["retrieval", "search", path, "--gallery", path, "-k", 1]
    assert "cannot be shown" not in call(*search).stderr
    assert "cannot be shown" in call(*search, "--out", tmp_path / "s.png").stderr


def test_images_of_another_folder_of_the_same_name_are_named(call, record, checkpoint, tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    for place in ("one", "two"):
        (tmp_path / place / "photos").mkdir(parents=True)
        for number in range(3):
            pixels = draw.integers(0, 255, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / place / "photos" / f"{number}.png")
    monkeypatch.chdir(tmp_path / "one")
    record("extract", "--checkpoint", checkpoint, "--data", "photos", "--out", "../a.h5")
    search = ["retrieval", "search", "../a.h5", "--gallery", "../a.h5", "-k", 1, "--out", "sheet.png"]
    assert "are not" not in call(*search).stderr
    monkeypatch.chdir(tmp_path / "two")
    assert "photos differs from the images that the features were computed from" in call(*search).stderr


def test_frames_and_captions_go_by_the_names_of_classes(record, tmp_path):
    gallery = write(tmp_path / "a.h5", np.eye(2), [0, 1], class_names=["cat", "owl"])
    page = tmp_path / "s.html"
    for names, right in ((["owl", "cat"], 0), (["cat", "owl"], 2), (["eel", "owl"], 1)):
        query = write(tmp_path / f"{names[0]}.h5", np.eye(2), [0, 1], class_names=names)
        record("retrieval", "search", query, "--gallery", gallery, "-k", 1, "--out", page)
        assert page.read_text().count("#1b9e3a") == right  # green
        assert page.read_text().count("#d62728") == 2 - right
        assert f"query<br>{names[0]}<br>" in page.read_text()
    bare = write(tmp_path / "bare.h5", np.eye(2), [0, 1])
    record("retrieval", "search", bare, "--gallery", gallery, "-k", 1, "--out", page)
    assert "#1b9e3a" not in page.read_text()
    assert "#d62728" not in page.read_text()


def test_images_are_prepared_as_those_of_the_other_sets_features(call, record, checkpoint, tmp_path):
    made = ["--checkpoint", checkpoint, "--layer", "layer3", "--crop", 6, "--normalize"]
    record("extract", *made, "--data", "digits#train", "--out", tmp_path / "g.h5")
    record("extract", *made, "--data", "digits#test", "--out", tmp_path / "q.h5")
    command = ["retrieval", "eval", "--gallery", tmp_path / "g.h5", "--queries"]
    by_images = record(*command, "digits#test", "--checkpoint", checkpoint)
    assert by_images["metrics"] == record(*command, tmp_path / "q.h5")["metrics"]
    turned = [
        "retrieval",
        "eval",
        "--gallery",
        "digits#train",
        "--queries",
        tmp_path / "q.h5",
        "--checkpoint",
        checkpoint,
    ]
    assert record(*turned)["metrics"] == by_images["metrics"]
    assert call(*turned, "--pool", "max").exit_code == 2
    said = call(*command, "digits#test", "--checkpoint", checkpoint, "--crop", 8)
    assert said.exit_code == 2
    assert "--crop cannot be used here" in said.stderr
    with h5py.File(tmp_path / "g.h5", "r+") as file:
        file.attrs["preprocessing"] = "{}"
    assert "does not record how" in call(*command, "digits#test", "--checkpoint", checkpoint).stderr


def test_limit_is_of_the_ranking_and_recall_sample_of_the_indexes(record, pipeline):
    command = ["retrieval", "eval", "--gallery", pipeline / "train.h5", "--index", "Flat", "--limit", 20]
    assert record(*command)["metrics"]["indexes"][0]["sample"] == 1000
    found = record(*command, "--recall-sample", 50)["metrics"]
    assert (found["queries"], found["indexes"][0]["sample"]) == (20, 50)


def test_one_number_has_one_interval(record, pipeline, tmp_path):
    found = record("retrieval", "eval", "--gallery", pipeline / "train.h5", "-k", 1)["metrics"]
    assert found["precision_at_1"] == found["recall_at_1"]
    assert found["precision_at_1_interval"] == pytest.approx(found["recall_at_1_interval"])
    rng, rows = np.random.default_rng(0), np.repeat([0, 1], [81, 9])
    features = np.eye(2)[rows] + 0.01 * rng.normal(size=(90, 2))
    one = write(tmp_path / "a.h5", features, rows)
    queries = write(tmp_path / "b.h5", features[:81] + 0.001, rows[:81])
    found = record("retrieval", "eval", "--gallery", one, "--queries", queries)["metrics"]
    for name in ("recall_at_1", "precision_at_5", "map", "r_precision", "mrr"):
        assert found[f"{name}_interval"] == pytest.approx([0.9547, 1], abs=1e-4)


def test_a_config_file_has_a_table_for_each_command(record, call, pipeline, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(f'[retrieval.eval]\ngallery = "{pipeline}/test.h5"\nk = [2, 3]\n[retrieval.build]\nk = 7\n')
    assert record("retrieval", "eval", "--config", config)["settings"]["k"] == [2, 3]
    assert "--gallery is required" in call("retrieval", "build", "--config", config, "--out", "a.index").stderr
