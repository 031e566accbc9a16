"""`rank`: how good features are, for people without labels."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import DeviceSettings, SeedSettings, setting

if TYPE_CHECKING:
    import torch

    from simsiam_eval.features.table import Features


@dataclass(frozen=True, kw_only=True)
class RankSettings(DeviceSettings, SeedSettings):
    """Measure feature files without labels: RankMe, explained variance, uniformity, and alignment where views are."""

    GROUPS: ClassVar[dict[str, str]] = {"data": "file", "evaluation": "sample"}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("first.h5 second.h5",)

    file: tuple[Path, ...] = setting(positional=True, help="Feature file (.h5), or several to be compared.")
    sample: int = setting(4096, at_least=2, help="Images of uniformity and alignment, drawn by --seed.")


def rank(settings: RankSettings) -> Result:
    """Run `rank`.

    Raises:
        DataError: a feature file cannot be used, or holds one image only.
    """
    from simsiam_eval.errors import DataError
    from simsiam_eval.features.compatibility import described_features
    from simsiam_eval.features.reader import open_features
    from simsiam_eval.runtime.device import resolve_device

    started = time.perf_counter()
    device = resolve_device(settings.device)
    opened = [open_features(path) for path in settings.file]
    for one in opened:
        if len(one.ids) < 2:
            raise DataError(f"{one.path} holds one image only: there is nothing to spread.")
    measured = [_measured(one, settings, device) for one in opened]
    names = ("rankme", "rank_limit", "explained_variance_auc", "std", "uniformity", "alignment")
    rows = [
        [one["file"], str(one["images"]), *("-" if one[name] is None else f"{one[name]:.4g}" for name in names)]
        for one in measured
    ]
    return Result(
        task="rank",
        settings=settings.to_dict(),
        metrics={**measured[0], "files": measured},
        provenance=provenance(started, str(device), files=[described_features(one) for one in opened]),
        table=Table(
            "Label-free quality",
            ("file", "images", "RankMe", "at most", "expl. variance AUC", "std x sqrt(D)", "uniformity", "alignment"),
            rows,
            ["Better: RankMe and std higher, AUC, uniformity and alignment lower; only for the same images and width."],
        ),
    )


def _measured(features: Features, settings: RankSettings, device: torch.device) -> dict[str, Any]:
    import numpy as np
    import torch

    from simsiam_eval.features.unit_length import unit_length
    from simsiam_eval.metrics.spread import area_of, collapse_std, rankme_of, singular_values_of_rows, uniformity

    values, centered = singular_values_of_rows(features.features, device)
    count = len(features.ids)
    some = np.sort(np.random.default_rng(settings.seed).permutation(count)[: settings.sample])
    unit = unit_length(torch.from_numpy(features.features[some]).to(device))
    return {
        "file": str(features.path),
        "images": count,
        "rankme": float(rankme_of(values)),
        "rank_limit": min(features.features.shape),
        "explained_variance_auc": float(area_of(centered)),
        "std": collapse_std(unit),
        "uniformity": float(uniformity(unit)),
        "alignment": _alignment(features, some, device),
        "sample": len(some),
    }


def _alignment(features: Features, some: Any, device: torch.device) -> float | None:
    """Mean squared distance of two views of an image, of length one, over all pairs of views; None without views."""
    import torch

    from simsiam_eval.features.rows import FeatureRows
    from simsiam_eval.features.unit_length import unit_length

    columns = features.attributes["columns"]
    if columns.get("views", (0,))[0] < 2:
        return None
    assert features.path is not None
    views = FeatureRows(features.path, "views", features.rows[some])[:]
    unit = unit_length(torch.from_numpy(views).to(device))
    total = unit.sum(dim=1)
    count = unit.shape[1]
    # Over ordered pairs i != j: |a - b|^2 = 2 - 2 a.b, and the sum of all a.b is |sum|^2, of which the own ones are V.
    squares = unit.square().sum(dim=2).sum(dim=1)
    between = (total.square().sum(dim=1) - squares) / (count * (count - 1))
    return float((2 * squares / count - 2 * between).mean())
