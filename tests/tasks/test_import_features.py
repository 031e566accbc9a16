"""`import`: features of other programs can be evaluated, together only if the user says that they belong together."""

import json

import h5py
import numpy as np
import pytest
import torch

import simsiam_eval as se
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.features.file import part_of
from simsiam_eval.features.provenance import imported_encoder
from simsiam_eval.features.reader import read_features

CLASSES = ("cat", "dog", "owl")
CENTERS = np.random.default_rng(0).normal(size=(3, 8)) * 4


def drawn(count, seed):
    """Features (N,8) of three distinct classes, labels, and names such as cat/000.jpg."""
    labels = np.arange(count) % 3
    features = CENTERS[labels] + np.random.default_rng(seed).normal(size=(count, 8))
    return features.astype(np.float32), labels, [f"{CLASSES[label]}/{row:03d}.jpg" for row, label in enumerate(labels)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """train.pt, as lightly-train writes it, test.npz, and both imported as train.h5 and test.h5 of the encoder `clip`."""
    folder = tmp_path_factory.mktemp("foreign")
    features, _, names = drawn(60, 1)
    torch.save({"filenames": names, "embeddings": torch.from_numpy(features)}, folder / "train.pt")
    features, labels, names = drawn(30, 2)
    np.savez(folder / "test.npz", features=features, labels=np.array([CLASSES[label] for label in labels]), ids=names)
    se.import_features(folder / "train.pt", out=folder / "train.h5", folder_labels=True, encoder="clip")
    se.import_features(folder / "test.npz", out=folder / "test.h5", encoder="clip")
    return folder


def imported(folder, name="out.h5", /, *, features=None, **settings):
    """Import an array, or the file that `settings` name; returns the result."""
    if features is not None:
        np.save(folder / "f.npy", features)
    return se.import_features(settings.pop("path", folder / "f.npy"), out=folder / name, **settings)


def test_rows_ids_labels_and_provenance(files):
    found, (features, labels, names) = read_features(files / "train.h5"), drawn(60, 1)
    np.testing.assert_array_equal(found.features, features)
    assert found.labels.tolist() == labels.tolist()
    assert found.ids.tolist() == names
    assert found.class_names == list(CLASSES)
    attributes = found.attributes
    assert attributes["encoder"] == {"imported": True, "name": "clip"}
    assert (attributes["preprocessing"], attributes["precision"]) == ({}, "unknown")
    assert attributes["source"]["imported_from"] == [str(files / "train.pt")]


def test_what_was_taken_is_printed(files, call, tmp_path):
    result = call("import", files / "test.npz", "--to", tmp_path / "out.h5")
    shown = " ".join(result.stdout.split())
    assert f"features features (30, 8) float32 in {files}" in shown
    assert "30 of 30 rows, 3 classes" in shown
    assert "unknown encoder" in shown


def test_every_evaluation_works(files, record, tmp_path):
    sets = ("--train", files / "train.h5", "--test", files / "test.h5")
    assert record("knn", *sets, "-k", 5)["metrics"]["top1"] == 1
    head = tmp_path / "head.safetensors"
    logistic = ("--preset", "logistic", "--save-head", head)
    assert record("linear-eval", *sets, *logistic)["metrics"]["top1"] == 1
    retrieved = record("retrieval", "eval", "--gallery", files / "train.h5", "--queries", files / "test.h5")
    assert retrieved["metrics"]["recall_at_1"] == 1
    record("retrieval", "build", "--gallery", files / "train.h5", "--out", tmp_path / "a.index")
    record("retrieval", "search", files / "test.h5", "--gallery", tmp_path / "a.index")
    record("rank", files / "train.h5", files / "test.h5")
    assert record("duplicates", files / "train.h5", files / "test.h5")["metrics"]["compared"] == [60, 30]
    imported(tmp_path, "again.h5", path=files / "test.npz", encoder="clip")
    compared = record("compare", files / "test.h5", tmp_path / "again.h5", "--head", head, "--head", head)
    assert compared["provenance"]["tests"][0]["encoder"]["name"] == "clip"
    assert record("export", files / "train.h5", "--to", "npy", "--out", tmp_path / "npy")["metrics"]["rows"] == 60
    verified = record("verify", files / "train.h5")
    assert verified["metrics"]["faults"] == []


def test_verify_says_what_it_cannot_check(files, call, checkpoint, tmp_path):
    assert "clip; imported from" in call("verify", files / "train.h5").stdout
    result = call("verify", files / "train.h5", "--checkpoint", checkpoint)
    assert result.exit_code == 1 and "its encoder is not recorded" in result.output


def test_verify_compares_ids_and_labels_with_images(photos, record, call, tmp_path):
    from simsiam_eval.sources.opening import open_source

    source = open_source(str(photos))
    (tmp_path / "ids.txt").write_text("\n".join(source.ids_of(range(len(source)))))
    np.save(tmp_path / "labels.npy", source.labels[:])
    settings = {"ids": tmp_path / "ids.txt", "labels": tmp_path / "labels.npy", "encoder": "x"}
    imported(tmp_path, features=drawn(40, 0)[0], **settings)
    assert record("verify", tmp_path / "out.h5", "--data", photos)["metrics"]["faults"] == []
    np.save(tmp_path / "labels.npy", 1 - source.labels[:])
    imported(tmp_path, "other.h5", **settings)
    assert "has the label 1" in call("verify", tmp_path / "other.h5", "--data", photos).output


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [(None, None, "the encoder of each is unknown"), ("a", None, "of one is unknown"), ("a", "b", "are 'a' and 'b'")],
)
def test_imports_of_other_or_unknown_encoders_are_not_mixed(first, second, says, call, tmp_path):
    for name, seed, encoder in (("a.h5", 1, first), ("b.h5", 2, second)):
        features, labels, _ = drawn(30, seed)
        np.save(tmp_path / "labels.npy", labels)
        imported(tmp_path, name, features=features, labels=tmp_path / "labels.npy", encoder=encoder)
    for command in (("knn", "--train", tmp_path / "a.h5", "--test"), ("duplicates", tmp_path / "a.h5")):
        result = call(*command, tmp_path / "b.h5")
        assert result.exit_code == 1 and says in result.stderr, result.output


