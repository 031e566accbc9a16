"""Open detection datasets, images with boxes, from PASCAL VOC folders or COCO JSON.

    voc:FOLDER#trainval                      Annotations/, JPEGImages/ and ImageSets/Main/trainval.txt
    coco:FOLDER#train2017                    annotations/instances_train2017.json and train2017/
    coco:FILE.json#images=FOLDER             one annotation file and the folder of its images

The kind of a plain path is recognized. Without a split, the usual one for training or test is used.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.sources.labels import canonical_name
from simsiam_eval.sources.spec import parse_spec
from simsiam_eval.wording import first_few
from tasks.detection.data.coco import open_coco
from tasks.detection.data.dataset import DetectionDataset, LabeledImages
from tasks.detection.data.issues import Issues
from tasks.detection.data.voc import open_voc

OPENERS = {"voc": open_voc, "coco": open_coco}


def open_train_and_test(
    train: tuple[str, ...], test: str, classes: tuple[str, ...], masks: bool = True
) -> tuple[DetectionDataset, DetectionDataset]:
    """The training set, one or several sources joined, and the test set, with the same class list.

    `classes` restricts both to these classes, in this order; if empty, the classes are those of the training set.

    Raises:
        UsageError: a spec is invalid. DataError: as `open_detection_dataset`, or class names differ.
    """
    classes = tuple(map(canonical_name, classes))
    parts = [open_detection_dataset(spec, "train", classes, masks) for spec in train]
    for part in parts[1:]:
        if part.kind != parts[0].kind:
            raise UsageError(
                f"--train {parts[0].spec} and {part.spec} are of different kinds; give only voc or only coco."
            )
    names = classes or _all_classes(parts)
    if not names:
        raise DataError(f"{' + '.join(train)} contains no boxes to train on; add annotations.")
    _check_known(classes, parts)
    training_set = _joined(parts, names)
    test_set = open_detection_dataset(test, "test", classes, masks)
    if test_set.kind == "coco":
        _check_known(classes, [test_set])
    _check_same_classes(training_set, test_set)
    return training_set, test_set.relabeled(names)


def _joined(parts: list[DetectionDataset], classes: tuple[str, ...]) -> DetectionDataset:
    """All parts as one dataset with these classes."""
    issues = Issues()
    for part in parts:
        issues.update_counts(part.issues)
    return DetectionDataset(
        " + ".join(part.spec for part in parts),
        parts[0].kind,
        classes,
        LabeledImages.joined([part.relabeled(classes).images for part in parts]),
        {name: sum(part.excluded.get(name, 0) for part in parts) for part in parts for name in part.excluded},
        issues=issues,
        notes=tuple(note for part in parts for note in part.notes),
    )


def _check_same_classes(train: DetectionDataset, test: DetectionDataset) -> None:
    """Raise DataError if the test set has classes that the training set lacks; of two COCO files, the other way too."""
    only_test = [name for name in test.classes if name not in train.classes]
    only_train = [name for name in train.classes if name not in test.classes]
    if only_test or (test.kind == train.kind == "coco" and only_train):
        raise DataError(
            f"The classes of {test.spec} differ from those of the training set (only in the test set: "
            f"{first_few(only_test) or 'none'}; only in the training set: {first_few(only_train) or 'none'}). "
            "Give files with the same class names, or select common classes with --classes."
        )


def _check_known(classes: tuple[str, ...], parts: list[DetectionDataset]) -> None:
    """Raise DataError for one of `classes` that is neither a COCO category nor the class of a VOC object."""
    known: set[str] = set()
    for part in parts:
        known |= part.category_ids.keys() | part.excluded.keys()
        known |= {name for name, boxes in zip(part.classes, part.boxes_per_class(), strict=True) if boxes}
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise DataError(
            f"--classes {unknown[0]}: no such class in {' + '.join(part.spec for part in parts)}; available: "
            f"{first_few(sorted(known)) or 'none'}."
        )


def _all_classes(parts: list[DetectionDataset]) -> tuple[str, ...]:
    if parts[0].kind == "coco":
        for part in parts[1:]:
            if part.classes != parts[0].classes:
                raise DataError(f"{part.spec} and {parts[0].spec} have different categories; they must be the same.")
        return parts[0].classes
    return tuple(sorted({name for part in parts for name in part.classes}))


def open_detection_dataset(spec: str, role: str, classes: tuple[str, ...] = (), masks: bool = True) -> DetectionDataset:
    """Open one source; `role`, train or test, decides the split where the spec names none.

    Args:
        spec: the source.
        role: train or test.
        classes: exclude the boxes of all other classes.
        masks: keep the segmentations, which take most of the memory.

    Raises:
        UsageError: an unknown kind or option. DataError: a file or an image is missing, or a file is malformed or contains
            what cannot be meant.
    """
    parsed = parse_spec(spec, OPENERS, "detection dataset")
    if not parsed.path.exists():
        raise DataError(f"{parsed.path} does not exist (detection dataset {spec}).")
    parsed = replace(parsed, kind=parsed.kind or _recognize(parsed.path))
    options = parsed.options(("images",) if parsed.path.is_file() else ("split",))
    return OPENERS[parsed.kind](parsed.path, options, spec, role, classes, masks)


def _recognize(path: Path) -> str:
    if path.suffix.lower() == ".json" or (path / "annotations").is_dir():
        return "coco"
    if (path / "Annotations").is_dir():
        return "voc"
    raise DataError(
        f"{path} is not a detection dataset; expected a folder with Annotations/ and JPEGImages/ (voc:FOLDER), a folder "
        "with annotations/*.json (coco:FOLDER), or coco:FILE.json#images=FOLDER."
    )
