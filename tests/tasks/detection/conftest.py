"""Shapes on noise, drawn as VOC folders and COCO JSON."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

CLASSES = ("disc", "square", "triangle")
COLORS = ((230, 60, 60), (60, 200, 80), (70, 90, 240))


def draw(rng, side, smallest=36, largest=80):
    """An image and its objects: (class number, x, y, width, height, polygon)."""
    noise = rng.integers(0, 90, (side, side, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    pen = ImageDraw.Draw(image)
    objects = []
    for _ in range(int(rng.integers(1, 4))):
        size = int(rng.integers(smallest, largest))
        x, y = (int(value) for value in rng.integers(0, side - size, 2))
        if any(x < ox + ow and ox < x + size and y < oy + oh and oy < y + size for _, ox, oy, ow, oh, _ in objects):
            continue
        kind = int(rng.integers(0, 3))
        if kind == 0:
            pen.ellipse((x, y, x + size - 1, y + size - 1), fill=COLORS[kind])
            angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            outline = [v for a in angles for v in (x + size / 2 * (1 + np.cos(a)), y + size / 2 * (1 + np.sin(a)))]
        elif kind == 1:
            pen.rectangle((x, y, x + size - 1, y + size - 1), fill=COLORS[kind])
            outline = [x, y, x + size, y, x + size, y + size, x, y + size]
        else:
            pen.polygon(((x, y + size - 1), (x + size - 1, y + size - 1), (x + size // 2, y)), fill=COLORS[kind])
            outline = [x, y + size, x + size, y + size, x + size / 2, y]
        objects.append((kind, x, y, size, size, [float(value) for value in outline]))
    return image, objects


def write_voc(folder: Path, splits: dict[str, int], side: int = 160, seed: int = 0) -> Path:
    """A VOC folder with `splits[name]` images in each list."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for split, count in splits.items():
        names = [f"{split}{number:03d}" for number in range(count)]
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            image, objects = draw(rng, side)
            image.save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
            write_xml(folder, name, side, [(CLASSES[k], x + 1, y + 1, x + w, y + h) for k, x, y, w, h, _ in objects])
    return folder


def write_xml(folder: Path, name: str, side: int, objects, difficult=()):
    body = "".join(
        f"<object><name>{label}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>{int(index in difficult)}</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for index, (label, a, b, c, d) in enumerate(objects)
    )
    size = f"<size><width>{side}</width><height>{side}</height><depth>3</depth></size>"
    (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{body}</annotation>")


def truncate(image: Path) -> bytes:
    """Damage a file but keep its header; returns its content before."""
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    return whole


def write_coco(folder: Path, splits: dict[str, int], side: int = 160, seed: int = 0) -> Path:
    """A COCO folder: annotations/instances_SPLIT.json with polygons, and the images in SPLIT/."""
    rng = np.random.default_rng(seed)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, count in splits.items():
        (folder / split).mkdir(exist_ok=True)
        images, annotations = [], []
        for number in range(count):
            image, objects = draw(rng, side)
            image.save(folder / split / f"{number:03d}.png")
            images.append({"id": 10 * number + 7, "file_name": f"{number:03d}.png", "width": side, "height": side})
            for kind, x, y, w, h, outline in objects:
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": 10 * number + 7, "category_id": 3 * kind + 2, "iscrowd": 0,
                     "bbox": [x, y, w, h], "area": w * h * (0.785, 1, 0.5)[kind], "segmentation": [outline]}
                )  # fmt: skip
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": 3 * number + 2, "name": name} for number, name in enumerate(CLASSES)]
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def shapes_voc(tmp_path_factory):
    return write_voc(tmp_path_factory.mktemp("voc"), {"trainval": 60, "test": 20})


@pytest.fixture(scope="session")
def shapes_coco(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"), {"train2017": 60, "val2017": 20})


@pytest.fixture(scope="session")
def few_voc(tmp_path_factory):
    """A few images, for runs whose result does not matter."""
    return write_voc(tmp_path_factory.mktemp("few"), {"trainval": 8, "test": 4})


@pytest.fixture(scope="session")
def few_coco(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("few"), {"train2017": 8, "val2017": 4})


@pytest.fixture
def odd_coco(tmp_path):
    """A few images with polygons, plain run lengths and compressed ones, of areas that hide objects from pycocotools."""
    folder = write_coco(tmp_path / "odd", {"train2017": 4, "val2017": 3})
    for split in ("train2017", "val2017"):
        file = folder / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        for number, entry in enumerate(content["annotations"]):
            x, y, width, height = entry["bbox"]
            bitmap = np.zeros((160, 160), bool)
            bitmap[y : y + height, x : x + width] = True
            ends = np.flatnonzero(np.diff(bitmap.T.ravel())) + 1
            entry["area"] = -1
            if number % 2:
                entry["segmentation"] = {"size": [160, 160], "counts": np.diff([0, *ends, 160 * 160]).tolist()}
        file.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def shapes():
    """The functions above, for tests that need datasets of their own."""
    from types import SimpleNamespace

    return SimpleNamespace(
        write_voc=write_voc, write_xml=write_xml, write_coco=write_coco, truncate=truncate, classes=CLASSES
    )
