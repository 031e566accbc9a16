"""Images of a source by id, and the messages where they cannot be shown."""

import pytest
from PIL import Image

from simsiam_eval.plots.source_images import SourceImages


@pytest.fixture
def folder(tmp_path):
    for name, color in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (4, 4), color).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"not an image")
    return tmp_path


def test_images_are_returned_by_id(folder):
    images = SourceImages(str(folder))
    assert images.image("b.png").getpixel((0, 0)) == (0, 0, 255)
    assert images.image("c.png") is None
    assert images.row("d.png") == -1
    assert images.image("d.png") is None


def test_other_images_than_those_of_the_features_are_reported(folder, capsys):
    fingerprint = SourceImages(str(folder)).source.fingerprint()
    SourceImages(str(folder), fingerprint, 3)
    SourceImages(str(folder), "listing-0", 2)  # of a split with another number of images
    assert capsys.readouterr().err == ""
    assert SourceImages(str(folder), "listing-0", 3).image("a.png") is not None
    assert "differs from the images that the features were computed from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "message"), [(None, "Specify it with --images"), ("nowhere", "nowhere cannot be shown")]
)
def test_without_a_source_there_are_no_images(spec, message, capsys):
    images = SourceImages(spec)
    assert message in capsys.readouterr().err
    assert images.image("a.png") is None
