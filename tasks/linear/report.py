"""What `linear-eval` says and writes: metrics and table of one head or of many, the files of --out and --save-head."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from simsiam_eval.commands.record import Result, Table
from simsiam_eval.files.atomic import atomic_write, cannot_write, refuse_unwritable
from simsiam_eval.linear.head_file import SavedHead, write_head
from simsiam_eval.linear.heads import among_top
from simsiam_eval.linear.probing import Fitted, Probe, ProbeData, judge
from simsiam_eval.metrics.confusion import confusion_matrix, per_class_accuracy
from simsiam_eval.metrics.intervals import accuracy_metrics, bootstrap_intervals, class_mean_metrics
from simsiam_eval.plots.charts import draw_confusion, draw_curves
from simsiam_eval.wording import counted, percent

if TYPE_CHECKING:
    from tasks.linear.settings import LinearEvalSettings

_IN_RECORD = 100  # classes up to which the record holds the confusion matrix; --out writes it whatever its size
_FILES = ("head.safetensors", "confusion.json", "confusion.png", "curves.png")  # of --out, beside the record
NOT_CHOSEN = (
    "Where every class has one training image, none can be held out to choose by: the middle of the values asked for was "
    "taken (`chosen` of the record)."
)
_FED = {
    "crop": "on features of center crops",
    "views": "on features of {} augmented views an image",
    "end-to-end": "end to end",
}


def describe_one(
    settings: LinearEvalSettings, data: ProbeData, probe: Probe, fitted: Fitted, fed: str, crop: Fitted | None
) -> tuple[dict[str, Any], Table]:
    """Metrics and table of one head.

    Args:
        probe: what was asked.
        fed: what it was trained on, a Feed's name.
        crop: the same recipe trained on center crops, where that is not the same.
    """
    scores = fitted.head.scores(data.test[fitted.head.layer])
    labels, guesses = data.test_labels.cpu().numpy(), scores.argmax(dim=1).cpu().numpy()
    metrics = _accuracies(scores, data, settings.seed)
    matrix = confusion_matrix(labels, guesses, data.classes)
    by_class = dict(zip(data.class_names, per_class_accuracy(matrix).tolist(), strict=True))
    rows, features = probe.all_rows(data), data.train[fitted.head.layer]
    trained = (features, data.train_labels) if rows is None else (features[rows], data.train_labels[rows])
    metrics |= {
        "train_top1": judge(fitted.head, *trained)[0],
        "train_images": len(trained[0]),
        "images": len(labels),
        "classes": data.classes,
        "trained_on": fed,
        "chosen": fitted.recipe.varied(),
        "heads": fitted.tried,
        "per_class": by_class,
    }
    if fitted.test_top1:
        metrics |= {"top1_best_epoch": max(fitted.test_top1), "best_epoch": int(np.argmax(fitted.test_top1))}
        metrics |= {"train_loss": fitted.train_loss[-1]}
    if crop is not None:
        metrics |= _difference(guesses, labels, crop, data, settings.seed)
    if data.classes <= _IN_RECORD:
        metrics["confusion"] = matrix.tolist()
    table = _table_of_one(settings, metrics, fed)
    return metrics | {"test_top1_by_epoch": fitted.test_top1, "train_loss_by_epoch": fitted.train_loss}, table


def _accuracies(scores: torch.Tensor, data: ProbeData, seed: int) -> dict[str, Any]:
    """top1, top5 where there are more than five classes, each with Wilson's and the bootstrap's interval, and the mean over
    classes with Zou's."""
    labels, count, tops = data.test_labels.cpu().numpy(), len(data.test_labels), _tops(data)
    right = {name: among_top(scores, data.test_labels, top).cpu().numpy() for name, top in tops.items()}
    metrics: dict[str, Any] = {}
    for name in tops:
        metrics |= accuracy_metrics(name, int(right[name].sum()), count)
    intervals = bootstrap_intervals(np.stack(list(right.values()), axis=1).astype(np.int64), seed)
    metrics |= {f"{name}_bootstrap_interval": one for name, one in zip(tops, intervals, strict=True)}
    totals, rights = np.bincount(labels), np.bincount(labels, right["top1"])
    return metrics | class_mean_metrics("mean_per_class", rights[totals > 0], totals[totals > 0])


