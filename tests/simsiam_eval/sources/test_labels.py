"""Labels of any form turned into numbers, by one rule in all sources."""

import io
import json
import tarfile

import h5py
import numpy as np
import pytest
from PIL import Image

from simsiam_eval.errors import DataError
from simsiam_eval.runtime import notes
from simsiam_eval.sources.base import ArraySource
from simsiam_eval.sources.labels import Labels
from simsiam_eval.sources.opening import open_source
from simsiam_eval.vocabulary import NO_LABEL

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def labels_of(values, no_label=NO_LABEL):
    labels = Labels(no_label)
    (labels.extend_numbers if isinstance(values, np.ndarray) else labels.extend)(values)
    return labels


@pytest.mark.parametrize(
    ("values", "numbers", "names"),
    [
        (["7", "", "0", "-1"], [7, -1, 0, -1], None),
        (["b", "a", "", "b"], [1, 0, -1, 1], ["a", "b"]),
        (["1", "x"], [0, 1], ["1", "x"]),
        (["10" * 20], [0], ["10" * 20]),  # no int64 holds it
        (["", ""], [-1, -1], None),
        ([], [], None),
        (["b", *NO_LABEL, None], [0] + [-1] * (len(NO_LABEL) + 1), ["b"]),
        ([" 1", "0\t", " NA "], [1, 0, -1], None),
        (["1.0", "nan", "2.", "+3"], [1, -1, 2, 3], None),
        (["1.000000e+00", "0.000000e+00"], [1, 0], None),  # numpy.savetxt
        (["1e3", "2e5"], [0, 1], ["1e3", "2e5"]),
        (["1.5", "x"], [0, 1], ["1.5", "x"]),
        (["none", "Na"], [1, 0], ["Na", "none"]),
        (["True", "False"], [1, 0], ["False", "True"]),
        ([COMPOSED, DECOMPOSED], [0, 0], [COMPOSED]),
        (np.array([2.0, np.nan, 0.0, -1.0]), [2, -1, 0, -1], None),
        (np.array([3, -1, 0], np.int8), [3, -1, 0], None),
        (np.array([True, False]), [1, 0], ["False", "True"]),
        (np.array([[4], [2]], np.uint64), [4, 2], None),
    ],
)
def test_whole_numbers_are_kept_and_names_are_numbered(values, numbers, names):
    numbered, class_names = labels_of(values).numbered("a.csv")
    assert (numbered.tolist(), class_names) == (numbers, names)


def test_labels_of_several_blocks():
    labels = Labels()
    labels.extend(["b"])
    labels.extend(["a", "b"])
    assert labels.numbered("a.csv")[0].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (["1.5", "2"], r"a\.csv has the label 1\.5; expected whole numbers from 0, or class names"),
        (np.array([0.5, np.nan]), "has the label 0.5"),
        (np.array([1.0, np.inf]), "has the label inf"),
        (["-2", "-1", "1"], r"has the label -2; expected whole numbers from 0, -1 for no label.*--no-label"),
        (np.array([-2, 1]), "has the label -2"),
        (["-2.0"], "has the label -2"),
    ],
)
def test_numbers_that_are_no_labels(values, says):
    with pytest.raises(DataError, match=says):
        labels_of(values).numbered("a.csv")


def test_other_texts_for_no_label():
    assert labels_of(["None", "a", ""], [""]).numbered("a.csv")[1] == ["None", "a"]
    assert labels_of(["-2", "1"], ["-2"]).numbered("a.csv")[0].tolist() == [-1, 1]
    assert labels_of(np.array([1, 9]), ["9"]).numbered("a.csv")[0].tolist() == [1, -1]
    assert labels_of(np.array([1, np.nan]), [""]).numbered("a.csv")[0].tolist() == [1, -1]


def test_known_classes():
    for values, classes, numbers in ((["b", "a"], ["b", "a"], [0, 1]), (["1", "0"], ["1", "0"], [0, 1])):
        assert labels_of(values).numbered("a.csv", classes)[0].tolist() == numbers
    assert labels_of(np.array([1, 0])).numbered("a.csv", ["1", "0"])[0].tolist() == [1, 0]  # numbers, not names
    with pytest.raises(DataError, match="the class 'c', which is not among"):
        labels_of(["c"]).numbered("a.csv", ["a"])


def test_nulls_among_numbers():
    labels = Labels([])
    labels.extend_numbers(np.array([5, -1, 3]), np.array([False, True, False]))
    assert labels.numbered("a.csv")[0].tolist() == [5, -1, 3]


def test_notes():
    assert labels_of(["a", "NA", "", "NA"]).notes() == ["3 of 4 images have no label (NA: 2, empty: 1)"]
    assert labels_of(["", None]).notes() == []  # no labels at all
    assert labels_of(["NA"]).notes() == ["1 of 1 image has no label (NA: 1)"]
    assert labels_of(["none", "NA", "a"]).notes()[1] == (
        "1 of 3 images has a label that is read as a class, but may mean that there is none (none: 1); if so, use "
        "--no-label NA --no-label none"
    )
    assert labels_of(["none"], [""]).notes() == []


