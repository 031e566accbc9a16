"""Every kind of file gives the rows that were written, and a damaged one gives one sentence."""

import base64
import csv
import io
import json
import os
import pickle
import sys
import zlib

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from simsiam_eval.errors import DataError
from simsiam_eval.features.foreign.arrays import texts_of
from simsiam_eval.features.foreign.opening import open_arrays


def write_csv(path, features, names):
    """As lightly-train's `embed --format csv`."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", *(f"embedding_{index}" for index in range(features.shape[1]))])
        writer.writerows([name, *row] for name, row in zip(names, features.tolist(), strict=True))


def write_parquet(path, features, names):
    import pyarrow as arrow
    from pyarrow import parquet

    vectors = arrow.array(features.tolist(), arrow.list_(arrow.float32()))
    parquet.write_table(arrow.table({"filename": names, "embedding": vectors}), path, row_group_size=5)


def write_hdf5(path, features, names):
    with h5py.File(path, "w") as file:
        file.create_dataset("model/embedding", data=features, chunks=(5, 4), compression="gzip")
        file["filename"] = names


def write_fiftyone(path, features, names):
    """As FiftyOne's dataset export: vectors are zlib-compressed .npy in base64."""

    def stored(vector):
        np.save(file := io.BytesIO(), vector)
        return {"$binary": {"base64": base64.b64encode(zlib.compress(file.getvalue())).decode(), "subType": "00"}}

    samples = [
        {"_id": {"$oid": "6"}, "filename": name, "tags": [], "embedding": stored(row)}
        for name, row in zip(names, features, strict=True)
    ]
    path.write_text(json.dumps({"samples": samples}))


def write_lines(path, features, names):
    lines = [{"filename": name, "embedding": row} for name, row in zip(names, features.tolist(), strict=True)]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")


def savez(path, features, names):
    np.savez_compressed(path, embedding=features, filename=np.array(names))


WRITERS = {
    "a.npz": savez,
    "fortran.npz": lambda path, features, names: savez(path, np.asfortranarray(features), names),
    "a.pt": lambda path, features, names: torch.save(
        {"filename": names, "embedding": torch.from_numpy(features)}, path
    ),
    "by_name.pt": lambda path, features, names: torch.save(
        dict(zip(names, torch.from_numpy(features), strict=True)), path
    ),
    "a.csv": write_csv,
    "a.parquet": write_parquet,
    "a.h5": write_hdf5,
    "samples.json": write_fiftyone,
    "a.jsonl": write_lines,
    "a.mat": lambda path, features, names: savemat(path, dict(zip(names, features, strict=True))),
}


def content_of(path, **options):
    """The arrays of a file by name: matrices as arrays, others as lists of text."""
    arrays, _ = open_arrays(path, **options)
    return {
        array.name: np.concatenate(list(array.blocks())) if array.is_matrix else list(texts_of(array))
        for array in arrays
    }


@pytest.mark.parametrize("name", WRITERS)
def test_rows_and_names_are_those_that_were_written(name, rows, tmp_path):
    features, _, names = rows
    WRITERS[name](tmp_path / name, features, names)
    found = list(content_of(tmp_path / name).values())
    matrix = next(values for values in found if isinstance(values, np.ndarray))
    np.testing.assert_allclose(matrix, features, rtol=1e-7)
    assert names in [values for values in found if isinstance(values, list)]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_read_in_blocks_as_it_is_stored(dtype, order, tmp_path, monkeypatch):
    monkeypatch.setattr("simsiam_eval.features.foreign.arrays._BLOCK_ROWS", 5)
    values = np.asarray(np.arange(24).reshape(12, 2), dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", values)
    (array,), _ = open_arrays(tmp_path / "a.npy")
    blocks = list(array.blocks())
    assert [len(block) for block in blocks] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate(blocks), values)
    assert array.dtype == dtype


def test_bfloat16_tensors_are_read(tmp_path):
    torch.save(torch.eye(3, dtype=torch.bfloat16), tmp_path / "a.pt")
    np.testing.assert_array_equal(content_of(tmp_path / "a.pt")[""], np.eye(3))


