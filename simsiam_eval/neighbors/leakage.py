"""Train/test leakage: test images with a near-duplicate in the training set, and the accuracy without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.features.rows import FeatureMatrix
from simsiam_eval.metrics.intervals import accuracy_metrics
from simsiam_eval.neighbors.duplicates import ROUNDING
from simsiam_eval.neighbors.exact import search
from simsiam_eval.wording import counted

# Multiplications of a search for leakage. CIFAR-10's 10,000 x 50,000 x 512 are 2.6e11, 1 s on two cores.
_MULTIPLICATIONS = 3e11


@dataclass(frozen=True)
class Leakage:
    """Test images at least as similar to a training image as a threshold.

    Attributes:
        threshold: cosine similarity.
        images: number of leaked images.
        correct: how many of these were classified correctly.
        checked: number of test images that were compared with the training set.
        checked_correct: how many of these were classified correctly.
        drawn_from: number of test images of which the checked ones are a random sample.
        copies: number of images with a similarity of 1.
    """

    threshold: float
    images: int
    correct: int
    checked: int
    checked_correct: int
    drawn_from: int
    copies: int

    @property
    def accuracy_without(self) -> float | None:
        """Accuracy on the other images; None where all are leaked."""
        rest = self.checked - self.images
        return (self.checked_correct - self.correct) / rest if rest else None

    def to_dict(self) -> dict[str, Any]:
        """As in a record: `top1` of the leaked images, `top1_without` of the others, each with its interval."""
        values: dict[str, Any] = {
            "threshold": self.threshold,
            "images": self.images,
            "of": self.checked,
            "drawn_from": self.drawn_from,
            "copies": self.copies,
        }
        values |= accuracy_metrics("top1", self.correct, self.images)
        if self.images < self.checked:
            rest, correct = self.checked - self.images, self.checked_correct - self.correct
            values |= accuracy_metrics("top1_without", correct, rest)
        return values

    def warning(self, accuracy: str = "top-1", tested: str = "test images", trained: str = "training image") -> str:
        """One sentence: the number of leaked images, and the accuracy (so named) without them."""
        sample = f" drawn from {self.drawn_from}" if self.drawn_from > self.checked else ""
        sentence = (
            f"{self.images} of {self.checked} {tested}{sample} have a {trained} with a cosine similarity of at least "
            f"{self.threshold:g}"
        )
        if 2 * self.copies <= self.checked < 2 * self.images:
            return (
                f"{sentence} ({counted(self.copies, 'exact copy')}): too many matches; this threshold does not "
                "discriminate for this encoder, try a higher --leakage."
            )
        if self.accuracy_without is None:
            return f"{sentence} (inspect them with `duplicates`); none are left to compute {accuracy} without them."
        return (
            f"{sentence} (inspect them with `duplicates`); {accuracy} without them is "
            f"{100 * self.accuracy_without:.2f} %."
        )


def measure_leakage(
    nearest: NDArray[np.float32], correct: NDArray[np.bool_], threshold: float, drawn_from: int | None = None
) -> Leakage | None:
    """Leakage among M test images; None where no image is as similar as `threshold`.

    Args:
        nearest: (M,) cosine similarity to the nearest training image.
        correct: (M,) whether the image was classified correctly.
        drawn_from: number of test images of which these are a sample; default: M.
    """
    leaked = nearest >= threshold - ROUNDING
    if not leaked.any():
        return None
    return Leakage(
        threshold=threshold,
        images=int(leaked.sum()),
        correct=int(correct[leaked].sum()),
        checked=len(leaked),
        checked_correct=int(correct.sum()),
        drawn_from=drawn_from or len(leaked),
        copies=int((nearest >= 1 - ROUNDING).sum()),
    )


def nearest_similarities(
    bank: FeatureMatrix, queries: FeatureMatrix | None, seed: int, device: torch.device | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Cosine similarity of queries (M,D) to the nearest row of the bank (N,D).

    Args:
        queries: None: all rows of the bank, each compared with the others.

    Returns:
        rows of the queries, ascending, and their similarities. Where a search of all would take more than a few seconds on a
        CPU, the rows are a random sample.
    """
    if queries is None:
        similarities = search(bank, None, 1, device=device)[0]
        return np.arange(len(bank)), similarities[:, 0] if similarities.shape[1] else np.full(1, -1, np.float32)
    affordable = max(1, int(_MULTIPLICATIONS / (len(bank) * bank.shape[1])))
    rows = np.arange(len(queries))
    if affordable < len(queries):
        rows = np.sort(np.random.default_rng(seed).choice(len(queries), affordable, replace=False))
    return rows, search(bank, queries[rows], 1, device=device)[0][:, 0]
