"""`atlas`: analyze a set of images, write the table, and open it in embedding-atlas."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.wording import counted
from tasks.atlas.settings import APPLICATION, AtlasSettings

if TYPE_CHECKING:
    from pathlib import Path

    import torch


def atlas(settings: AtlasSettings) -> Result:
    """Run `atlas`; with --open until Ctrl-C or SIGTERM.

    Raises:
        UsageError: a package is missing.
        DataError: a feature file cannot be used, an output cannot be written, or embedding-atlas fails.
    """
    from simsiam_eval.runtime.device import resolve_device
    from tasks.atlas.application import (
        free_port,
        reject_other_folder,
        require_embedding_atlas,
        show,
        write_application,
    )

    started, device = time.perf_counter(), resolve_device(settings.device)
    application, port = settings.out / APPLICATION, settings.port
    if settings.application:
        require_embedding_atlas("--application")
        reject_other_folder(application)
    if settings.open:
        require_embedding_atlas("--open")
        port = free_port(port)
    described, kept = _table_of(settings, device)
    with_images = described["thumbnails"] > 0
    files = {"table": str(settings.table)}
    if settings.application:
        write_application(application, settings.table, with_images)
        files["application"] = str(application)
    result = _result(settings, described, kept, files, started, device)
    if settings.open:
        show(settings.table, with_images, port)
    return result


def _table_of(settings: AtlasSettings, device: torch.device) -> tuple[dict[str, Any], bool]:
    """What the table's metadata say of it, and whether it was there already."""
    from simsiam_eval.features.compatibility import described_features
    from simsiam_eval.features.file import read_attributes
    from simsiam_eval.files.atomic import make_folder
    from simsiam_eval.neighbors.coordinates import umap_is_installed
    from simsiam_eval.runtime.progress import say
    from tasks.atlas.analysis import analyzed
    from tasks.atlas.table import read_description, write_table
    from tasks.atlas.thumbnails import Thumbnails, shown_rows

    for path in (settings.file, settings.train):
        if path is not None:
            read_attributes(path)  # rejects what is no feature file
    key = {
        "settings": settings.content(),
        "umap": settings.map == "auto" and umap_is_installed(),
        "files": [_state(path) for path in (settings.file, settings.train) if path is not None],
    }
    described = read_description(settings.table)
    if described is not None and described["key"] == key and not described["thumbnails_missing"]:
        say(f"{settings.table} is up to date.")
        return described, True
    make_folder(settings.out)
    with analyzed(settings.file, settings, settings.out, device) as analysis:
        rows = shown_rows(analysis, settings.thumbnails, settings.seed)
        described = {
            "key": key,
            "counts": analysis.counts(),
            "map": {"method": analysis.map.method, "fitted": analysis.map.fitted},
            "sentence": analysis.map.sentence(),
            "index": analysis.index,
            "set": described_features(analysis.features),
            "train": None if analysis.leaks is None else described_features(analysis.leaks.train),
        }
        described = write_table(settings.table, analysis, Thumbnails(analysis, rows, settings.images), described)
    return described, False


def _state(path: Path) -> list[int]:
    """Size and time by which a changed file is noticed."""
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _result(
    settings: AtlasSettings,
    described: dict[str, Any],
    kept: bool,
    files: dict[str, str],
    started: float,
    device: torch.device,
) -> Result:
    counts, size = described["counts"], settings.table.stat().st_size
    placed = counts["images"] - described["map"]["fitted"]
    return Result(
        task="atlas",
        settings=settings.to_dict(),
        metrics={
            **counts,
            "thumbnails": described["thumbnails"],
            "thumbnails_missing": described["thumbnails_missing"],
            "map": described["map"] | {"placed": placed},
            "index": described["index"],
            "bytes": size,
            "kept": kept,
        },
        provenance=provenance(started, str(device), set=described["set"], train=described["train"]),
        files=files,
        table=_table(settings, described, files, size),
    )


def _table(settings: AtlasSettings, described: dict[str, Any], files: dict[str, str], size: int) -> Table:
    from tasks.atlas.application import command

    counts = described["counts"]
    names = {
        "images": "images",
        "unreadable": "unreadable, left out",
        "unlabeled": "without a label",
        "correct": "predicted correctly by their neighbors",
        "wrong": "predicted wrongly",
        "wrong_labels": "likely wrong labels",
        "duplicate_groups": "groups of near-duplicates",
        "conflicts": "near-duplicates with another label",
    }
    rows = [[text, f"{counts[name]:,}"] for name, text in names.items() if counts[name] is not None]
    rows.append(["thumbnails", f"{described['thumbnails']:,}"])
    notes = [described["sentence"]]
    if missing := described["thumbnails_missing"]:
        notes.append(f"{counted(missing, 'thumbnail')} could not be made: the image is gone or unreadable.")
    if "application" in files:
        served = f"python -m http.server --bind 127.0.0.1 --directory {files['application']}"
        notes.append(f"The application is {files['application']}; browsers open it from a web server: {served}")
    notes.append(f"To open the table: {command(settings.table, described['thumbnails'] > 0)}")
    return Table(f"Atlas of {settings.file}: {settings.table} ({size / 1e6:.1f} MB)", ("", "count"), rows, notes)
