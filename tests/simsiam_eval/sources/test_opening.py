"""Image sources: what is in each row, and what is refused."""

import errno
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.images.decode import UnreadableImage
from simsiam_eval.sources.opening import open_source


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, value, value)).save(path)


@pytest.fixture
def classes(tmp_path):
    root = tmp_path / "photos"
    for value, name in enumerate(["dog/b.png", "cat/a.png", "cat/deep/c.PNG"]):
        picture(root / name, value)
    return root


def test_folder_is_sorted_and_labeled(classes):
    source = open_source(f"folder:{classes}")
    assert [source.id(row) for row in range(3)] == ["cat/a.png", "cat/deep/c.PNG", "dog/b.png"]
    assert source.labels.tolist() == [0, 0, 1]
    assert source.class_names == ("cat", "dog")
    assert source.image(2).pixels().max() == 0


def test_flat_folder_has_no_labels(classes):
    source = open_source(str(classes / "dog"))
    assert source.labels.tolist() == [-1]
    assert source.class_names is None


def test_fingerprint_follows_content_and_order_not_place(classes, tmp_path):
    first = open_source(str(classes)).fingerprint()
    shutil.copytree(classes, tmp_path / "copy")
    assert open_source(str(tmp_path / "copy")).fingerprint() == first
    picture(classes / "dog" / "b.png", 9)
    assert open_source(str(classes)).fingerprint() != first
    os.rename(tmp_path / "copy/cat/a.png", tmp_path / "copy/cat/z.png")
    assert open_source(str(tmp_path / "copy")).fingerprint() != first


def test_folders_that_are_refused(classes, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        open_source(str(tmp_path / "empty"))
    (classes / "horse").mkdir()
    with pytest.raises(DataError, match="horse"):
        open_source(str(classes))
    (classes / "horse").rmdir()
    picture(tmp_path / "data/train/cat/a.png", 1)
    with pytest.raises(DataError, match="splits"):
        open_source(str(tmp_path / "data"))
    picture(classes / "stray.png", 1)
    with pytest.raises(DataError, match="both"):
        open_source(str(classes))


def test_hidden_folders_are_left_out_and_others_are_searched(classes):
    picture(classes / "cat/.ipynb_checkpoints/a-checkpoint.png", 1)
    picture(classes / "cat/deep/deeper/.d.png", 1)
    picture(classes / "cat/deep/deeper/d.png", 1)
    (classes / "cat/deep/circle").symlink_to(classes / "cat")
    source = open_source(str(classes))
    assert list(source.ids) == ["cat/a.png", "cat/deep/c.PNG", "cat/deep/deeper/d.png", "dog/b.png"]


def test_class_folders_beside_tables_and_archives_are_a_folder(classes):
    for name in ("list.parquet", "all.tar", "list.txt"):
        (classes / name).touch()
    assert len(open_source(str(classes))) == 3


def test_manifest_columns_paths_and_labels(classes):
    table = classes / "list.csv"
    table.write_text("\ufefffile,species\ncat/a.png,tabby\ndog/b.png,\ngone.png,beagle\n", encoding="utf-8")
    source = open_source(f"manifest:{table}#path=file,label=species")
    assert source.class_names == ("beagle", "tabby")
    assert source.labels.tolist() == [1, -1, 0]
    assert source.image(0).pixels().max() == 1
    with pytest.raises(UnreadableImage, match="no such file"):
        source.image(2)
    with pytest.raises(DataError, match="species"):
        open_source(str(table))


def test_manifest_numbers_stay_and_parquet_is_the_same(classes):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"path": ["dog/b.png"], "label": [7]}), classes / "list.parquet")
    (classes / "list.tsv").write_text("path\tlabel\ndog/b.png\t7\n")
    for name in ("list.parquet", "list.tsv"):
        source = open_source(str(classes / name))
        assert (source.labels.tolist(), source.class_names, source.id(0)) == ([7], None, "dog/b.png")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("path\n", "no rows"),
        ("path,label\na\n", "row 1"),
        ("path\na\n''\n\"\"\n", "row 3: the path is empty"),
        ("path\na.png\nb.png\n", r"None of the first 2 images .*a\.png"),
    ],
)
def test_broken_manifests(tmp_path, text, says):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        open_source(str(tmp_path / "list.csv"))


