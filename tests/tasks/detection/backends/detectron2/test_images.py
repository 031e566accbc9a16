"""detectron2 trains on the pixels that torchvision trains on."""

import numpy as np
import pytest
import torch
from PIL import Image

from simsiam_eval.images.intensity import Intensity
from tasks.detection.data.dataset import LabeledImage
from tasks.detection.data.images import read_pixels

pytestmark = pytest.mark.detectron2


@pytest.mark.parametrize("mode", ["16 bits", "12 bits", "transparent", "JPEG", "rotated"])
def test_pixels_are_those_of_all_backends(mode, tmp_path):
    from detectron2.config import get_cfg

    from tasks.detection.backends.detectron2.images import Mapper, dataset_dict

    path = tmp_path / ("a.jpg" if mode in ("JPEG", "rotated") else "a.png")
    levels = np.random.default_rng(0).integers(0, 65536, (48, 64), dtype=np.uint16)
    small = Image.fromarray((levels >> 8).astype(np.uint8))
    if mode.endswith("bits"):
        Image.fromarray(levels).save(path)
    elif mode == "transparent":
        Image.merge("RGBA", [small] * 4).save(path)
    else:
        exif = Image.Exif()
        exif[274] = 3 if mode == "rotated" else 1
        small.save(path, exif=exif)
    intensity = Intensity.parse("0:4095") if mode == "12 bits" else Intensity()
    image = LabeledImage(0, path, 64, 48, (), intensity)
    assert mode != "12 bits" or read_pixels(image).float().mean() > 200  # most of the levels are beyond 4095
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 48, "INPUT.MAX_SIZE_TEST", 64, "INPUT.FORMAT", "RGB"])
    assert torch.equal(Mapper(cfg, is_train=False)(dataset_dict(image, 0))["image"], read_pixels(image))
