"""Images of VOC folders that are turned by EXIF, or have more than 8 bits; encodings and lists that VOC does not write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from input_cases.case import Case, difference
from input_cases.detection_fields import HEIGHT, IMAGES, WIDTH, counts, prepared, write_voc
from simsiam_eval.errors import DataError
from tasks.detection.data.image_files import TURNED
from tasks.detection.data.images import read_pixels


def chinese(folder: Path) -> str | None:
    spec = write_voc(folder, str)
    for file in (folder / "Annotations").iterdir():
        text = '<?xml version="1.0" encoding="GB2312"?>' + file.read_text().replace("cat", "猫")
        file.write_bytes(text.encode("gb2312"))
    return difference(prepared(spec).train.classes, ("猫",))


def no_lists(folder: Path) -> str | None:
    write_voc(folder, str)
    (folder / "ImageSets" / "Main" / "train.txt").unlink()
    return difference(len(prepared(f"voc:{folder}").train.images), IMAGES)


def exif(folder: Path, orientation: int) -> str | None:
    spec = write_voc(folder, str)
    for file in (folder / "JPEGImages").iterdir():
        image = Image.open(file)
        tags = image.getexif()
        tags[274] = orientation
        image.save(file, exif=tags)
    try:
        return difference(counts(prepared(spec)).get(TURNED), IMAGES)
    except DataError as error:
        return None if orientation > 4 and "width and height are swapped" in str(error) else str(error)


def twelve_bits(folder: Path, intensity: str) -> str | None:
    spec = write_voc(folder, str)
    for file in (folder / "JPEGImages").iterdir():
        file.unlink()
        Image.fromarray(np.full((HEIGHT, WIDTH), 4095, np.uint16)).save(file.with_suffix(".png"))
    images = prepared(spec, intensity=intensity).train.images
    return difference(set(read_pixels(images[0]).flatten().tolist()), {255 if intensity == "0:4095" else 16})


def wide_integers(folder: Path) -> str | None:
    spec = write_voc(folder, str)
    for number in range(IMAGES):
        (folder / "JPEGImages" / f"{number}.jpg").unlink()
        levels = np.linspace(-1000, 3000, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.int32)
        levels[0, 0] = 10**9 * (number == 0)  # an outlier
        Image.fromarray(levels).save(folder / "JPEGImages" / f"{number}.tif")
    first, last = (read_pixels(prepared(spec).train.images[row])[:, 1:].float() for row in (0, IMAGES - 1))
    return difference([torch.equal(first, last), first.max() - first.min() > 250], [True, True])


CASES: list[Case] = [
    Case("VOC: GB 2312", "read", chinese),
    Case("VOC: ImageSets/Main without a list", "all annotated images", no_lists),
    Case("VOC: EXIF orientation of 180 degrees", "counted", lambda folder: exif(folder, 3)),
    Case("VOC: EXIF orientation that mirrors", "counted", lambda folder: exif(folder, 2)),
    Case("VOC: EXIF orientation of 90 degrees, boxes of the stored pixels", "rejected", lambda folder: exif(folder, 6)),
    Case("VOC: 12 bits in 16, --intensity 0:4095", "white is 4095", lambda folder: twelve_bits(folder, "0:4095")),
    Case("VOC: 12 bits in 16", "white is 65535", lambda folder: twelve_bits(folder, "auto")),
    Case("VOC: TIFFs of 32-bit integers", "one scale for all", wide_integers),
]  # fmt: skip