def cifar_folder(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 255, (10, 3072), dtype=np.uint8)
    labels = list(range(10))
    folder = tmp_path / f"cifar-10-batches-{kind}"
    folder.mkdir()
    names = [f"class{label}" for label in labels]
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        if kind == "py":
            (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": labels}))
        else:
            rows = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [name.encode() for name in names]}))
    (folder / "batches.meta.txt").write_text("\n".join(names))
    return folder, pixels


@pytest.mark.parametrize("kind", ["py", "bin"])
def test_cifar10_versions_folder_and_archive(tmp_path, kind):
    folder, pixels = cifar_folder(tmp_path, kind)
    with tarfile.open(tmp_path / "cifar-10-x.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    for place in (folder, tmp_path, tmp_path / "cifar-10-x.tar.gz"):
        source = open_source(f"cifar10:{place}")
        assert (len(source), source.labels[3], source.class_names[3]) == (50, 3, "class3")
        assert np.array_equal(source.image(3).pixels(), pixels[3].reshape(3, 32, 32).transpose(1, 2, 0))
        assert len(open_source(f"cifar10:{place}#test")) == len(open_source(f"cifar10:{place}", "test")) == 10


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_truncated_cifar_archive_is_called_damaged_wherever_it_was_cut(tmp_path, mode):
    folder, _ = cifar_folder(tmp_path, "py")
    whole = tmp_path / "whole.tar"
    with tarfile.open(whole, mode) as archive:
        archive.add(folder, folder.name)
    content = whole.read_bytes()
    for kept in range(0, len(content) - 10 * tarfile.BLOCKSIZE, 7 * tarfile.BLOCKSIZE):
        (tmp_path / "cut.tar").write_bytes(content[:kept])
        with pytest.raises(DataError, match=r"is not a tar archive, or it is damaged: [^\n]+\.$"):
            open_source(f"cifar10:{tmp_path / 'cut.tar'}")


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_cifar_pickle_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = cifar_folder(tmp_path, "py")
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": Harmful()}))
    with pytest.raises(DataError, match="nothing was executed"):
        open_source(f"cifar10:{folder}")
    assert not (tmp_path / "harm").exists()
    (folder / "data_batch_1").write_bytes(b"\x80")
    with pytest.raises(DataError, match="damaged"):
        open_source(f"cifar10:{folder}")


def test_digits_split_covers_all_once():
    parts = [open_source(f"digits#{split}") for split in ("train", "test")]
    assert [len(part) for part in parts] == [1197, 600]
    ids = {part.id(row) for part in parts for row in range(len(part))}
    assert len(ids) == len(open_source("digits")) == 1797
    assert parts[0].image(0).pixels().shape == (8, 8, 3)


@pytest.mark.parametrize("spec", ["nowhere:x", "digits#color=red", "digits#val", "digits:x"])
def test_specs_that_are_refused(spec):
    with pytest.raises(UsageError):
        open_source(spec)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("folder:{}/dog/b.png", "is not a folder"),
        ("list:{}/dog", "is a folder; list: expects a file"),
        ("image:{}/dog", "is a folder; image: expects a file"),
        ("{}/bad.parq", "is not a supported image source; expected a folder"),
        ("{}/none.txt", "none.txt does not exist; expected a folder, .*tar:"),
        ("{}/none-{{0..1}}.tar", r"no .*none-0.tar \(2 of 2"),
        ("manifest:{}/dog/b.png", "A manifest is a .csv"),
        ("manifest:{}/bad.parquet", "is not a Parquet file"),
        ("manifest:{}/bad.csv", "cannot be read as a table"),
    ],
)
def test_files_that_are_refused(classes, spec, says):
    (classes / "bad.parquet").write_bytes(b"text")
    (classes / "bad.csv").write_bytes(b"path\n\xff\n")
    (classes / "bad.parq").write_bytes(b"text")
    with pytest.raises(DataError, match=says):
        open_source(spec.format(classes))


