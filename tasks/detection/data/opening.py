"""Detection sets: images with boxes, from PASCAL VOC folders or COCO JSON.

    voc:FOLDER#trainval                      Annotations/, JPEGImages/ and ImageSets/Main/trainval.txt
    coco:FOLDER#train2017                    annotations/instances_train2017.json and train2017/
    coco:FILE.json#images=FOLDER             one file of annotations and the folder of its images

A plain path is recognized. A split that is not named is the usual one of training or test.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from simsiam_eval.encoders.families import some
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.sources.spec import parse_spec
from tasks.detection.data.coco import open_coco
from tasks.detection.data.dataset import DetectionSet
from tasks.detection.data.voc import open_voc

OPENERS = {"voc": open_voc, "coco": open_coco}


def open_train_and_test(
    train: tuple[str, ...], test: str, classes: tuple[str, ...]
) -> tuple[DetectionSet, DetectionSet]:
    """The training set, of one or several sources together, and the test set, under one list of classes.

    `classes` restricts both to these, in this order; else they are those of the training set.

    Raises:
        UsageError: a spec is wrong. DataError: a file is missing or of the wrong form, or class names differ.
    """
    parts = [open_detection_set(spec, "train", classes) for spec in train]
    for part in parts[1:]:
        if part.kind != parts[0].kind:
            raise UsageError(f"--train {parts[0].spec} and {part.spec} are of two kinds: give sources of one kind.")
    names = classes or _all_classes(parts)
    if not names:
        raise DataError(f"There are no boxes at all to learn from in {' + '.join(train)}: annotate it.")
    _refuse_unknown(classes, parts)
    merged = DetectionSet(
        " + ".join(train),
        parts[0].kind,
        names,
        tuple(image for part in parts for image in part.relabeled(names).images),
        {name: sum(part.left_out.get(name, 0) for part in parts) for part in parts for name in part.left_out},
    )
    tested = open_detection_set(test, "test", classes)
    if tested.kind == "coco":
        _refuse_unknown(classes, [tested])
    strange = [name for name in tested.classes if name not in names]
    if strange or (tested.kind == "coco" and parts[0].kind == "coco" and set(tested.classes) != set(names)):
        missing = [name for name in names if name not in tested.classes]
        raise DataError(
            f"The classes of {test} are not those of the training set: only here {some(strange) or 'none'}, only there "
            f"{some(missing) or 'none'}; give files with the same class names, or name the classes with --classes."
        )
    return merged, tested.relabeled(names)


def _refuse_unknown(classes: tuple[str, ...], parts: list[DetectionSet]) -> None:
    """Raises DataError for one of `classes` that is no category of COCO's, or of VOC has no object."""
    known: set[str] = set()
    for part in parts:
        known |= part.category_ids.keys() | part.left_out.keys()
        known |= {part.classes[one.label] for image in part.images for one in image.annotations}
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise DataError(
            f"--classes {unknown[0]}: there is no such class in {' + '.join(part.spec for part in parts)}; there are: "
            f"{some(sorted(known)) or 'none'}."
        )


def _all_classes(parts: list[DetectionSet]) -> tuple[str, ...]:
    if parts[0].kind == "coco":
        for part in parts[1:]:
            if part.classes != parts[0].classes:
                raise DataError(f"{part.spec} has other categories than {parts[0].spec}: give files that agree.")
        return parts[0].classes
    return tuple(sorted({name for part in parts for name in part.classes}))


def open_detection_set(spec: str, role: str, classes: tuple[str, ...] = ()) -> DetectionSet:
    """Open one source; `role`, train or test, decides which split is taken where the spec names none.

    `classes` drops the boxes of all other classes.

    Raises:
        UsageError: an unknown kind or option. DataError: a file is missing or of the wrong form, or an image is missing.
    """
    parsed = parse_spec(spec, OPENERS, "detection dataset")
    if not parsed.path.exists():
        raise DataError(f"{parsed.path} does not exist (detection dataset {spec}).")
    parsed = replace(parsed, kind=parsed.kind or _recognize(parsed.path))
    options = parsed.options(("images",) if parsed.path.is_file() else ("split",))
    dataset = OPENERS[parsed.kind](parsed.path, options, spec, role, classes)
    _refuse_missing_images(dataset)
    return dataset


def _recognize(path: Path) -> str:
    if path.suffix.lower() == ".json" or (path / "annotations").is_dir():
        return "coco"
    if (path / "Annotations").is_dir():
        return "voc"
    raise DataError(
        f"{path} is no detection set: give a folder with Annotations/ and JPEGImages/ (voc:FOLDER), or with "
        "annotations/*.json (coco:FOLDER), or coco:FILE.json#images=FOLDER."
    )


def _refuse_missing_images(opened: DetectionSet) -> None:
    if not opened.images:
        raise DataError(f"{opened.spec} lists no images.")
    there: dict[Path, set[str]] = {}
    missing = []
    for image in opened.images:
        folder = image.path.parent
        if folder not in there:
            there[folder] = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        if image.path.name not in there[folder]:
            missing.append(str(image.path))
    if missing:
        raise DataError(
            f"{opened.spec}: {len(missing)} of {len(opened.images)} images are missing ({some(missing)}); put them "
            "there, or take them out of the list."
        )
