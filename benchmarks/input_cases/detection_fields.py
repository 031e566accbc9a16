"""Fields of COCO files and VOC folders that are not as COCO and VOC write them.

Each case annotates four images of 100 x 80 pixels and prepares them as `detect` does before it trains.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from input_cases.case import Case, difference
from simsiam_eval.errors import DataError
from simsiam_eval.runtime.processes import Processes
from tasks.detection.data.detections import Detections
from tasks.detection.data.preparation import Datasets, prepare_datasets
from tasks.detection.metrics.evaluation import evaluate

WIDTH, HEIGHT, IMAGES = 100, 80, 4
BOXES = [[10, 10, 30, 20], [60, 40, 30, 30]]  # in every image
SQUARE = [[10, 10, 40, 10, 40, 30, 10, 30]]
Check = Callable[[Path], str | None]


def prepared(spec: str, masks: bool = False, intensity: str = "auto") -> Datasets:
    return prepare_datasets((spec,), spec, (), masks, Processes(torch.device("cpu")), intensity)


def counts(data: Datasets) -> dict[str, int]:
    return {issue: found.count for issue, found in data.test_report.issues.items()}


def write_images(folder: Path, ending: str = "png") -> None:
    folder.mkdir(parents=True)
    for number in range(IMAGES):
        Image.effect_noise((WIDTH, HEIGHT), 50).convert("RGB").save(folder / f"{number}.{ending}")


def write_coco(folder: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    write_images(folder / "train")
    images = [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(IMAGES)]
    annotations = [
        {"id": 2 * n + k, "image_id": n, "category_id": 1, "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0,
         "segmentation": [[box[0], box[1], box[0] + box[2], box[1], box[0] + box[2], box[1] + box[3]]]}
        for n in range(IMAGES) for k, box in enumerate(BOXES)
    ]  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    change(content)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return f"coco:{folder}#train"


def write_voc(folder: Path, change: Callable[[str], str], ending: str = "jpg", lines: str = "{}") -> str:
    write_images(folder / "JPEGImages", ending)
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    objects = "".join(
        f"<object><name>cat</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for x, y, w, h in BOXES
    )
    for number in range(IMAGES):
        text = f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>{objects}</annotation>"
        (folder / "Annotations" / f"{number}.xml").write_text(change(text))
    names = "\n".join(lines.format(number) for number in range(IMAGES))
    (folder / "ImageSets" / "Main" / "train.txt").write_text(names)
    return f"voc:{folder}#train"


def each(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """Set fields of every second annotation."""

    def change(content: dict[str, Any]) -> None:
        for entry in content["annotations"][::2]:
            entry.update(fields)

    return change


def every(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """Set fields of every annotation."""

    def change(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            entry.update(fields)

    return change


def boxes(convert: Callable[[list[float]], list[float]]) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            entry["bbox"] = convert(entry["bbox"])

    return change


def coco(
    name: str, change: Callable[[dict[str, Any]], Any], expected: dict[str, int] | str, masks: bool = False
) -> Case:
    return _case(f"COCO: {name}", lambda folder: write_coco(folder, change), expected, masks)


def voc(name: str, change: Callable[[str], str], expected: dict[str, int] | str, **files: str) -> Case:
    return _case(f"VOC: {name}", lambda folder: write_voc(folder, change, **files), expected, False)


def _case(name: str, write: Callable[[Path], str], expected: dict[str, int] | str, masks: bool) -> Case:
    """A case that counts `expected` issues, or is rejected with a sentence that contains `expected`."""

    def check(folder: Path) -> str | None:
        spec = write(folder)
        try:
            found = counts(prepared(spec, masks))
        except DataError as error:
            found_text = str(error)
            rejected = isinstance(expected, str) and expected in found_text and "\n" not in found_text
            return None if rejected else f"rejected: {found_text}"
        shared = {issue: found.get(issue, 0) for issue in expected} if isinstance(expected, dict) else found
        return difference(shared, expected)

    if isinstance(expected, str):
        return Case(name, f"rejected: ... {expected} ...", check)
    return Case(name, ", ".join(f"{count} x {issue}" for issue, count in expected.items()) or "read", check)


def hidden_object(folder: Path) -> str | None:
    """A detector that finds half of the objects, those whose area is positive."""
    data = prepared(write_coco(folder, each(area=-1))).test
    right = np.float32([[60, 40, 90, 70]])
    found = [Detections(right, np.float32([0.9]), np.array([0])) for _ in range(IMAGES)]
    return difference(round(evaluate(data, found, "coco").average_precision["ap"], 3), round(51 / 101, 3))


def difficult_word(folder: Path) -> str | None:
    data = prepared(write_voc(folder, lambda text: text.replace("<difficult>0", "<difficult>True", 1))).test
    return difference([obj.difficult for obj in data.images[0].annotations], [True, False])


def same_masks(folder: Path) -> str | None:
    """Both backends take compressed run-length encodings."""
    runs = {"size": [HEIGHT, WIDTH], "counts": [10 * HEIGHT + 10, 20, HEIGHT * WIDTH - 10 * HEIGHT - 30]}
    data = prepared(write_coco(folder, each(segmentation=runs, bbox=[10, 10, 1, 20], area=20)), masks=True).train
    return difference(type(data.images[0].annotations[0].segmentation["counts"]), str)  # type: ignore[index, call-overload]


CASES: list[Case] = [
    Case("COCO: objects of area -1 in the evaluation", "AP of half of the objects", hidden_object),
    Case("VOC: <difficult>True</difficult>", "difficult", difficult_word),
    Case("COCO: uncompressed run-length encoding with masks", "compressed when it is read", same_masks),
    coco("area -1", each(area=-1), {"area below 0 or a pixel, replaced by that of the mask or box": 4}),
    coco("area 0", each(area=0), {"area below 0 or a pixel, replaced by that of the mask or box": 4}),
    coco("area as a fraction", each(area=0.02), {"area below 0 or a pixel, replaced by that of the mask or box": 4}),
    coco("area 1e11", each(area=1e11), {"area larger than its box, replaced by that of the mask or box": 4}),
    coco("no area", each(area=None), {"area missing, replaced by that of the mask or box": 4}),
    coco("area as text", each(area="600"), 'has area "600"; expected a number'),
    coco("area NaN", each(area=float("nan")), "has area NaN; expected a number"),
    coco("no iscrowd", each(iscrowd=None), {"iscrowd missing, taken as 0": 4}),
    coco("iscrowd true", each(iscrowd=True), {"crowd region, ignored in evaluation": 4}),
    coco("iscrowd 2", each(iscrowd=2), "has iscrowd 2; expected 0 or 1"),
    coco("ignore 1", each(ignore=1), {"object marked ignore, ignored in evaluation": 4}),
    coco("one id for all annotations", each(id=5), {"annotation id used more than once, not used": 4}),
    coco("no annotation ids", each(id=None), {}),
    coco("annotation twice", lambda c: c["annotations"].append(c["annotations"][0]),
         {"box annotated more than once, kept": 1}),
    coco("boxes 0..1", boxes(lambda b: [b[0] / 100, b[1] / 80, b[2] / 100, b[3] / 80]), "8 of 8 boxes lie between 0 and 1"),
    coco("sides as fractions", boxes(lambda b: [*b[:2], b[2] / 100, b[3] / 80]), "8 of 8 boxes are smaller than a pixel"),
    coco("one box of half a pixel", lambda c: c["annotations"][0].update(bbox=[5, 5, 0.5, 9], area=4.5),
         {"box with a side below one pixel": 1}),
    coco("x1, y1, x2, y2", boxes(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]), "all fit if read as x1, y1, x2, y2"),
    coco("boxes of larger images", boxes(lambda b: [10 * value for value in b]), "lie outside their images"),
    coco("negative widths", lambda c: c["annotations"][0].update(bbox=[40, 10, -30, 20]),
         {"box with swapped corners, corrected": 1}),
    coco("box of three numbers", each(bbox=[1, 2, 3]), "expected four numbers: x, y, width, height"),
    coco("box as text", each(bbox=["10", "10", "30", "20"]), "expected four numbers: x, y, width, height"),
    coco("box with infinity", each(bbox=[10, 10, float("inf"), 20]), "expected four numbers: x, y, width, height"),
    coco("two names of one category", lambda c: c["categories"].append({"id": 1, "name": "dog"}),
         "categories with the same id (1 'cat', 1 'dog')"),
    coco("two categories of one name", lambda c: c["categories"].append({"id": 2, "name": "cat"}),
         "categories with the same name (1 'cat', 2 'cat')"),
    coco("names that differ in spaces", lambda c: c["categories"].append({"id": 2, "name": " cat"}),
         "categories with the same name (1 'cat', 2 'cat')"),
    coco("category 0", lambda c: c["categories"][0].update(id=0) or every(category_id=0)(c), {}),
    coco("category -1, which is not in the file", each(category_id=-1), "has category_id -1; expected one of"),
    coco("category as text", each(category_id="1"), 'has category_id "1"; expected a whole number'),
    coco("image ids twice", lambda c: c["images"][1].update(id=0), "images with the same id (0)"),
    coco("one image file twice", lambda c: c["images"][1].update(file_name="0.png"), {"image listed more than once": 1}),
    coco("image without a size", lambda c: c["images"][1].update(width=None),
         {"image without a size in its annotations, read from the file": 1}),
    coco("size of another image", lambda c: c["images"][1].update(width=101), "but its annotations are for 101x80"),
    coco("width and height swapped", lambda c: c["images"][1].update(width=80, height=100), "EXIF orientation"),
    coco("file name in other case", lambda c: c["images"][1].update(file_name="1.PNG"), "1.png, whose name differs in case"),
    coco("one flat polygon", each(segmentation=SQUARE[0], bbox=[10, 10, 30, 20]),
         {"segmentation given as one flat list, read as a polygon": 4}, masks=True),
    coco("polygon of two corners", each(segmentation=[[1, 2, 3, 4]]), "has a box without a segmentation", masks=True),
    coco("polygon of points", each(segmentation=[[[1, 2], [3, 4], [5, 6]]]), "expected polygons as [x1, y1, x2, y2, ...]"),
    coco("polygon with NaN", each(segmentation=[[1, 2, 3, 4, 5, float("nan")]]), "a coordinate that is not a number"),
    coco("polygons as fractions", every(segmentation=[[0.1, 0.1, 0.4, 0.1, 0.4, 0.4]]),
         "do not fit their segmentations", masks=True),
    coco("one polygon elsewhere", lambda c: c["annotations"][1].update(segmentation=SQUARE),
         {"box that does not fit its segmentation, kept": 1}, masks=True),
    coco("run-length encoding of another size", each(segmentation={"size": [9, 9], "counts": [80, 1]}),
         f"has a segmentation of size [9, 9]; expected [{HEIGHT}, {WIDTH}]"),
    coco("run-length encoding of negative runs", each(segmentation={"size": [HEIGHT, WIDTH], "counts": "!<"}),
         "has a segmentation with damaged counts"),
    coco("run-length encoding of nothing", each(segmentation={"size": [HEIGHT, WIDTH], "counts": ""}),
         "has a segmentation with invalid counts"),
    coco("run longer than 32 bits", each(segmentation={"size": [10**5, 10**5], "counts": [10**10]}),
         "has a segmentation with invalid counts"),
    coco("polygon with an x without a y", each(segmentation=[[10, 10, 40, 10, 40, 30, 10]]),
         {"segmentation with a polygon of fewer than three corners or an odd number of coordinates, which is left out": 4}),
    coco("area 1 everywhere", every(area=1),
         {"area far below that of the mask or box, in a quarter of all objects, replaced by it": 8}),
    coco("boxes by their centers", boxes(lambda b: [b[0] + b[2] / 2, b[1] + b[3] / 2, *b[2:]]),
         "all fit if read as center x, center y, width, height"),
    coco("boxes by their centers, all inside", lambda c: (boxes(lambda b: [b[0] + b[2] / 2, b[1] + b[3] / 2, *b[2:]])(c),
                                                          c.update(annotations=c["annotations"][::2])),
         "do not fit their segmentations, but would if read as center x"),
    coco("x1, y1, x2, y2 with one box outside", lambda c: (boxes(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])(c),
                                                           c["annotations"][0].update(bbox=[90, 60, 110, 90])),
         "7 fit if read as x1, y1, x2, y2"),
    coco("y, x, height, width", boxes(lambda b: [b[1], b[0], b[3], b[2]]), "all fit if read as y, x, height, width"),
    coco("only crowd regions", every(iscrowd=1), "no boxes to train on (8 x crowd region, dropped)"),
    coco("one box outside its image", lambda c: c["annotations"][0].update(bbox=[-50, -50, 20, 20]),
         {"box outside the image, always a missed object": 1, "box partly outside the image, kept as annotated": 0}),
    coco("file name with a backslash", lambda c: c["images"][1].update(file_name=".\\1.png"),
         {"file_name with backslashes, read as slashes": 1}),
    coco("file names below another folder", lambda c: c["images"][1].update(file_name="train/1.png"),
         "unless coco:FILE.json#images=FOLDER names another folder"),
    coco("file name with half a character", lambda c: c["images"][1].update(file_name="\ud800.png"),
         "expected a string of valid Unicode"),
    voc("two boxes of one object", lambda text: text.replace("</bndbox>", "</bndbox><bndbox/>", 1),
        "has 2 elements <bndbox>; expected one"),
    voc("two names of one object", lambda text: text.replace("</name>", "</name><name>dog</name>", 1),
        "has 2 elements <name>; expected one"),
    voc("difficult twice", lambda text: text.replace("</difficult>", "</difficult><difficult>1</difficult>", 1),
        "has 2 elements <difficult>; expected one"),
    voc("oriented boxes only", lambda text: text.replace("bndbox>", "robndbox>"), "has no <bndbox>; expected one"),
    voc("unknown encoding", lambda text: f'<?xml version="1.0" encoding="klingon"?>{text}', "unknown encoding: klingon"),
    coco("run-length encoding that ends early", each(segmentation={"size": [HEIGHT, WIDTH], "counts": [80, 1]}),
         f"expected a run-length encoding of {HEIGHT} x {WIDTH} pixels"),
    voc("difficult as a word", lambda text: text.replace("<difficult>0", "<difficult>yes", 1),
        {"difficult written as a word, read as 0 or 1": 4}),
    voc("difficult 2", lambda text: text.replace("<difficult>0", "<difficult>2"), "has <difficult> '2'; expected 0 or 1"),
    voc("no difficult", lambda text: text.replace("<difficult>0</difficult>", ""), {"difficult missing, taken as 0": 8}),
    voc("swapped corners", lambda text: text.replace("<xmin>11", "<xmin>40", 1).replace("<xmax>40", "<xmax>11", 1),
        "boxes end before they begin"),
    voc("pixels counted from 0", lambda text: text.replace("<xmin>11", "<xmin>0", 1),
        {"box that begins at 0, moved to 1, from which VOC counts pixels": 4}),
    voc("coordinate NaN", lambda text: text.replace("<xmin>11", "<xmin>nan", 1), "has <xmin> 'nan', not a number"),
    voc("floats", lambda text: text.replace("<xmin>11", "<xmin>11.25", 1), {}),
    voc("no size", lambda text: text.replace("<size>", "<old>").replace("</size>", "</old>"),
        {"image without a size in its annotations, read from the file": 4}),
    voc("images named .PNG", lambda text: text, {}, ending="PNG"),
    voc("images named .webp", lambda text: text, {}, ending="webp"),
    voc("list of one class", lambda text: text, {}, lines="{}  -1"),
    voc("list with a third column", lambda text: text, "lists 4 images without an annotation file", lines="{} 1 1"),
]  # fmt: skip
