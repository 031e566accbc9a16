"""`report`: collect what is known of encoders, compute what the features alone give, and write the page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.unreadable import unreadable_faults
from simsiam_eval.errors import DataError
from tasks.report.settings import ReportSettings

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.report.encoders import Evaluated
    from tasks.report.scoreboard import Scoreboard


def report(settings: ReportSettings, **commands: Callable[..., Result]) -> Result:
    """Run `report`.

    Args:
        settings: of the command.
        commands: the commands that `--checkpoint` computes the results with, called with the fields of their settings.

    Raises:
        UsageError, DataError: a result cannot be read or used, or the page cannot be written.
    """
    from simsiam_eval.runtime.device import resolve_device
    from simsiam_eval.runtime.progress import say
    from tasks.report import scoreboard
    from tasks.report.compute import compute
    from tasks.report.content import page_content
    from tasks.report.encoders import evaluate, files_by_encoder
    from tasks.report.inputs import collect
    from tasks.report.page import write_page

    started = time.perf_counter()
    device = resolve_device(settings.device)
    given = list(settings.results)
    train, test = _path(settings.train), _path(settings.test)
    if settings.checkpoint is not None:
        computed = compute(settings, commands)
        given, train, test = [*computed.results, *given], computed.train, computed.test
    results = collect(given)
    files = files_by_encoder(results.features, train, test)
    if not files and not results.records and not results.trainings:
        raise DataError("Nothing to report: give at least one feature file, record or run.")
    encoders = []
    for number, of_encoder in enumerate(files):
        say(f"{of_encoder.test}: nearest neighbors")
        deep = {} if number else {"deep_k": scoreboard.GRID_K, "deep_images": scoreboard.GRID_IMAGES}
        encoders.append(evaluate(of_encoder, results.heads, settings.k, settings.temperature, device, **deep))
    content = page_content(encoders, results, settings, device)
    size = write_page(settings.out, content)
    board = content.board
    return Result(
        task="report",
        settings=settings.to_dict(),
        metrics={
            "images": encoders[0].count if encoders else 0,
            "thumbnails": content.thumbnails,
            "scores": {score.name: score.value for score in board.scores if not score.published} if board else {},
            "missing": [what for what, _ in board.missing] if board else [],
            "bytes": size,
        },
        provenance=provenance(
            started,
            str(device),
            encoders=[_described(encoder) for encoder in encoders],
            records=[str(record.path) for record in results.records],
        ),
        files={"page": str(settings.out)},
        faults=unreadable_faults(
            [table.read_images for encoder in encoders for table in (encoder.test, encoder.train) if table is not None],
            settings.max_unreadable,
        ),
        table=_table(settings, encoders, board, content.verdict, size),
    )


def _path(value: str | None) -> Path | None:
    from pathlib import Path

    return None if value is None else Path(value)


def _described(encoder: Evaluated) -> Mapping[str, Any]:
    from simsiam_eval.features.compatibility import described_features

    return {
        "test": described_features(encoder.test),
        "train": None if encoder.train is None else described_features(encoder.train),
        "head": None if encoder.head is None else str(encoder.head),
    }


def _table(
    settings: ReportSettings, encoders: list[Evaluated], board: Scoreboard | None, verdict: str, size: int
) -> Table:
    rows = [[row.measure, row.value, row.detail] for row in board.rows if not row.published] if board else []
    notes = [f"The page is {settings.out} ({size / 1e6:.1f} MB): open it in a browser."]
    if board:
        notes += [f"Missing: {what}. To make it: {command}" for what, command in board.missing]
    title = f"{encoders[0].name}: {verdict}" if encoders else "No feature file was given: the page has no map."
    return Table(title, ("measure", "value", "how"), rows, notes)
