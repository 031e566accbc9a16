"""`extract`: extract the features of images into a feature file."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import ProcessSettings, setting
from simsiam_eval.commands.unreadable import ReadImages, unreadable_faults
from simsiam_eval.encoders.architectures import arch_text
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.settings import ViewSettings
from simsiam_eval.vocabulary import FEATURE_ENDINGS


@dataclass(frozen=True, kw_only=True)
class ExtractSettings(ViewSettings, ProcessSettings):
    """Extract features of images into an HDF5 feature file. Rerun the same command to resume an interrupted extraction."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "data limit rows",
        "encoder": "checkpoint",
        "output": "out",
        "machine": "engine ray_address ray_workers",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = ("--checkpoint checkpoint.pth.tar --data folder:photos/train --out train.h5",)

    RESUMES = True

    checkpoint: str = setting(help="Checkpoint file or folder, timm:NAME, timm:NAME@FILE or hf:FOLDER.")
    data: str = setting(help="Image source, such as folder:PATH, cifar10:PATH#test, manifest:FILE.csv or digits.")
    out: Path = setting(output=True, endings=FEATURE_ENDINGS, help="Feature file to write (.h5).")
    limit: int | None = setting(None, at_least=1, help="Extract only the first N images.")
    rows: str | None = setting(None, help="Extract only rows START:STOP of the source; `merge` joins such parts.")
    engine: str = setting(
        "local",
        choices=("local", "ray"),
        help="Compute in this process (or those of torchrun), or on a Ray cluster (extra `ray`).",
    )
    ray_address: str | None = setting(
        None, help="Address of the Ray cluster (default: $RAY_ADDRESS, else a new cluster on this machine)."
    )
    ray_workers: int = setting(2, at_least=1, help="Number of Ray workers, each with a copy of the encoder.")

    def check(self) -> None:
        super().check()
        if self.engine == "ray":
            self.reject_given(("num_gpus",), "cannot be used with --engine ray; use --ray-workers")
        else:
            self.reject_given(("ray_address", "ray_workers"), "requires --engine ray")
        self.row_range()

    def row_range(self) -> tuple[int, int] | None:
        """First row and the one after the last, from --rows or --limit; None for all rows."""
        if self.rows is None:
            return None if self.limit is None else (0, self.limit)
        match = re.fullmatch(r"(\d+):(\d+)", self.rows)
        if not match or int(match[1]) >= int(match[2]):
            raise UsageError(f"--rows must be START:STOP (STOP is excluded), such as 0:1000; got {self.rows!r}.")
        if self.limit is not None:
            raise UsageError("--rows and --limit cannot be used together.")
        return int(match[1]), int(match[2])


def extract(settings: ExtractSettings) -> Result:
    """Run `extract` in this process, in those of torchrun, or on a Ray cluster; the file has the same bytes.

    Raises:
        DataError: the checkpoint, the images or the output cannot be used.
    """
    from simsiam_eval.extraction.extraction import Extraction
    from simsiam_eval.extraction.plan import plan_extraction
    from simsiam_eval.extraction.to_file import write_extraction
    from simsiam_eval.runtime.processes import join_processes

    started = time.perf_counter()
    with join_processes(settings.device) as processes:
        plan = plan_extraction(
            settings.encoder_choice(settings.checkpoint),
            settings.data,
            None,
            settings.extraction(),
            processes.device,
            settings.row_range(),
        )
        extraction, attributes = plan.extraction, plan.attributes() if processes.main else {}
        engine: Any = Extraction.compute
        if settings.engine == "ray":
            if processes.world > 1:
                raise UsageError("--engine ray cannot be used under torchrun: Ray starts its own processes.")
            from simsiam_eval.extraction.ray_engine import ray_engine

            engine = ray_engine(settings.ray_address, settings.ray_workers)
        extraction_started = time.perf_counter()
        computed, unreadable = write_extraction(extraction, attributes, settings.out, processes, engine)
        seconds = time.perf_counter() - extraction_started
        encoder, rows = extraction.encoder, len(extraction.rows)
        metrics = {
            "rows": rows,
            "width": encoder.width,
            "unreadable": unreadable,
            "computed": computed,
            "images_per_second": computed / seconds if computed else None,
        }
        table = Table(
            f"Features in {settings.out}",
            ("rows", "width", "unreadable", "computed", "encoder", "images/s"),
            [[str(rows), str(encoder.width), str(unreadable), str(computed), f"{arch_text(encoder.arch, encoder.stem)}, "
              f"{', '.join(encoder.layers)}", f"{computed / seconds:.0f}" if computed else "-"]],
        )  # fmt: skip
        return Result(
            task="extract",
            settings=settings.to_dict(),
            metrics=metrics,
            provenance=provenance(
                started,
                str(processes.device),
                checkpoint=settings.checkpoint,
                processes=processes.world,
                **attributes,
            ),
            files={"features": str(settings.out)},
            table=table,
            faults=unreadable_faults([ReadImages(settings.data, unreadable, rows)], settings.max_unreadable),
        )
