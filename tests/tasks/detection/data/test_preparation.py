"""Black and white of images of more than 8 bits are decided once, by the training set."""

import numpy as np
import pytest
import torch
from PIL import Image

from simsiam_eval.errors import UsageError
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.runtime.processes import Processes
from tasks.detection.data.images import read_pixels
from tasks.detection.data.preparation import prepare_datasets
from tasks.detection.settings import DetectSettings

LEVELS = np.linspace(0, 4095, 160 * 160).reshape(160, 160)


@pytest.fixture
def wide(shapes, tmp_path):
    """wide(type, levels, splits) -> a VOC folder in which the images of these splits are TIFFs of this type."""
    folder = shapes.write_voc(tmp_path / "voc", {"trainval": 3, "test": 3})

    def write(dtype, levels=LEVELS, splits=("trainval", "test")):
        for path in list((folder / "JPEGImages").iterdir()):
            if path.stem.startswith(splits):
                path.unlink()
                Image.fromarray(levels.astype(dtype)).save(path.with_suffix(".tif"))
        return str(folder)

    return write


def prepared(folder, *options, **known):
    return prepare_datasets((folder,), folder, (), False, Processes(torch.device("cpu")), *options, **known)


def test_the_given_range(wide):
    data = prepared(wide(np.uint16), "0:4095")
    expected = np.floor(LEVELS.astype(np.uint16) / 4095 * 255 + 0.5)
    for images in (data.train.images, data.test.images):
        pixels = read_pixels(images[0])
        np.testing.assert_array_equal(pixels, np.broadcast_to(expected, (3, 160, 160)))


def test_other_ranges_are_other_data(wide):
    folder = wide(np.uint16)
    first, second = (prepared(folder, option).train.fingerprint() for option in ("0:4095", "0:65535"))
    assert first != second


def test_auto_takes_the_sample_of_the_training_set_for_both(wide):
    wide(np.int32, 20.0 * LEVELS - 1000, ("test",))
    data = prepared(wide(np.int32, LEVELS - 1000, ("trainval",)))
    [(name, (low, high))] = data.train.images.intensity.ranges
    assert name == "int32" and -1000 <= low < -950 and 3000 < high <= 3095
    assert data.test.images.intensity == data.train.images.intensity


def test_a_type_that_only_test_images_have(wide):
    data = prepared(wide(np.float32, LEVELS / 4095, ("test",)))
    assert data.train.images.intensity == Intensity()
    assert dict(data.test.images.intensity.ranges) == {"float": (0, 1)}
    assert read_pixels(data.test.images[0]).max() == 255


def test_auto_keeps_the_range_of_the_encoder(wide):
    data = prepared(wide(np.uint16), known=Intensity.of({"uint16": (0, 4095)}))
    assert dict(data.train.images.intensity.ranges) == {"uint16": (0, 4095)}


def test_images_of_8_bits_need_no_range(few_voc):
    data = prepared(str(few_voc))
    assert data.test.images.intensity == data.train.images.intensity == Intensity()


def test_the_setting_is_checked():
    with pytest.raises(UsageError, match="--intensity must be auto, dtype, percentile or LOW:HIGH"):
        DetectSettings(train=("a",), test="b", out="c", init=("random",), intensity="9:1")