def test_unknown_encoder_can_be_evaluated_alone_and_against_a_copy(record, tmp_path):
    features, labels, _ = drawn(30, 1)
    np.save(tmp_path / "labels.npy", labels)
    for name in ("a.h5", "b.h5"):
        imported(tmp_path, name, features=features, labels=tmp_path / "labels.npy")
    for test in ("a.h5", "b.h5"):
        result = record("knn", "--train", tmp_path / "a.h5", "--test", tmp_path / test, "-k", 3)
        assert result["provenance"]["leave_one_out"]


def test_width_must_match(files, call, tmp_path):
    np.savez(tmp_path / "a.npz", features=np.ones((6, 5)), labels=np.array(CLASSES * 2))
    imported(tmp_path, path=tmp_path / "a.npz", encoder="clip")
    assert "8 features per row and" in call("knn", "--train", files / "train.h5", "--test", tmp_path / "out.h5").stderr


def test_imported_and_extracted_features_are_not_mixed(files, pipeline, checkpoint, photos, call):
    for sets in ((pipeline / "train.h5", files / "test.h5"), (files / "train.h5", pipeline / "test.h5")):
        result = call("knn", "--train", sets[0], "--test", sets[1])
        assert "was imported from another program" in result.stderr
    result = call("knn", "--train", files / "train.h5", "--test", photos, "--checkpoint", checkpoint)
    assert f"whether {checkpoint} is its encoder is unknown" in result.stderr
    result = call("retrieval", "search", photos, "--gallery", files / "train.h5", "--checkpoint", checkpoint)
    assert result.exit_code == 1 and "imported" in result.stderr
    with pytest.raises(DataError, match="pass features instead of images"):
        se.extract(checkpoint, photos, like=se.open_features(files / "train.h5"))


def test_rows_that_are_not_finite_or_zero_are_invalid(tmp_path):
    features = np.ones((5, 3))
    features[1, 2], features[2], features[4, 0] = np.nan, 0, 1e300
    result = imported(tmp_path, features=features)
    assert (result.metrics["invalid"], result.metrics["dtype"]) == (3, "float32")
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["valid"][:].tolist() == [True, False, False, True, False]
        assert file["errors"]["row"].tolist() == [1, 2, 4]
        assert not file["features"][1].any()
    assert "row 2: all features are 0" in str(result)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_data_type_is_kept(dtype, tmp_path):
    imported(tmp_path, features=np.ones((5, 3), dtype))
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["features"].dtype == dtype


