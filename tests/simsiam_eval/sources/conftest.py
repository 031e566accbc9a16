"""Images and class folders for the tests of image sources."""

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def write_image():
    """write_image(path, value): a 4 x 4 image of that gray value; its folders are made."""

    def write(path, value):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (value, value, value)).save(path)

    return write


@pytest.fixture
def classes(tmp_path, write_image):
    """A folder with two classes and three images."""
    root = tmp_path / "photos"
    for value, name in enumerate(["dog/b.png", "cat/a.png", "cat/deep/c.PNG"]):
        write_image(root / name, value)
    return root
