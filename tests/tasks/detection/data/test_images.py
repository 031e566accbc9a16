"""Images that cannot be used are found by their headers."""

from dataclasses import replace

import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.runtime.processes import Processes
from tasks.detection.data.dataset import LabeledImages
from tasks.detection.data.images import check_header, check_images, read_pixels
from tasks.detection.data.opening import open_detection_dataset


def test_size_that_differs_from_the_annotations(few_voc):
    image = open_detection_dataset(str(few_voc), "train").images[0]
    for check in (read_pixels, check_header):
        problem = check(replace(image, width=161))
        assert "is 160x160, but its annotations are for 161x160" in problem.reason
    assert check_header(image) is False


def test_all_images_are_checked(few_voc, tmp_path):
    import torch

    data = open_detection_dataset(str(few_voc), "train")
    check_images(data, Processes(torch.device("cpu")))
    (tmp_path / "empty.jpg").touch()
    images = LabeledImages.packed(replace(image, path=tmp_path / "empty.jpg") for image in data.images[:3])
    with pytest.raises(DataError, match=r"empty.jpg cannot be read .* \(and 2 more like it\)\. Fix this"):
        check_images(replace(data, images=images), Processes(torch.device("cpu")))