def test_one_image_is_a_source(classes):
    for spec in (f"{classes}/dog/b.png", f"image:{classes}/dog/b.png"):
        one = open_source(spec)
        assert (len(one), one.id(0), one.labels.tolist()) == (1, "b.png", [-1])
        assert np.array_equal(one.image(0).pixels(), np.asarray(Image.open(classes / "dog" / "b.png").convert("RGB")))


def test_missing_path():
    with pytest.raises(DataError, match="not-here"):
        open_source("folder:not-here")


def test_content_that_changed_at_the_same_size_and_time_is_another_fingerprint(tmp_path):
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "0.bmp"
    Image.new("RGB", (4, 4), "red").save(path)
    before, times = open_source(f"folder:{tmp_path}").fingerprint(), path.stat()
    Image.new("RGB", (4, 4), "blue").save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert open_source(f"folder:{tmp_path}").fingerprint() != before


def test_a_fingerprint_without_all_contents_is_not_remembered(tmp_path, monkeypatch):
    def unreadable(path):
        raise UnreadableImage("permission denied")

    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    with monkeypatch.context() as patch:
        patch.setattr("simsiam_eval.sources.base.read_file", unreadable)
        without = open_source(f"folder:{tmp_path}").fingerprint()
    assert open_source(f"folder:{tmp_path}").fingerprint() != without


def test_specs_that_name_nothing_and_paths_with_a_number_sign(tmp_path):
    for spec in ("", "folder:", "tar:", "#train"):
        with pytest.raises(UsageError, match="has no path"):
            open_source(spec)
    (tmp_path / "h#sh").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "h#sh" / "0.png")
    for spec in (f"folder:{tmp_path}/h#sh", f"{tmp_path}/h#sh"):
        assert len(open_source(spec)) == 1


def test_a_folder_whose_name_is_not_utf8(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    Image.new("RGB", (4, 4)).save(os.path.join(folder, "0.png"))
    assert open_source(folder).spec.endswith("caf\\udce9")


def test_a_listing_fingerprint_is_the_same_for_a_copy(tmp_path):
    for name in ("one", "two"):
        for row in range(3):
            picture(tmp_path / name / "a" / f"{row}.bmp", row)
    found = [open_source(str(tmp_path / name)).listing_fingerprint() for name in ("one", "two")]
    assert found[0] == found[1]
    (tmp_path / "two" / "a" / "1.bmp").write_bytes(b"shorter")
    assert open_source(str(tmp_path / "two")).listing_fingerprint() != found[0]
    (tmp_path / "one" / "a" / "1.bmp").rename(tmp_path / "one" / "a" / "9.bmp")
    assert open_source(str(tmp_path / "one")).listing_fingerprint() != found[0]
    digits = open_source("digits")
    assert digits.listing_fingerprint() == digits.fingerprint()


def test_a_fifo_among_the_images_is_no_image(tmp_path):
    picture(tmp_path / "0.png", 1)
    os.mkfifo(tmp_path / "1.png")
    source = open_source(str(tmp_path))
    source.fingerprint()
    with pytest.raises(UnreadableImage, match="not a regular file"):
        source.image(1)


def test_a_system_that_cannot_read_is_no_images_fault(tmp_path, monkeypatch):
    picture(tmp_path / "0.png", 1)

    def gone(path, flags):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("simsiam_eval.images.decode._without_waiting", gone)
    for read in (lambda source: source.image(0), lambda source: source.fingerprint()):
        with pytest.raises(DataError, match="cannot be read now"):
            read(open_source(str(tmp_path)))


def test_the_word_digits_beside_a_folder_of_that_name(tmp_path, monkeypatch, capsys):
    (tmp_path / "digits" / "a").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "digits" / "a" / "x.png")
    monkeypatch.chdir(tmp_path)
    assert len(open_source("digits")) == 1797
    assert "write ./digits" in capsys.readouterr().err
    assert len(open_source("./digits")) == 1
    assert capsys.readouterr().err == ""


def test_a_hash_in_a_folders_name_beside_options(tmp_path):
    folder = tmp_path / "a#b, 1"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "x.png")
    (folder / "m.csv").write_text("path,kind\nx.png,cat\n")
    for spec in (f"manifest:{folder}/m.csv#label=kind", f"{folder}/m.csv#path=path,label=kind"):
        assert open_source(spec).class_names == ("cat",)
