"""The three commands on handwritten digits and on made features."""

import csv

import h5py
import numpy as np
import pytest
from PIL import Image

from simsiam_eval.errors import DataError
from simsiam_eval.feature_writer import write_features
from simsiam_eval.sources import open_source
from tasks.retrieval.evaluate import RetrievalEvalSettings, retrieval_eval


def write(path, features, labels, arch="made"):
    source = {"spec": "nowhere", "fingerprint": path.stem, "class_names": None}
    ids = [f"{path.stem} {row}" for row in range(len(features))]
    write_features(path, features.astype(np.float32), np.asarray(labels), ids, encoder={"arch": arch}, source=source)
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
    alone = write(tmp_path / "alone.h5", np.ones((1, 3)), [0])
    with pytest.raises(DataError, match="nothing to find"):
        retrieval_eval(RetrievalEvalSettings(gallery=alone))


def test_another_encoder_is_refused(tmp_path):
    ours, theirs = (write(tmp_path / f"{arch}.h5", np.eye(3), [0, 0, 1], arch) for arch in ("r18", "r50"))
    with pytest.raises(DataError, match="encoder"):
        retrieval_eval(RetrievalEvalSettings(gallery=ours, queries=theirs))


def test_recall_at_1_is_the_accuracy_of_one_neighbour(record, road):
    found = record("retrieval", "eval", "--gallery", road / "train.h5", "--queries", road / "test.h5", "-k", 1)
    near = record("knn", "--train", road / "train.h5", "--test", road / "test.h5", "-k", 1)
    assert found["metrics"]["recall_at_1"] == near["metrics"]["top1"] > 0.5
    assert len(found["metrics"]["by_class"]) == 10


def test_the_curve_of_index_types_is_drawn(record, road, tmp_path):
    picture = tmp_path / "curve.png"
    found = record(
        "retrieval", "eval", "--gallery", road / "train.h5", "--limit", 100, "--out", picture,
        "--index", "IVF8,Flat", "--index", "HNSW8",
    )  # fmt: skip
    indexes = found["metrics"]["indexes"]
    assert found["metrics"]["queries"] == 100
    assert {one["index"] for one in indexes} == {"IVF8,Flat", "HNSW8"}
    assert 1 >= max(one["recall"] for one in indexes) > min(one["recall"] for one in indexes) > 0
    with Image.open(picture) as chart:
        assert chart.size == (900, 520)


@pytest.mark.parametrize("suffix", ["png", "html"])
def test_search_of_a_folder_finds_the_images_themselves(record, road, checkpoint, photos, tmp_path, suffix):
    found = record(
        "retrieval", "search", photos, "--gallery", road / "test.h5", "--checkpoint", checkpoint, "-k", 3,
        "--out", tmp_path / f"sheet.{suffix}", "--table", tmp_path / "found.csv",
    )  # fmt: skip
    digits = open_source("digits#test")
    assert found["metrics"]["queries"] == 10  # without the torn one
    for one in found["metrics"]["found"]:
        first = one["neighbours"][0]
        assert first["id"] == digits.id(int(one["query"].split(".")[0]))
        assert first["similarity"] > 0.9999
        assert len(one["neighbours"]) == 3
    assert (tmp_path / f"sheet.{suffix}").stat().st_size > 5000
    rows = list(csv.reader((tmp_path / "found.csv").open()))
    assert len(rows) == 1 + 30
    assert rows[0] == ["query", "rank", "id", "similarity"]


def test_build_then_search_of_one_image(record, call, road, checkpoint, photos, tmp_path):
    index = tmp_path / "digits.index"
    built = record("retrieval", "build", "--gallery", road / "train.h5", "--out", index, "--index", "IVF8,Flat")
    assert built["metrics"]["recall"] > 0.5
    assert not built["metrics"]["exact"]
    search = ["retrieval", "search", photos / "3.png", "--gallery", index, "--checkpoint", checkpoint]
    exact = record(*search[:4], road / "train.h5", *search[5:])["metrics"]["found"]
    found = record(*search, "--index-parameters", "nprobe=8")["metrics"]
    near, far = ([two["id"] for two in one[0]["neighbours"]] for one in (found["found"], exact))
    assert near == far  # all eight lists were looked at
    assert not found["exact"]
    assert "approximate" in call(*search).stdout
    by_features = record("retrieval", "search", road / "test.h5", "--gallery", index, "-k", 1)["metrics"]
    assert by_features["queries"] == 600


def test_flat_is_exact(record, road, tmp_path):
    built = record("retrieval", "build", "--gallery", road / "test.h5", "--out", tmp_path / "a.index")["metrics"]
    assert built["exact"]
    assert built["recall"] > 0.999  # FAISS and torch round the last bit of a similarity differently


def test_what_goes_wrong_is_one_sentence(call, record, road, checkpoint, photos, tmp_path):
    index = tmp_path / "a.index"
    record("retrieval", "build", "--gallery", road / "test.h5", "--out", index)
    search = ["retrieval", "search", photos / "3.png", "--gallery", index]
    assert "need --checkpoint" in call(*search).stderr
    assert "must end in .index" in call("retrieval", "build", "--gallery", road / "test.h5", "--out", "x.bin").stderr
    assert "must end in .png or .html" in call(*search, "--out", "sheet.gif").stderr
    other = write(tmp_path / "other.h5", np.ones((3, 512)), [0, 1, 2])
    assert "differ in their encoder" in call("retrieval", "search", other, "--gallery", index).stderr
    other_index = tmp_path / "other.index"
    record("retrieval", "build", "--gallery", other, "--out", other_index)
    stranger = call("retrieval", "search", photos / "3.png", "--gallery", other_index, "--checkpoint", checkpoint)
    assert "is not the encoder" in stranger.stderr
    index.write_bytes(index.read_bytes()[:-100])
    assert "not of one build" in call(*search, "--checkpoint", checkpoint).stderr
    with h5py.File(f"{index}.h5", "r+") as file:
        del file["ids"]
    assert "build the index again" in call(*search, "--checkpoint", checkpoint).stderr
    index.unlink()
    assert "There is no index" in call(*search, "--checkpoint", checkpoint).stderr


def test_a_config_file_has_a_table_for_each_command(record, call, road, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(f'[retrieval.eval]\ngallery = "{road}/test.h5"\nk = [2, 3]\n[retrieval.build]\nk = 7\n')
    assert record("retrieval", "eval", "--config", config)["settings"]["k"] == [2, 3]
    assert "--gallery is missing" in call("retrieval", "build", "--config", config, "--out", "a.index").stderr
