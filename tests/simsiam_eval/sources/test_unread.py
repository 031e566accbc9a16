"""Which files are images, in folders, archives and VOC folders; the others are counted and named in one line."""

import io
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image, features

from simsiam_eval.errors import DataError
from simsiam_eval.images.formats import image_endings
from simsiam_eval.runtime import notes
from simsiam_eval.sources import folder as folder_module, unread
from simsiam_eval.sources.opening import open_source

SIDE = 16
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.setattr(notes, "_said", set())


def encoded(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


IMAGES = {
    "a.JPE": encoded("JPEG"), "b.jfif": encoded("JPEG"), "c.mpo": encoded("MPO"), "d.tga": encoded("TGA"),
    "e.pcx": encoded("PCX"), "f.pnm": encoded("PPM"), "g.sgi": encoded("SGI"), "h.dds": encoded("DDS"),
    "i.ico": encoded("ICO", sizes=[(SIDE, SIDE)]), "j.qoi": encoded("QOI"), "k.apng": encoded("PNG"), "l": encoded("PNG"),
    "m.Dat4": encoded("WEBP"), "n.0001": encoded("GIF"), "0f3a9c": encoded("TIFF"), "v1.2": encoded("JPEG"),
}  # fmt: skip
if features.check("jpg_2000"):
    IMAGES["o.jp2"] = IMAGES["o.jpx"] = encoded("JPEG2000")
if features.check("avif"):
    IMAGES["p.avif"] = IMAGES["p.unknown"] = encoded("AVIF")
OTHERS = {
    "labels.txt": b"cat\n", "a.txt": b"cat\n", "a.xml": b"<a/>", "README": b"# cats", "x.heic": b"\0\0\0\x18ftypheic",
    "x.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "raw.dng": encoded("TIFF"), "x.h": b"#define a 1\n",
    "v.mp4": b"\0\0\0\x18ftypmp42", "short": b"P", "empty": b"", "x.npy": b"\x93NUMPY",
}  # fmt: skip
IGNORED = {".DS_Store": b"1", "Thumbs.db": b"2", "desktop.ini": b"3", "._a.JPE": b"4", "Icon\r": b"5"}
SENTENCE = (
    "12 files were not read as images: 3 without an ending, 2 .txt, 1 .dng, 1 .eps, 1 .h, 4 others; "
    ".heic requires pillow-heif"
)


def as_folder(path):
    (path / "cat").mkdir()
    for name, content in (IMAGES | OTHERS | IGNORED).items():
        (path / "cat" / name).write_bytes(content)
    (path / "__MACOSX" / "cat").mkdir(parents=True)
    (path / "__MACOSX" / "cat" / "a.png").write_bytes(b"6")
    return path


def as_tar(path):
    as_folder(path)
    with tarfile.open(path / "a.tar", "w") as file:
        file.add(path / "cat", "cat")
        file.add(path / "__MACOSX", "__MACOSX")
    shutil.rmtree(path / "cat")
    return path / "a.tar"


def as_zip(path):
    as_folder(path)
    with zipfile.ZipFile(path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in (IMAGES | OTHERS | IGNORED).items():
            file.writestr(f"cat/{name}", content)
        file.writestr("__MACOSX/cat/a.png", b"6")
    return path / "a.zip"


@pytest.mark.parametrize("pack", [as_folder, as_tar, as_zip])
def test_everything_that_pillow_reads_is_read_and_the_rest_is_counted(tmp_path, capsys, monkeypatch, pack):
    spec = str(pack(tmp_path))
    for _ in range(2):  # the second time, the index of an archive is from the cache
        monkeypatch.setattr(notes, "_said", set())
        source = open_source(spec)
        names = [source.id(row).rpartition("/")[2] for row in range(len(source))]
        assert sorted(names) == sorted(IMAGES)
        assert source.image(names.index("m.Dat4")).pixels().shape == (SIDE, SIDE, 3)
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert f"{spec}: {SENTENCE} (pip install pillow-heif).\n" == message
    open_source(spec)
    assert capsys.readouterr().err == ""  # said already


def test_files_of_known_endings_are_not_opened(tmp_path, monkeypatch):
    for number in range(300):
        (tmp_path / f"{number}.png").write_bytes(b"not opened")
        (tmp_path / f"{number}.txt").write_bytes(b"not opened")
        (tmp_path / f"{number}.emb").write_bytes(b"opened until it is clear that none is an image")
    opened = []
    monkeypatch.setattr(folder_module, "is_image_file", lambda path: opened.append(path.name) or False)
    assert len(open_source(str(tmp_path))) == 300
    assert {name.rpartition(".")[2] for name in opened} == {"emb"}
    assert len(opened) == 100


def test_each_file_of_an_unknown_ending_is_looked_at_once_one_is_an_image(tmp_path):
    for number in range(150):
        (tmp_path / f"{number:03}.frame").write_bytes(encoded("PNG") if number in (0, 149) else b"no image")
    source = open_source(str(tmp_path))
    assert list(source.ids) == ["000.frame", "149.frame"]
    assert source.notes == ["148 files were not read as images: 148 .frame"]


def test_endings_are_pillows_without_what_is_not_a_raster_image():
    endings = image_endings()
    assert {".jpg", ".jpe", ".jfif", ".png", ".tiff", ".webp", ".jp2", ".tga", ".bmp", ".psd"} <= set(endings)
    assert not {".pdf", ".eps", ".h5", ".mpg", ".wmf", ".grib", ".fits", ".txt", ""} & set(endings)


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 16)
    with pytest.raises(Exception, match="HEIC requires pillow-heif: pip install pillow-heif"):
        open_source(str(tmp_path)).image(0)
    (tmp_path / "a.jpg").rename(tmp_path / "a.heic")
    with pytest.raises(DataError, match=r"has no images \(1 file was not read as an image: 1 .heic; .heic requires"):
        open_source(str(tmp_path))
    monkeypatch.setattr(unread, "image_endings", lambda: (".heic",))
    assert len(open_source(str(tmp_path))) == 1


def test_a_folder_of_other_files_says_what_it_has(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "1.txt").write_text("x")
    (tmp_path / "b" / "1.png").write_bytes(encoded("PNG"))
    with pytest.raises(DataError, match=r"a has no images \(1 file was not read as an image: 1 .txt\); add some"):
        open_source(str(tmp_path))


def test_a_single_file_without_an_ending(tmp_path):
    (tmp_path / "0f3a").write_bytes(encoded("PNG"))
    assert open_source(str(tmp_path / "0f3a")).id(0) == "0f3a"
    (tmp_path / "notes").write_text("x")
    with pytest.raises(DataError, match="is not a supported image source"):
        open_source(str(tmp_path / "notes"))


def pairs(path, first, second, names=("a", "b", "c"), suffix=""):
    for folder in (first, second):
        (path / folder).mkdir(parents=True)
        for name in names:
            ending = ".png" if folder == second else ".jpg"
            kind = "PNG" if folder == second else "JPEG"
            (path / folder / f"{name}{suffix if folder == second else ''}{ending}").write_bytes(encoded(kind))
    return path


@pytest.mark.parametrize(
    ("first", "second", "suffix"),
    [
        ("images", "masks", ""),
        ("imgs", "labels", ""),
        ("Image", "Ground_Truth", "_gt"),
        ("JPEGImages", "SegmentationClass", ""),
        ("input", "target", ""),
        ("rgb", "depth", "-depth"),
        ("photos/x/../images", "annotations", "_mask"),
    ],
)
def test_images_and_their_masks_are_no_classes(tmp_path, first, second, suffix):
    path = pairs(tmp_path, first.rpartition("/")[2], second, suffix=suffix)
    spec = str(path)
    with pytest.raises(DataError, match="which are images and their masks, not classes; for the images alone, give"):
        open_source(spec)
    assert open_source(f"{spec}#split=none").class_names is not None
    assert open_source(f"{spec}/{first.rpartition('/')[2]}").class_names is None
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for folder in (first.rpartition("/")[2], second):
            file.add(path / folder, folder)
    with pytest.raises(DataError, match=f"#folder={first.rpartition('/')[2]}. Add #split=none"):
        open_source(str(tmp_path / "a.tar"))


def test_images_and_masks_inside_splits(tmp_path):
    for split in ("train", "test"):
        pairs(tmp_path / split, "images", "masks")
    with pytest.raises(DataError, match="images and their masks"):
        open_source(f"{tmp_path}#train")


def test_two_folders_with_the_same_names_are_a_note(tmp_path, capsys):
    source = open_source(str(pairs(tmp_path, "left", "right")))
    assert source.class_names == ("left", "right")
    assert "left and right have files of the same names and are read as two classes; if they are pairs" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("first", "second"), [(("a", "b"), ("a", "c")), (("a", "b"), ("a", "b", "c")), (("a",), ("a",))]
)
def test_other_names_are_no_note(tmp_path, capsys, first, second):
    pairs(tmp_path, "cat", "x", first)
    shutil.rmtree(tmp_path / "x")
    pairs(tmp_path, "dog", "y", second)
    shutil.rmtree(tmp_path / "y")
    assert open_source(str(tmp_path)).class_names == ("cat", "dog")
    assert capsys.readouterr().err == ""


def test_numbered_files_in_two_class_folders_are_no_note(tmp_path, write_image):
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            write_image(tmp_path / folder / f"{number:03d}.png", number)
    assert open_source(str(tmp_path)).notes == []