def test_class_names_that_differ_in_their_unicode_form_are_one():
    pixels = np.zeros((3, 2, 2, 3), np.uint8)
    source = ArraySource("a", pixels, np.array([0, 1, 2]), [COMPOSED, "bar", DECOMPOSED], ["1", "2", "3"])
    assert (source.labels.tolist(), source.class_names) == ([0, 1, 0], (COMPOSED, "bar"))
    source = ArraySource("a", pixels, np.array([0, 1, 2]), ["crane", DECOMPOSED, "crane"], ["1", "2", "3"])
    assert (source.labels.tolist(), source.class_names) == ([0, 1, 2], ("crane", COMPOSED, "crane"))


TEXTS = ["1.0", "NA", "0", "", "-1", "null"]  # of six images


def jpeg():
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "jpeg")
    return content.getvalue()


def as_table(folder, separator=","):
    rows = [f"{row}.jpg{separator}{text}" for row, text in enumerate(TEXTS)]
    (folder / "a.csv").write_text("\n".join([f"path{separator}label", *rows]))
    return folder / "a.csv"


def as_list(folder):
    (folder / "a.txt").write_text("\n".join(f"{row}.jpg\t{text}" for row, text in enumerate(TEXTS)))
    return folder / "a.txt"


def as_tar(folder, kind="cls"):
    with tarfile.open(folder / "a.tar", "w") as archive:
        for row, text in enumerate(TEXTS):
            label = text if kind != "json" else json.dumps({"y": {"": None, "1.0": 1.0, "0": 0}.get(text, text)})
            for ending, content in (("jpg", jpeg()), (kind, label.encode())):
                entry = tarfile.TarInfo(f"{row}.{ending}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return f"{folder}/a.tar" + {"cls": "", "txt": "#label=txt", "json": "#label=y"}[kind]


def as_hdf5(folder, values=TEXTS):
    with h5py.File(folder / "a.h5", "w") as file:
        file["images"], file["labels"] = np.zeros((6, 4, 4, 3), np.uint8), values
    return folder / "a.h5"


def as_parquet(folder, values):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"image": [jpeg()] * 6, "label": values})
    parquet.write_table(table, folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize(
    "write",
    [
        as_table,
        as_list,
        as_tar,
        lambda folder: as_tar(folder, "txt"),
        lambda folder: as_tar(folder, "json"),
        as_hdf5,
        lambda folder: as_hdf5(folder, np.array([1, np.nan, 0, np.nan, -1, np.nan], np.float32)),
        lambda folder: as_parquet(folder, [1.0, None, 0.0, float("nan"), -1.0, None]),
        lambda folder: as_parquet(folder, [1, None, 0, None, -1, None]),
        lambda folder: as_parquet(folder, TEXTS),
    ],
)
def test_every_source_reads_the_same_labels(write, tmp_path, capfd, monkeypatch):
    for row in range(len(TEXTS)):
        (tmp_path / f"{row}.jpg").write_bytes(jpeg())
    spec = str(write(tmp_path))
    for _ in range(2):  # the second time an index of a tar file is from the cache
        monkeypatch.setattr(notes, "_said", set())
        source = open_source(spec)
        assert (source.labels.tolist(), source.class_names) == ([1, -1, 0, -1, -1, -1], None)
        assert f"{spec}: 4 of 6 images have no label (" in capfd.readouterr().err
    with pytest.raises(DataError, match="has the label -1"):
        open_source(spec, no_label=["NA", "null"])


def test_names_that_may_mean_nothing_are_said():
    [note] = labels_of(["cat", "?", "-", "?", "-2", "n.a.", "3"]).notes()
    assert note == (
        "5 of 7 images have a label that is read as a class, but may mean that there is none (?: 2, -: 1, -2: 1, n.a.: 1); "
        "if so, use --no-label '?' --no-label=- --no-label=-2 --no-label n.a."
    )
    assert labels_of(["cat", "dog", "3"]).notes() == []


def test_a_negative_number_names_the_option():
    with pytest.raises(DataError, match=r"from 0, -1 for no label, or class names \(.*name it with --no-label=-2\)"):
        labels_of(["0", "-2"]).numbered("a.csv")
    with pytest.raises(DataError, match=r"the label -1; expected whole numbers from 0 or class names"):
        labels_of(["0", "-1"], ("-2",)).numbered("a.csv")


def test_labels_of_minus_one_and_one_are_explained():
    labels = Labels()
    labels.extend(["-1", "1", "-1", "1"])
    labels.numbered("a.csv")
    assert labels.notes()[1:] == [
        "all other images have the label 1; if -1 is a class too, write 0 in its place, or names"
    ]
    labels.extend(["0"])
    assert len(labels.notes()) == 1
