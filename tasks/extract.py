"""`extract`: images + checkpoint -> feature file."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import ProcessSettings, setting
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.settings import ViewSettings
from simsiam_eval.vocabulary import FEATURE_ENDINGS


@dataclass(frozen=True, kw_only=True)
class ExtractSettings(ViewSettings, ProcessSettings):
    """Extract the features of images into an HDF5 feature file; a killed run goes on where it was."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "data limit rows",
        "encoder": "checkpoint",
        "output": "out",
        "machine": "engine ray_address ray_workers",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = ("--checkpoint checkpoint.pth.tar --data folder:photos/train --out train.h5",)

    checkpoint: Path = setting(help="Encoder: any checkpoint that `inspect` knows.")
    data: str = setting(help="Image source, such as folder:PATH, cifar10:PATH#test, manifest:FILE.csv or digits.")
    out: Path = setting(endings=FEATURE_ENDINGS, help="Feature file to write (.h5).")
    limit: int | None = setting(None, at_least=1, help="Only the first so many rows of the source.")
    rows: str | None = setting(
        None, help="Only the rows START:STOP of the source, into a file of their own; `merge` joins such parts."
    )
    engine: str = setting(
        "local",
        choices=("local", "ray"),
        help="What computes: this process (or torchrun's), or a Ray cluster (extra `ray`).",
    )
    ray_address: str | None = setting(
        None, help="Ray cluster to use; default: that of $RAY_ADDRESS, else one on this machine."
    )
    ray_workers: int = setting(2, at_least=1, help="Processes that Ray keeps at work, each with a copy of the encoder.")

    def check(self) -> None:
        if self.engine == "ray":
            self.reject_given(("num_gpus",), "cannot be used with --engine ray: it has --ray-workers")
        else:
            self.reject_given(("ray_address", "ray_workers"), "needs --engine ray")
        self.row_range()

    def row_range(self) -> tuple[int, int] | None:
        """--rows or --limit as first row and the one after the last."""
        if self.rows is None:
            return None if self.limit is None else (0, self.limit)
        match = re.fullmatch(r"(\d+):(\d+)", self.rows)
        if not match or int(match[1]) >= int(match[2]):
            raise UsageError(
                f"--rows must be like 0:1000, the first row and the one after the last, got {self.rows!r}."
            )
        if self.limit is not None:
            raise UsageError("Give --rows or --limit, not both.")
        return int(match[1]), int(match[2])


def extract(settings: ExtractSettings) -> Result:
    """Run `extract`: by this process, by those that torchrun started, or by a Ray cluster; all write the same bytes.

    Raises:
        DataError: the checkpoint, the images or the output cannot be used.
    """
    from simsiam_eval.extraction.extraction import Extraction
    from simsiam_eval.extraction.plan import plan_extraction
    from simsiam_eval.extraction.to_file import write_extraction
    from simsiam_eval.runtime.processes import join_processes

    started = time.perf_counter()
    with join_processes(settings.device) as processes:
        work, attributes_of = plan_extraction(
            settings.checkpoint, settings.data, None, settings.extraction(), processes.device, settings.row_range()
        )
        attributes = attributes_of() if processes.main else {}
        engine: Any = Extraction.compute
        if settings.engine == "ray":
            if processes.world > 1:
                raise UsageError("Give --engine ray or torchrun, not both: Ray starts processes of its own.")
            from simsiam_eval.extraction.ray_engine import ray_engine

            engine = ray_engine(settings.ray_address, settings.ray_workers)
        begun = time.perf_counter()
        computed, unreadable = write_extraction(work, attributes, settings.out, processes, engine)
        seconds = time.perf_counter() - begun
        encoder, rows = work.encoder, len(work.rows)
        metrics = {
            "rows": rows,
            "width": encoder.width,
            "unreadable": unreadable,
            "computed": computed,
            "images_per_second": computed / seconds if computed else None,
        }
        table = Table(
            f"Features in {settings.out}",
            ("rows", "width", "unreadable", "computed now", "encoder", "images/s"),
            [[str(rows), str(encoder.width), str(unreadable), str(computed), f"{encoder.arch} ({encoder.stem} stem), "
              f"{', '.join(encoder.layers)}", f"{computed / seconds:.0f}" if computed else "-"]],
        )  # fmt: skip
        return Result(
            task="extract",
            settings=settings.to_dict(),
            metrics=metrics,
            provenance=provenance(
                started,
                str(processes.device),
                checkpoint=str(settings.checkpoint),
                processes=processes.world,
                **attributes,
            ),
            files={"features": str(settings.out)},
            table=table,
        )