@pytest.mark.parametrize("shape", [(5, 3, 1, 1), (5, 1, 3)])
def test_axes_of_length_one_are_removed_and_named(shape, tmp_path):
    result = imported(tmp_path, features=np.ones(shape, np.float32))
    assert result.metrics["width"] == 3
    assert f"{shape} became (5, 3)" in str(result)


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (np.ones(5), r"shape \(5,\) with 1 dimension; expected \(N, D\)"),
        (np.ones((5, 3, 7, 7)), "pool or flatten feature maps"),
        (np.ones((0, 3)), "contains no features"),
        (np.full((2, 3), np.nan), "No row of .* is valid; the first: row 0: the features are not finite"),
        (np.ones((2, 3)) > 0, "bool; expected numbers"),
        (np.array(["a"]), "text; expected numbers"),
    ],
)
def test_features_of_another_form_are_rejected_and_nothing_is_left(features, says, tmp_path):
    with pytest.raises(DataError, match=says):
        imported(tmp_path, features=features)
    assert [path.name for path in tmp_path.iterdir()] == ["f.npy"]


def test_lengths_must_match(tmp_path):
    np.savez(tmp_path / "a.npz", features=np.ones((4, 9)), labels=np.zeros(9))
    with pytest.raises(DataError, match=r"9 labels, but there are 4 rows of features \(are the features transposed"):
        imported(tmp_path, path=tmp_path / "a.npz")
    (tmp_path / "ids.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="but there are 4 rows of features"):
        imported(tmp_path, path=tmp_path / "a.npz", ids=tmp_path / "ids.txt")


def test_inputs_are_joined_in_their_order(tmp_path):
    for name, value in (("b", 1), ("a", 2)):
        np.savez(tmp_path / f"{name}.npz", features=np.full((2, 3), value), ids=[f"{name}0", f"{name}1"], y=[name] * 2)
    result = imported(tmp_path, path=[tmp_path / "b.npz", tmp_path / "a.npz"])
    found = read_features(tmp_path / "out.h5")
    assert found.ids.tolist() == ["b0", "b1", "a0", "a1"]
    assert found.features[:, 0].tolist() == [1, 1, 2, 2]
    assert (found.labels.tolist(), found.class_names) == ([1, 1, 0, 0], ["a", "b"])
    assert result.metrics["duplicate_ids"] == 0
    np.savez(tmp_path / "c.npz", features=np.ones((2, 4)))
    with pytest.raises(DataError, match="cannot be joined"):
        imported(tmp_path, "c.h5", path=[tmp_path / "b.npz", tmp_path / "c.npz"])


def test_labels_of_lightly_csv_are_no_labels(tmp_path):
    (tmp_path / "a.csv").write_text("filenames,embedding_0,embedding_1,labels\na.jpg,1,2,0\nb.jpg,2,1,0\n")
    result = imported(tmp_path, path=tmp_path / "a.csv")
    assert result.metrics["labeled"] == 0
    assert "as lightly writes it for unlabeled images" in " ".join(str(result).split())
    assert imported(tmp_path, "b.h5", path=tmp_path / "a.csv", labels_key="labels").metrics["labeled"] == 2


def test_words_that_are_read_as_no_label_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", features=np.ones((4, 3)), labels=["cat", "nan", "", "NA"])
    result = imported(tmp_path, path=tmp_path / "a.npz")
    assert result.metrics["labeled"] == 1
    assert "3 of 4 rows have no label (nan: 1, empty: 1, NA: 1)." in str(result)


def test_labels_of_a_table_are_matched_by_id(files, tmp_path):
    names = drawn(30, 2)[2]
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{name},{name[:3]}\n" for name in names[:0:-1]))
    result = imported(tmp_path, path=files / "test.npz", labels=tmp_path / "labels.csv")
    assert read_features(tmp_path / "out.h5").labels.tolist() == [-1, *drawn(30, 2)[1][1:]]
    assert "has no label for 1 row." in str(result)


def test_compare_says_that_images_are_matched_by_row_number(record, call, tmp_path):
    for name in ("a.h5", "b.h5"):
        features, labels, _ = drawn(30, ord(name[0]))
        np.save(tmp_path / "labels.npy", labels)
        imported(tmp_path, name, features=features, labels=tmp_path / "labels.npy", encoder=name)
    assert "matched by row number" in call("compare", tmp_path / "a.h5", tmp_path / "b.h5", "-k", 3).stderr


def test_a_table_of_labels_by_id_is_not_taken_by_row(tmp_path):
    """The features have no ids, so nothing says in which order the table is."""
    table = tmp_path / "labels.csv"
    table.write_text("id,label\nd,3\nc,2\nb,1\na,0\n")
    features = drawn(4, 1)[0]
    with pytest.raises(DataError, match=r"has a column of ids \(id\), but the features have no ids; give theirs with"):
        imported(tmp_path, features=features, labels=table)
    for name, settings in (("ids", {"ids": table}), ("numbers", {"ids_key": "none"})):
        imported(tmp_path, f"{name}.h5", labels=table, **settings)
        assert read_features(tmp_path / f"{name}.h5").labels.tolist() == [3, 2, 1, 0]
    (tmp_path / "ids.txt").write_text("a\nb\nc\nd\n")
    imported(tmp_path, "matched.h5", labels=table, ids=tmp_path / "ids.txt")
    assert read_features(tmp_path / "matched.h5").labels.tolist() == [0, 1, 2, 3]


def test_same_command_again_has_nothing_to_do_and_another_is_rejected(tmp_path, capsys):
    imported(tmp_path, features=drawn(6, 1)[0])
    imported(tmp_path)
    assert "is complete; nothing to do" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"different content .*encoder"):
        imported(tmp_path, encoder="x")
    with pytest.raises(DataError, match=r"different content .*source.sha256"):
        imported(tmp_path, features=drawn(6, 2)[0])


