"""The files of `linear-eval`: the folder of --out, and the head of --save-head."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from simsiam_eval.commands.record import Result
from simsiam_eval.files.atomic import atomic_write, make_folder, reject_unwritable
from simsiam_eval.linear.head_file import SavedHead, write_head
from simsiam_eval.metrics.confusion import MAX_CLASSES
from simsiam_eval.plots.charts import draw_confusion, draw_curves
from simsiam_eval.wording import percent
from tasks.linear.report import HeadReport

_DRAWN_CLASSES = 40  # where not all are drawn: as many as a picture can name
_FILES = ("head.safetensors", "confusion.json", "confusion.png", "curves.png")  # besides the record


def try_folder(out: Path | None) -> None:
    """Create the folder, before the work begins.

    Raises:
        DataError: it cannot be created or written to.
    """
    if out is not None:
        make_folder(out)
        reject_unwritable(out / "record.json")


def write_files(
    result: Result, report: HeadReport | None, attributes: dict[str, Any], out: Path | None, save_head: Path | None
) -> Result:
    """Write the files, and return the result with their names.

    Args:
        report: of the head, where there is only one.
        attributes: of the training set's feature file.
        out: folder for all files. save_head: file for the head alone.
    """
    files: dict[str, str] = {}
    if report is not None:
        for path in filter(None, (save_head, out and out / "head.safetensors")):
            write_head(path, _saved_head(result, report, attributes))
            files["head"] = str(path)
    if out is None:
        return replace(result, files=files)
    if report is not None:
        files |= _write_pictures(out, report, result.table.title)
    record = out / "record.json"
    for name in _own_files(record):
        if str(out / name) not in files.values():
            (out / name).unlink(missing_ok=True)
    result = replace(result, files=files | {"record": str(record)})
    with atomic_write(record) as file:
        file.write(result.to_json().encode())
    return result


def _write_pictures(out: Path, report: HeadReport, title: str) -> dict[str, str]:
    """The confusion matrix as JSON and as a picture, and the curves of heads trained by epochs.

    Above 1,000 classes only the worst classes and pairs, which are also those in the picture.
    """
    files = {"confusion": str(out / "confusion.json"), "picture": str(out / "confusion.png")}
    confusion, names = report.confusion, list(report.confusion.class_names)
    content: dict[str, Any] = (
        {"classes": names, "matrix": confusion.matrix().tolist()}
        if len(names) <= MAX_CLASSES
        else {"worst_classes": confusion.worst_classes(), "worst_pairs": confusion.worst_pairs()}
    )
    with atomic_write(out / "confusion.json") as file:
        file.write(json.dumps(content, ensure_ascii=False).encode())
    top1 = percent(report.accuracies.top["top1"])
    heading, drawn = f"{title}, top-1 {top1} %", np.arange(len(names))
    if len(names) > MAX_CLASSES:
        drawn = confusion.classes_of_worst_pairs(_DRAWN_CLASSES)
        heading += f", {len(drawn)} of {len(names):,} classes: those of the most frequent errors"
    draw_confusion(out / "confusion.png", confusion.matrix(drawn), [names[label] for label in drawn], heading)
    if report.fit.train_loss:
        top1_curve = [100 * top1 for top1 in report.fit.test_top1]
        curves = {"training loss": report.fit.train_loss, "test top-1 %": top1_curve}
        draw_curves(out / "curves.png", curves, "epoch", title)
        files["curves"] = str(out / "curves.png")
    return files


def _own_files(record_file: Path) -> list[str]:
    """The files that the record of an earlier run in the folder lists: they do not belong to the new record."""
    try:
        record = json.loads(record_file.read_bytes())
        listed = {Path(file).name for file in record["files"].values()} if record["task"] == "linear-eval" else set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [name for name in _FILES if name in listed]


def _saved_head(result: Result, report: HeadReport, attributes: dict[str, Any]) -> SavedHead:
    training = {"protocol": result.protocol, "settings": result.settings, "top1": report.accuracies.top["top1"]}
    encoder, preprocessing, precision = (attributes[key] for key in ("encoder", "preprocessing", "precision"))
    assumptions = attributes.get("assumptions")
    return SavedHead(
        report.fit.head, report.confusion.class_names, encoder, preprocessing, precision, training, assumptions
    )