def _tops(data: ProbeData) -> dict[str, int]:
    """Of five classes or fewer every guess is among the first five."""
    return {f"top{top}": top for top in (1, 5) if top < data.classes}


def _difference(
    guesses: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], crop: Fitted, data: ProbeData, seed: int
) -> dict[str, Any]:
    """Accuracy of the head trained on center crops, and how much better the other is on the same images."""
    others = crop.head.scores(data.test[crop.head.layer]).argmax(dim=1).cpu().numpy()
    gain = (guesses == labels).astype(np.int64) - (others == labels)
    interval = bootstrap_intervals(gain[:, None], seed)[0]
    found: dict[str, Any] = accuracy_metrics("crop_top1", int((others == labels).sum()), len(labels))
    return found | {"difference_to_crop": float(gain.mean()), "difference_to_crop_interval": interval}


def _table_of_one(settings: LinearEvalSettings, metrics: dict[str, Any], fed: str) -> Table:
    notes = []
    if "best_epoch" in metrics:
        notes = [
            "Reported is the last epoch; the best epoch is chosen on the test set, for comparison with the reference."
        ]
    if metrics["heads"]:
        notes.append(_choice(settings, metrics))
    if "crop_top1" in metrics:
        gain, (low, high) = metrics["difference_to_crop"], metrics["difference_to_crop_interval"]
        notes.append(
            f"Trained on center crops the same head has {percent(metrics['crop_top1'])}: a difference of {100 * gain:+.2f} "
            f"[{100 * low:+.2f}, {100 * high:+.2f}]."
        )
    best = f"{percent(metrics['top1_best_epoch'])} ({metrics['best_epoch']})" if "best_epoch" in metrics else "-"
    return Table(
        f"{_title(settings, fed)}, {metrics['train_images']} training and {metrics['images']} test images",
        ("top-1 % [95 %]", "top-5 % [95 %]", "mean per class % [95 %]", "train top-1 %", "best epoch on test %"),
        [[*(percent(metrics[name], metrics[f"{name}_interval"]) if name in metrics else "-"
            for name in ("top1", "top5", "mean_per_class")), percent(metrics["train_top1"]), best]],
        notes,
    )  # fmt: skip


def _choice(settings: LinearEvalSettings, metrics: dict[str, Any]) -> str:
    heads, chosen = metrics["heads"], metrics["chosen"]
    varied = [name for name in chosen if len({one[name] for one in heads}) > 1]
    best = next(one for one in heads if all(one[name] == chosen[name] for name in chosen))
    said = ", ".join(f"{name.replace('_', ' ')} {chosen[name]:.3g}" if isinstance(chosen[name], float)
                     else f"{name} {chosen[name]}" for name in varied)  # fmt: skip
    text = f"Chosen of {len(heads)} heads by {percent(best['held_out_top1'])} % on held-out training images: {said}."
    for name in ("lr", "c"):
        values = sorted({one[name] for one in heads if name in one})
        if len(values) > 2 and chosen.get(name) in (values[0], values[-1]):
            text += f" That is the {'smallest' if chosen[name] == values[0] else 'largest'} {name} tried: try more."
    return text


def _title(settings: LinearEvalSettings, fed: str) -> str:
    return f"Linear evaluation, {settings.protocol()}, {_FED[fed].format(settings.views)}"