def test_weights_of_a_network_are_not_features(tmp_path):
    torch.save(torch.nn.Linear(3, 4).state_dict(), tmp_path / "a.pt")
    with pytest.raises(DataError, match="weights of a network instead of features"):
        open_arrays(tmp_path / "a.pt")


def test_tensors_that_numpy_cannot_hold_are_left_out(tmp_path):
    torch.save({"features": torch.eye(3).to_sparse(), "embeddings": torch.eye(3)}, tmp_path / "a.pt")
    assert list(content_of(tmp_path / "a.pt")) == ["embeddings"]


def test_names_in_hdf5_are_utf8(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["ids"] = np.array(["bée.jpg".encode()])
    assert content_of(tmp_path / "a.h5")["ids"] == ["bée.jpg"]


def test_parts_of_clip_retrieval_are_joined_in_the_order_of_their_numbers(rows, tmp_path):
    features, _, names = rows
    for folder in ("img_emb", "metadata"):
        (tmp_path / folder).mkdir()
    for part, where in ((2, slice(0, 5)), (10, slice(5, 12))):
        np.save(tmp_path / "img_emb" / f"img_emb_{part}.npy", features[where])
        write_parquet(tmp_path / "metadata" / f"metadata_{part}.parquet", features[where], names[where])
    found = content_of(tmp_path)
    np.testing.assert_array_equal(found["img_emb"], features)
    assert found["filename"] == names
    (tmp_path / "metadata" / "metadata_10.parquet").unlink()
    with pytest.raises(DataError, match=r"metadata has parts 2 and img_emb has 2, 10"):
        open_arrays(tmp_path)


@pytest.mark.parametrize("parts", [1, 2])
def test_folder_of_thingsvision(parts, rows, tmp_path):
    features, _, names = rows
    for part, values in enumerate(np.array_split(features, parts), 1):
        np.save(tmp_path / ("features.npy" if parts == 1 else f"features_{part:02d}.npy"), values)
    (tmp_path / "file_names.txt").write_text("\n".join(names) + "\n")
    found = content_of(tmp_path)
    np.testing.assert_array_equal(found.popitem()[1], features)
    assert found["file_names"] == names


def test_exported_folder_and_table_can_be_imported(rows, tmp_path):
    from simsiam_eval.features.writer import write_features
    from tasks.export.export import ExportSettings, export

    features, labels, names = rows
    write_features(tmp_path / "a.h5", features, labels, names, encoder={"arch": "x"}, source={"spec": "s"})
    for to, out in (("npy", tmp_path / "a"), ("parquet", tmp_path / "a.parquet")):
        export(ExportSettings(file=tmp_path / "a.h5", to=to, out=out))
        found = content_of(out)
        np.testing.assert_array_equal(found["features"], features)
        assert names in [values for values in found.values() if isinstance(values, list)]
    with pytest.raises(DataError, match="already is a feature file"):
        open_arrays(tmp_path / "a.h5")


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "a.pkl", "dict.pt"])
def test_no_pickle_is_executed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if name == "a.npz":
        np.savez(path, features=np.array([Hostile()], dtype=object))
    elif name == "dict.pt":
        torch.save({"features": Hostile()}, path)
    else:
        path.write_bytes(pickle.dumps(Hostile()))
    try:
        arrays, _ = open_arrays(path)
    except DataError:
        arrays = []
    assert all(array.problem for array in arrays)
    assert not (tmp_path / "executed").exists()


def truncated(path):
    path.write_bytes(path.read_bytes()[:-20])


