"""`import`: write features that another program computed to a feature file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import LabelSettings, setting
from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import FEATURE_ENDINGS
from simsiam_eval.wording import counted

if TYPE_CHECKING:
    from simsiam_eval.features.foreign.found import ForeignFeatures


@dataclass(frozen=True, kw_only=True)
class ImportSettings(LabelSettings):
    """Import features computed by another program, with their ids and labels, into a feature file.

    Reads .npy, .npz, .pt, .h5, .parquet, .csv, .tsv, .txt, .json and .mat files, and the output folders of clip-retrieval,
    thingsvision and FiftyOne. What was read as features, ids and labels is printed. The encoder is unknown: files are used
    together only if they were imported with the same --encoder NAME. Rerun the same command to resume an interrupted import.
    """

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "features features_key labels labels_key folder_labels class_names ids ids_key",
        "encoder": "encoder",
        "output": "out",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "embeddings.pt --encoder dinov2 --folder-labels --to train.h5",
        "features.npy --ids file_names.txt --labels labels.npy --encoder clip --to test.h5",
    )

    RESUMES = True

    features: tuple[Path, ...] = setting(
        positional=True, help="Files or folders of features; of several, the rows are joined in the order given."
    )
    out: Path = setting(output=True, also="--to", endings=FEATURE_ENDINGS, help="Feature file to write (.h5).")
    encoder: str | None = setting(
        None,
        help="Your name for the encoder that computed the features, the same for its training and test set (default: "
        "unknown; the file can then not be used together with another).",
    )
    labels: Path | None = setting(
        None,
        help="File of labels, numbers or names: an array or list in the order of the rows, or a table with a column of ids.",
    )
    ids: Path | None = setting(None, help="File of ids, such as image paths, in the order of the rows.")
    class_names: Path | None = setting(
        None, help="File of class names in the order of the label numbers: one per line, or a JSON list."
    )
    folder_labels: bool = setting(False, help="Label each row by the folder in its id (cat for train/cat/1.jpg).")
    features_key: str | None = setting(
        None,
        help="Name of the array, dataset or columns (embedding_ for embedding_0, embedding_1, ...) of the features.",
    )
    labels_key: str | None = setting(None, help="Name of the array or column of the labels; none for no labels.")
    ids_key: str | None = setting(None, help="Name of the array or column of the ids; none for row numbers.")

    def check(self) -> None:
        if self.encoder is not None and not self.encoder.strip():
            raise UsageError("--encoder is empty; expected your name for the encoder.")
        if self.folder_labels:
            self.reject_given(("labels", "labels_key"), "cannot be used with --folder-labels")


def import_features(settings: ImportSettings) -> Result:
    """Run `import`; an interrupted import is resumed.

    Raises:
        DataError: a file cannot be read, something in it is ambiguous, its parts do not fit together, or the output
            cannot be written.
    """
    from simsiam_eval.features.foreign.found import ImportOptions, open_foreign
    from simsiam_eval.features.foreign.importing import import_attributes, write_import

    started = time.perf_counter()
    foreign = open_foreign(
        ImportOptions(
            features=settings.features,
            labels=settings.labels,
            ids=settings.ids,
            class_names=settings.class_names,
            features_key=settings.features_key,
            labels_key=settings.labels_key,
            ids_key=settings.ids_key,
            from_folders=settings.folder_labels,
            no_label=settings.no_label,
        )
    )
    attributes = import_attributes(foreign, settings.features, settings.encoder)
    invalid, named = write_import(foreign, attributes, settings.out)
    metrics = _metrics(foreign, invalid)
    return Result(
        task="import",
        settings=settings.to_dict(),
        metrics=metrics,
        provenance=provenance(started, origins=foreign.origins, **attributes),
        files={"features": str(settings.out)},
        table=_table(settings, foreign, metrics, named),
    )


def _metrics(foreign: ForeignFeatures, invalid: int) -> dict[str, Any]:
    labeled = foreign.labels[foreign.labels >= 0]
    return {
        "rows": len(foreign),
        "width": foreign.width,
        "dtype": foreign.dtype,
        "invalid": invalid,
        "labeled": len(labeled),
        "classes": len(set(labeled.tolist())),
        "duplicate_ids": foreign.duplicate_ids(),
        "notes": foreign.notes,
    }


def _table(settings: ImportSettings, foreign: ForeignFeatures, metrics: dict[str, Any], named: list[str]) -> Table:
    from simsiam_eval.wording import first_few

    encoder = settings.encoder or "unknown encoder (without --encoder NAME, this file can only be used alone)"
    labels = foreign.origins["labels"]
    if metrics["labeled"]:
        classes = "1 class" if metrics["classes"] == 1 else f"{metrics['classes']} classes"
        labels += f": {metrics['labeled']} of {counted(metrics['rows'], 'row')}, {classes}"
    rows = [
        ["features", foreign.origins["features"]],
        ["ids", foreign.origins["ids"]],
        ["labels", labels],
        ["encoder", encoder],
        ["stored", f"{metrics['rows']} x {metrics['width']} {metrics['dtype']}"],
        ["invalid rows", f"{metrics['invalid']}{': ' + first_few(named, 3) if named else ''}"],
    ]
    notes = list(foreign.notes)
    if metrics["duplicate_ids"]:
        notes.append(f"{counted(metrics['duplicate_ids'], 'row')} with the id of an earlier row.")
    return Table(f"Features in {settings.out}", ("", ""), rows, notes)