def test_interrupted_import_is_resumed(tmp_path, monkeypatch):
    from simsiam_eval.features.foreign import importing

    monkeypatch.setattr("simsiam_eval.features.foreign.arrays._BLOCK_ROWS", 4)
    features = drawn(12, 1)[0]
    features[1] = np.nan
    reasons = importing._reasons

    def interrupted(values, foreign, rows):
        if rows.start == 8:
            raise KeyboardInterrupt
        return reasons(values, foreign, rows)

    monkeypatch.setattr(importing, "_reasons", interrupted)
    with pytest.raises(KeyboardInterrupt):
        imported(tmp_path, features=features)
    assert part_of(tmp_path / "out.h5").exists() and not (tmp_path / "out.h5").exists()
    read = []
    monkeypatch.setattr(importing, "_reasons", lambda *args: read.append(args[2]) or reasons(*args))
    assert imported(tmp_path).metrics["invalid"] == 1
    assert read == [range(8, 12)]
    np.testing.assert_array_equal(read_features(tmp_path / "out.h5").features, np.delete(features, 1, axis=0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npy", "out.h5"]


def test_damage_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("simsiam_eval.features.foreign.arrays._BLOCK_ROWS", 2)
    lines = [json.dumps({"id": str(row), "emb": [1.0] * (3 if row < 5 else 2)}) for row in range(8)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match="no vector of 3 numbers in the field 'emb' of sample 5"):
        imported(tmp_path, path=tmp_path / "a.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_settings_that_contradict_each_other(files, call, tmp_path):
    result = call("import", files / "train.pt", "--to", tmp_path / "o.h5", "--folder-labels", "--labels-key", "y")
    assert (result.exit_code, "cannot be used with --folder-labels" in result.stderr) == (2, True)
    assert call("import", files / "train.h5", "--to", files / "train.h5").exit_code == 2
    result = call("import", files / "train.pt", "--to", tmp_path / "o.h5", "--out", tmp_path / "p.h5")
    assert (result.exit_code, "same option; give one of them" in result.stderr) == (2, True)
    assert "must end in .h5" in call("import", files / "train.pt", "--to", tmp_path / "o.npy").stderr
    with pytest.raises(UsageError, match="encoder is empty"):
        se.import_features(files / "train.pt", out=tmp_path / "o.h5", encoder="")
    with pytest.raises(UsageError, match="requires out"):
        se.import_features(files / "train.pt")


def test_both_names_of_the_output_are_accepted(files, record, tmp_path):
    for option in ("--to", "--out"):
        out = tmp_path / f"{option[2:]}.h5"
        assert record("import", files / "test.npz", option, out)["files"]["features"] == str(out)


def test_encoders_without_a_name_differ_unless_their_files_are_equal():
    assert imported_encoder(None, "a") != imported_encoder(None, "b")
    assert imported_encoder("x", "a") == imported_encoder("x", "b")
