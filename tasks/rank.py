"""`rank`: measure feature quality without labels."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import DeviceSettings, SeedSettings, setting

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from simsiam_eval.features.table import Features


@dataclass(frozen=True, kw_only=True)
class RankSettings(DeviceSettings, SeedSettings):
    """Measure features without labels: RankMe, explained variance, uniformity and, given augmented views, alignment."""

    GROUPS: ClassVar[dict[str, str]] = {"data": "file", "evaluation": "sample"}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("first.h5 second.h5",)

    file: tuple[Path, ...] = setting(positional=True, help="Feature files (.h5).")
    sample: int = setting(
        4096, at_least=2, help="Number of images for std, uniformity and alignment, sampled with --seed."
    )


def rank(settings: RankSettings) -> Result:
    """Run `rank`.

    Raises:
        DataError: a feature file cannot be used, or holds only one image.
    """
    from simsiam_eval.errors import DataError
    from simsiam_eval.features.compatibility import described_features
    from simsiam_eval.features.reader import open_features
    from simsiam_eval.runtime.device import resolve_device

    started = time.perf_counter()
    device = resolve_device(settings.device)
    sets = [open_features(path) for path in settings.file]
    for features in sets:
        if len(features.ids) < 2:
            raise DataError(f"{features.path} contains only one image; at least two are needed.")
    qualities = [_measure(features, settings.sample, settings.seed, device) for features in sets]
    return Result(
        task="rank",
        settings=settings.to_dict(),
        metrics={**asdict(qualities[0]), "files": [asdict(quality) for quality in qualities]},
        provenance=provenance(started, str(device), files=[described_features(features) for features in sets]),
        table=Table(
            "Label-free quality",
            ("file", "images", "RankMe", "max rank", "expl. variance AUC", "std x sqrt(D)", "uniformity", "alignment"),
            [quality.cells() for quality in qualities],
            [
                "Better: higher RankMe and std; lower AUC, uniformity and alignment. Comparable only for the same images "
                "and the same feature width."
            ],
        ),
    )


@dataclass(frozen=True)
class Quality:
    """Label-free measures of one feature file (see simsiam_eval.metrics.spread).

    Attributes:
        rank_limit: the maximum of rankme.
        alignment: None without augmented views.
        sample: number of images behind std, uniformity and alignment.
    """

    file: str
    images: int
    rankme: float
    rank_limit: int
    explained_variance_auc: float
    std: float
    uniformity: float
    alignment: float | None
    sample: int

    def cells(self) -> list[str]:
        """Row of the table."""
        values = (
            self.rankme, self.rank_limit, self.explained_variance_auc, self.std, self.uniformity, self.alignment
        )  # fmt: skip
        return [self.file, str(self.images), *("-" if value is None else f"{value:.4g}" for value in values)]


def _measure(features: Features, sample: int, seed: int, device: torch.device) -> Quality:
    import numpy as np
    import torch

    from simsiam_eval.features.unit_length import unit_length
    from simsiam_eval.metrics.spread import area_of, collapse_std, rankme_of, singular_values_of_rows, uniformity

    values, centered_values = singular_values_of_rows(features.features, device)
    count = len(features.ids)
    rows = np.sort(np.random.default_rng(seed).permutation(count)[:sample])
    unit = unit_length(torch.from_numpy(features.features[rows]).to(device))
    return Quality(
        file=str(features.path),
        images=count,
        rankme=float(rankme_of(values)),
        rank_limit=min(features.features.shape),
        explained_variance_auc=float(area_of(centered_values)),
        std=collapse_std(unit),
        uniformity=float(uniformity(unit)),
        alignment=_alignment(features, rows, device),
        sample=len(rows),
    )


def _alignment(features: Features, rows: NDArray[np.int64], device: torch.device) -> float | None:
    """Mean squared distance between L2-normalized views of an image, over all pairs of views; None without views."""
    import torch

    from simsiam_eval.features.rows import FeatureRows
    from simsiam_eval.features.unit_length import unit_length

    columns = features.attributes["columns"]
    if columns.get("views", (0,))[0] < 2:
        return None
    assert features.path is not None
    views = FeatureRows(features.path, "views", features.rows[rows])[:]
    unit = unit_length(torch.from_numpy(views).to(device))
    count = unit.shape[1]
    # Over ordered pairs i != j: |a - b|^2 = 2 - 2 a.b, and the sum of all a.b is |sum|^2, which includes the V of i == j.
    squares = unit.square().sum(dim=2).sum(dim=1)
    products = (unit.sum(dim=1).square().sum(dim=1) - squares) / (count * (count - 1))
    return float((2 * squares / count - 2 * products).mean())