def describe_many(
    settings: LinearEvalSettings, data: ProbeData, what: Sequence[dict[str, Any]], fitted: Sequence[Fitted], fed: str
) -> tuple[dict[str, Any], Table]:
    """Metrics and table of several probes; those that are equal in `what` are trials of one row.

    `top1` is the mean over the trials of the first row, `top1_std` their standard deviation (n - 1); `top5` likewise.
    """
    rows: list[dict[str, Any]] = []
    for one, answer in zip(what, fitted, strict=True):
        scores = answer.head.scores(data.test[answer.head.layer])
        trial = {"seed": answer.recipe.seed, "chosen": answer.recipe.varied(), "heads": answer.tried}
        if not rows or rows[-1]["of"] != one:
            rows.append({"of": one, "trials": []})
        rows[-1]["trials"].append(trial | _accuracies(scores, data, answer.recipe.seed))
    for row in rows:
        for name in _tops(data):
            values = [trial[name] for trial in row["trials"]]
            row[name] = float(np.mean(values))
            row[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    metrics = {
        **{name: value for name, value in rows[0].items() if name not in ("of", "trials")},
        "images": len(data.test_labels),
        "classes": data.classes,
        "trained_on": fed,
        "rows": rows,
    }
    spread = "(std)" if settings.trials > 1 else "[95 %]"
    table = Table(
        f"{_title(settings, fed)}, {len(data.test_labels)} test images",
        ("layer", "of a class", "training images", *(f"top-{top} % {spread}" for top in (1, 5))),
        [[row["of"]["layer"], _amount(row["of"]), str(row["of"]["images"]), _spread(row, "top1"), _spread(row, "top5")]
         for row in rows],
        [f"Mean and standard deviation over {settings.trials} seeds, each with its own images."
         if settings.shots or settings.fraction else f"Mean and standard deviation over {settings.trials} seeds."]
        if settings.trials > 1 else [],
    )  # fmt: skip
    return metrics, table


def _amount(what: dict[str, Any]) -> str:
    if "shots" in what:
        return counted(what["shots"], "image")
    return f"{100 * what['fraction']:g} %" if "fraction" in what else "all"


def _spread(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return "-"
    if row[f"{name}_std"] is None:
        return percent(row[name], row["trials"][0][f"{name}_interval"])
    return f"{percent(row[name])} ({100 * row[f'{name}_std']:.2f})"


def make_folder(out: Path | None) -> None:
    """Find out before the work whether a folder can be written.

    Raises:
        DataError: --out is no folder and cannot be made one, or nothing can be written there.
    """
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(out, error) from error
        refuse_unwritable(out / "record.json")


def _files_of_record(path: Path) -> list[str]:
    """Which files beside it the record of an earlier run says are its own: they are not to stand beside another's."""
    try:
        record = json.loads(path.read_bytes())
        own = {Path(file).name for file in record["files"].values()} if record["task"] == "linear-eval" else set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [name for name in _FILES if name in own]


def write_files(
    settings: LinearEvalSettings, result: Result, fitted: Fitted | None, data: ProbeData, attributes: dict[str, Any]
) -> Result:
    """Write what --out and --save-head ask for; the result with the files' names.

    Args:
        fitted: the head, where there is one only.
        attributes: of the training set's feature file.
    """
    files: dict[str, str] = {}
    if fitted is not None:
        for path in filter(None, (settings.save_head, settings.out and settings.out / "head.safetensors")):
            write_head(path, _saved(result, fitted, data, attributes))
            files["head"] = str(path)
    if settings.out is None:
        return replace(result, files=files)
    if fitted is not None:
        scores = fitted.head.scores(data.test[fitted.head.layer])
        matrix = confusion_matrix(data.test_labels.cpu().numpy(), scores.argmax(dim=1).cpu().numpy(), data.classes)
        _write_json(settings.out / "confusion.json", {"classes": data.class_names, "matrix": matrix.tolist()})
        title = f"{result.table.title}, top-1 {percent(result.metrics['top1'])} %"
        draw_confusion(settings.out / "confusion.png", matrix, data.class_names, title)
        files |= {"confusion": str(settings.out / "confusion.json"), "picture": str(settings.out / "confusion.png")}
        if fitted.train_loss:
            curves = {"training loss": fitted.train_loss, "test top-1 %": [100 * one for one in fitted.test_top1]}
            draw_curves(settings.out / "curves.png", curves, "epoch", result.table.title)
            files["curves"] = str(settings.out / "curves.png")
    files["record"] = str(settings.out / "record.json")
    for name in _files_of_record(settings.out / "record.json"):
        if str(settings.out / name) not in files.values():
            (settings.out / name).unlink(missing_ok=True)
    result = replace(result, files=files)
    with atomic_write(files["record"]) as file:
        file.write(result.to_json().encode())
    return result


def _saved(result: Result, fitted: Fitted, data: ProbeData, attributes: dict[str, Any]) -> SavedHead:
    trained = {"protocol": result.protocol, "settings": result.settings, "top1": result.metrics["top1"]}
    encoder, preprocessing, precision = (attributes[key] for key in ("encoder", "preprocessing", "precision"))
    return SavedHead(fitted.head, data.class_names, encoder, preprocessing, precision, trained)


def _write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(value, ensure_ascii=False).encode())