BROKEN = {
    "not there": ("none.npy", None, "does not exist"),
    "empty": ("a.npy", lambda path: path.write_bytes(b""), "is an empty file"),
    "another kind": ("a.xyz", lambda path: path.write_text("x"), "not of a supported kind"),
    "text as npy": ("a.npy", lambda path: path.write_text("hello"), "not an array of NumPy"),
    "text as npz": ("a.npz", lambda path: path.write_text("hello"), "not a .npz file"),
    "text as h5": ("a.h5", lambda path: path.write_text("hello"), "not an HDF5 file"),
    "text as parquet": ("a.parquet", lambda path: path.write_text("hello"), "not a Parquet file"),
    "text as mat": ("a.mat", lambda path: path.write_text("hello"), "not a MATLAB file"),
    "text as json": ("a.json", lambda path: path.write_text("hello"), "not JSON of samples"),
    "truncated npy": ("a.npy", lambda path: (np.save(path, np.ones((9, 9))), truncated(path)), "is truncated"),
    "numbers in json": ("a.json", lambda path: path.write_text("[1, 2]"), "expected objects"),
    "truncated json": ("a.json", lambda path: path.write_text('[{"id": "a"}, {"id": '), "truncated or not valid"),
    "json without its end": ("a.json", lambda path: path.write_text('[{"id": "a"}'), "truncated or not valid"),
    "empty line": ("a.csv", lambda path: path.write_text("\n\n"), "begins with an empty line"),
    "not UTF-8": ("a.csv", lambda path: path.write_bytes(b"id,e_0,e_1\n\xe4,1,2\n"), "not a table of UTF-8"),
    "a column twice": ("a.csv", lambda path: path.write_text("id,e_0,e_0\na,1,2\n"), "two columns called 'e_0'"),
    "no header": ("a.csv", lambda path: path.write_text("7,.5,.25\n8,.5,.25\n"), r"column 1 \(7\) may be an id"),
    "a short line": ("a.csv", lambda path: path.write_text("id,e_0,e_1\na,1,2\nb,1\n"), "Expected 3 columns, got 2"),
    "no features in a folder": (".", None, "not a folder of features"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_one_sentence(case, tmp_path):
    name, write, says = BROKEN[case]
    if write is not None:
        write(tmp_path / name)
    with pytest.raises(DataError, match=says) as error:
        content_of(tmp_path / name)
    assert "\n" not in str(error.value)


def test_damaged_archive_is_found_when_it_is_read(rows, tmp_path):
    np.savez(tmp_path / "a.npz", features=np.zeros((5000, 8)))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[100_000] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        content_of(tmp_path / "a.npz")


def test_missing_values_of_tables_are_nan_and_none(tmp_path):
    (tmp_path / "a.csv").write_text("id,e_0,e_1,label\na,1,2,cat\nb,,NaN,\n")
    found = content_of(tmp_path / "a.csv")
    np.testing.assert_array_equal(found["e_*"], [[1, 2], [np.nan, np.nan]])
    assert found["label"] == ["cat", None]


@pytest.mark.parametrize(
    ("text", "name"),
    [(",0,1\nx,5,6\n", "*"), ("5.5 6.5\n", "f*"), ("id;e_1;e_0\nx;6;5\n", "e_*"), ("id\te_0\te_1\nx\t5\t6\n", "e_*")],
)
def test_tables_of_other_dialects(text, name, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    np.testing.assert_array_equal(np.floor(content_of(tmp_path / "a.csv")[name]), [[5, 6]])


def test_null_vectors_are_rows_of_nan_and_ragged_ones_are_rejected(tmp_path):
    import pyarrow as arrow
    from pyarrow import parquet

    for name, vectors in (("null", [[1.0, 2.0], None, [3.0, 4.0]]), ("ragged", [[1.0, 2.0], [3.0]])):
        table = arrow.table({"emb": arrow.array(vectors, arrow.list_(arrow.float32()))})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    found = content_of(tmp_path / "null.parquet")["emb"]
    np.testing.assert_array_equal(found, [[1, 2], [np.nan, np.nan], [3, 4]])
    with pytest.raises(DataError, match="1 values in row 1 of emb; expected 2"):
        content_of(tmp_path / "ragged.parquet")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_without_pyarrow_it_is_named(name, rows, tmp_path, monkeypatch):
    WRITERS[name](tmp_path / name, rows[0], rows[2])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="pip install pyarrow"):
        open_arrays(tmp_path / name)


def test_text_and_json_lists_have_a_value_per_row(tmp_path):
    (tmp_path / "a.txt").write_text("x\n\ny z\n")
    (tmp_path / "a.json").write_text('["x", null, 3]')
    assert content_of(tmp_path / "a.txt", lines=True)["a"] == ["x", "", "y z"]
    assert content_of(tmp_path / "a.json", lines=True)["a"] == ["x", None, "3"]
