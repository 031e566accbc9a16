"""Open and check the training set and the test set of a command."""

from __future__ import annotations

from dataclasses import dataclass

from simsiam_eval.runtime.processes import Processes
from tasks.detection.data.checks import DatasetReport, add_training_images, check_test_set, check_training_set
from tasks.detection.data.dataset import DetectionDataset
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
    train: tuple[str, ...], test: str, classes: tuple[str, ...], masks: bool, processes: Processes
) -> Datasets:
    """Read every annotation and the header of every image.

    Args:
        train: specs, joined into one training set.
        test: spec of the test set.
        classes: restrict both to these classes; empty: all classes of the training set.
        masks: whether segmentations are required.
        processes: share the images.

    Raises:
        UsageError: a spec is invalid. DataError: a file or image is missing, malformed or does not fit the rest.
    """
    opened_train, test_set = open_train_and_test(train, test, classes, masks)
    training_set, train_report = check_training_set(opened_train, masks)
    test_report = check_test_set(test_set, masks)
    add_training_images(training_set, test_set, test_report)
    for data in (training_set, test_set):
        check_images(data, processes)
    return Datasets(training_set, test_set, train_report, test_report)
