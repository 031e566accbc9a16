"""`extract`: images + checkpoint -> feature file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from simsiam_eval.result import Result, Table, provenance
from simsiam_eval.settings import FeatureSettings, setting


@dataclass(frozen=True, kw_only=True)
class ExtractSettings(FeatureSettings):
    """Extract the features of images into an HDF5 feature file; a killed run goes on where it was."""

    checkpoint: Path = setting(help="Encoder: any checkpoint that `inspect` knows.")
    data: str = setting(help="Image source, such as folder:PATH, cifar10:PATH#test, manifest:FILE.csv or digits.")
    out: Path = setting(help="Feature file to write (.h5).")


def extract(settings: ExtractSettings) -> Result:
    """Run `extract`.

    Raises:
        DataError: the checkpoint, the images or the output cannot be used.
    """
    from simsiam_eval.device import resolve_device
    from simsiam_eval.feature_cache import extract_to
    from simsiam_eval.feature_file import read_attributes

    started = time.perf_counter()
    device = str(resolve_device(settings.device))
    out, attributes, computed, unreadable = extract_to(settings.checkpoint, settings.data, None, settings, settings.out)
    rows, width = read_attributes(out)["shape"]
    seconds = time.perf_counter() - started
    metrics = {"rows": rows, "width": width, "unreadable": unreadable, "computed": computed}
    encoder = attributes["encoder"]
    table = Table(
        f"Features in {out}",
        ("rows", "width", "unreadable", "computed now", "encoder", "images/s"),
        [[str(rows), str(width), str(unreadable), str(computed), f"{encoder['arch']} ({encoder['stem']} stem), "
          f"{encoder['layer']}", f"{computed / seconds:.0f}"]],
    )  # fmt: skip
    return Result(
        task="extract",
        settings=settings.to_dict(),
        metrics=metrics,
        provenance=provenance(started, device, checkpoint=str(settings.checkpoint), **attributes),
        files={"features": str(out)},
        table=table,
    )
