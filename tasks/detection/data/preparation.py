"""Open and check the training set and the test set of a command."""

from __future__ import annotations

from dataclasses import dataclass

from simsiam_eval.images.intensity import AUTO, PERCENTILE, Intensity
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.sources.base import PathSource
from simsiam_eval.sources.intensity import source_intensity
from tasks.detection.data.checks import DatasetReport, add_training_images, check_test_set, check_training_set
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.image_files import TURNED
from tasks.detection.data.images import check_images
from tasks.detection.data.opening import open_train_and_test


@dataclass(frozen=True)
class Datasets:
    """A training set and a test set with the same classes, and what is unusual in them."""

    train: DetectionDataset
    test: DetectionDataset
    train_report: DatasetReport
    test_report: DatasetReport


def prepare_datasets(
    train: tuple[str, ...],
    test: str,
    classes: tuple[str, ...],
    masks: bool,
    processes: Processes,
    intensity: str = AUTO,
    known: Intensity | None = None,
) -> Datasets:
    """Read every annotation and the header of every image.

    Args:
        train: specs, joined into one training set.
        test: spec of the test set.
        classes: restrict both to these classes; empty: all classes of the training set.
        masks: whether segmentations are required.
        processes: share the images.
        intensity: which values of images of more than 8 bits are black and white: auto, dtype, percentile or LOW:HIGH. The
            training set decides for both.
        known: those of the encoder, which auto keeps.

    Raises:
        UsageError: a spec is invalid. DataError: a file or image is missing, malformed or does not fit the rest.
    """
    opened_train, test_set = open_train_and_test(train, test, classes, masks)
    training_set, train_report = check_training_set(opened_train, masks)
    test_report = check_test_set(test_set, masks)
    add_training_images(training_set, test_set, test_report)
    for data, report in ((training_set, train_report), (test_set, test_report)):
        report.issues.add(TURNED, data.images.ids, check_images(data, processes))
    levels = source_intensity(_source(training_set), intensity, known=known)
    # A type of values that only test images have is decided by them.
    others = source_intensity(_source(test_set), AUTO if intensity == PERCENTILE else intensity, known=levels)
    test_levels = Intensity.of(dict(others.ranges) | dict(levels.ranges))
    return Datasets(
        training_set.with_intensity(levels), test_set.with_intensity(test_levels), train_report, test_report
    )


def _source(data: DetectionDataset) -> PathSource:
    return PathSource(data.images.paths, ids=data.images.ids, spec=data.spec)
