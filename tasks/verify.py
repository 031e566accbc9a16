"""`verify`: check a feature file for errors, and against its checkpoint and images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import DeviceSettings, LabelSettings, SeedSettings, setting
from simsiam_eval.encoders.settings import CheckpointSettings
from simsiam_eval.errors import DataError
from simsiam_eval.wording import counted

if TYPE_CHECKING:
    import numpy as np

    from simsiam_eval.encoders.choice import EncoderChoice
    from simsiam_eval.extraction.extraction import Extraction
    from simsiam_eval.features.checks import Check
    from simsiam_eval.features.reader import FeatureReader
    from simsiam_eval.sources.base import ImageSource

# Minimum cosine and maximum difference (relative to the row's largest value) of a recomputed row. The order of additions
# depends on the batch size, the machine and torch.compile; see docs/feature-file-commands.md.
_TOLERANCE = {"float32": (1 - 1e-5, 5e-3), "bf16": (0.999, 0.1)}


@dataclass(frozen=True, kw_only=True)
class VerifySettings(CheckpointSettings, LabelSettings, DeviceSettings, SeedSettings):
    """Check a whole feature file for errors; exit status 1 if there are any.

    Given --checkpoint and --data, also recompute a sample of rows with the settings recorded in the file.
    """

    GROUPS: ClassVar[dict[str, str]] = {"data": "file data", "encoder": "checkpoint", "evaluation": "sample"}
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "train.h5",
        "train.h5 --checkpoint checkpoint.pth.tar --data folder:photos/train",
    )

    file: Path = setting(positional=True, help="Feature file (.h5), or an unfinished one (.h5.part).")
    checkpoint: str | None = setting(None, help="Checkpoint of the encoder that should have computed the features.")
    data: str | None = setting(None, help="Image source that the features should have been computed from.")
    sample: int = setting(
        32, at_least=1, help="Number of rows to recompute, sampled with --seed; requires --checkpoint and --data."
    )


def verify(settings: VerifySettings) -> Result:
    """Run `verify`. In the record, `metrics.faults` lists the errors and `warnings` the warnings, one sentence each.

    Raises:
        DataError: the file does not exist, or the checkpoint or the images cannot be used.
    """
    from simsiam_eval.features.checks import Check, check_ids, check_layout, check_rows
    from simsiam_eval.features.file import part_of
    from simsiam_eval.features.provenance import is_imported
    from simsiam_eval.features.reader import FeatureReader
    from simsiam_eval.sources.opening import open_source

    started, path = time.perf_counter(), settings.file
    if path.suffix == ".part":
        path = path.with_suffix("")
    if settings.file != path or (not path.exists() and part_of(path).exists()):
        return _result(settings, started, [_unfinished(path)], {})
    try:
        reader = FeatureReader(path)
    except DataError as error:
        if not path.exists():
            raise
        return _result(settings, started, [Check("format", "", [str(error)])], {})
    with reader:
        version = f"version {reader.attributes['format_version']}, complete"
        checks = [Check("format", version + (", virtual" if reader.attributes["parts"] else "")), check_layout(reader)]
        if not checks[1].faults:
            checks += [*check_rows(reader), check_ids(reader)]
            if is_imported(reader.attributes):
                checks.append(_imported(reader.attributes))
            sample = _Sample(settings.sample, settings.seed, settings.device)
            data = settings.data
            source = None if data is None else open_source(data, no_label=settings.no_label)
            checks += _check_origin(reader, settings.given_encoder(), source, data, sample)
        return _result(
            settings, started, checks, {key: reader.attributes[key] for key in ("encoder", "assumptions", "source")}
        )


def _unfinished(path: Path) -> Check:
    """The progress of an unfinished extraction."""
    import h5py
    import numpy as np

    from simsiam_eval.features.checks import Check
    from simsiam_eval.features.file import UNREADABLE, part_of

    if not part_of(path).exists():
        raise DataError(f"Feature file {path} does not exist, nor does an unfinished {part_of(path).name}.")
    try:
        with h5py.File(part_of(path), "r", locking=False) as file:
            rows, written, unreadable = len(file["valid"]), 0, 0
            for start in range(0, rows, 1 << 20):
                flags = file["valid"][start : start + (1 << 20)].view(np.uint8)
                written, unreadable = written + int((flags > 0).sum()), unreadable + int((flags == UNREADABLE).sum())
    except (OSError, KeyError) as error:
        fault = f"{part_of(path)} is being finished or is damaged ({error}): rerun its command."
        return Check("format", "", [fault])
    progress = f"{written} of {rows} rows, {100 * written / rows:.1f} %,"
    return Check(
        "complete",
        f"{unreadable} unreadable so far",
        [f"{path} is unfinished ({progress} are written): rerun its command to resume."],
        metrics={"rows": rows, "written": written, "unreadable": unreadable},
    )


def _imported(attributes: dict[str, Any]) -> Check:
    """Where imported features are from, which only the user knows in full."""
    from simsiam_eval.features.checks import Check
    from simsiam_eval.features.provenance import encoder_name
    from simsiam_eval.wording import first_few

    files = first_few(map(str, attributes["source"].get("imported_from") or ["an unknown file"]), 1)
    return Check("origin", f"{encoder_name(attributes)}; imported from {files}, whose encoder cannot be verified")


@dataclass(frozen=True)
class _Sample:
    """How many rows are recomputed, drawn with which seed, on which device."""

    rows: int
    seed: int
    device: str


def _check_origin(
    reader: FeatureReader, choice: EncoderChoice | None, source: ImageSource | None, spec: str | None, sample: _Sample
) -> list[Check]:
    """Check the file against the checkpoint and the images that were given."""
    from simsiam_eval.features.checks import Check
    from simsiam_eval.features.provenance import is_imported

    checks = []
    imported = is_imported(reader.attributes)
    if choice is not None and imported:
        fault = (
            f"{reader.path} was imported, its encoder is not recorded: it cannot be compared with {choice.checkpoint}."
        )
        checks.append(Check("encoder", "", [fault]))
    elif choice is not None:
        from simsiam_eval.encoders.checkpoint import inspect_checkpoint
        from simsiam_eval.extraction.options import choice_like, option_hint

        recorded = reader.attributes["encoder"].get("weights_sha256")
        actual = inspect_checkpoint(choice_like(reader.attributes, choice, reader.path)).weights_sha256
        if recorded == actual:
            checks.append(Check("encoder", f"sha256 {actual[:16]}..., matches"))
        else:
            hint = option_hint(reader.attributes, choice)
            fault = f"The features are from another encoder than {choice.checkpoint}: {recorded}, not {actual}{hint}."
            checks.append(Check("encoder", "", [fault]))
    if source is not None:
        checks.append(_check_images(reader, source, str(spec)))
    if source is not None and choice is not None and not any(check.faults for check in checks):
        checks.append(_check_sample(reader, source, choice, sample))
    return checks


def _check_images(reader: FeatureReader, source: ImageSource, spec: str) -> Check:
    """Check fingerprint, ids and labels against an image source."""
    from simsiam_eval.features.checks import Check
    from simsiam_eval.features.provenance import is_imported

    recorded, check = reader.attributes["source"], Check("images")
    first, stop = recorded.get("rows", (0, len(source)))
    if stop > len(source) or stop - first != len(reader):
        check.faults.append(f"{spec} has {len(source)} rows, but the file has {len(reader)}.")
        return check
    fingerprint, imported = str(recorded.get("fingerprint")), is_imported(reader.attributes)
    if not imported and fingerprint != (
        source.listing_fingerprint() if fingerprint.startswith("listing ") else source.fingerprint()
    ):
        check.faults.append(f"The features are from other images than {spec}: the fingerprints differ.")
    for start in range(0, len(reader), 1 << 13):
        rows = range(start, min(start + (1 << 13), len(reader)))
        source_rows = range(first + rows.start, first + rows.stop)
        for kind, stored, expected in (
            ("id", reader.ids(rows), source.ids_of(source_rows)),
            ("label", reader.labels(rows).tolist(), source.labels[source_rows.start : source_rows.stop].tolist()),
        ):
            for row, (value, expected_value) in zip(rows, zip(stored, expected, strict=True), strict=True):
                if value != expected_value:
                    check.faults.append(f"Row {row} has the {kind} {value}, but in {spec} it is {expected_value}.")
                    break
        if check.faults:
            return check
    check.result = "ids and labels match" if imported else "fingerprint, ids and labels match"
    return check


def _check_sample(reader: FeatureReader, source: ImageSource, choice: EncoderChoice, sample: _Sample) -> Check:
    """Recompute a sample of rows with the settings recorded in the file, each row in its own forward pass."""
    import hashlib

    import numpy as np

    from simsiam_eval.features.checks import Check

    draws = np.random.default_rng(sample.seed).choice(len(reader), min(len(reader), 4 * sample.rows), replace=False)
    rows = [int(row) for row in draws if reader.file["valid"][row]][: sample.rows]
    check, digest = Check("sample"), hashlib.sha256()
    min_cosine, largest_difference, identical = 1.0, 0.0, 0
    cosine_limit, difference_limit = _TOLERANCE[reader.attributes["precision"]]
    difference_limit += 2e-3 * (reader.attributes["dtype"] == "float16")
    first = reader.attributes["source"].get("rows", [0])[0]
    blocks = _extraction(reader, source, choice, sample.device).compute([first + row for row in rows])
    for row, block in zip(rows, blocks, strict=True):
        if block.reasons:
            (reason,) = block.reasons.values()
            check.faults.append(f"Row {row} ({source.id(first + row)}) cannot be recomputed: {reason}.")
            continue
        stored = reader.block(range(row, row + 1)).columns
        for name, values in stored.items():
            digest.update(values.tobytes())
            cosine, difference = _cosine_and_difference(values, block.columns[name])
            min_cosine, largest_difference = min(min_cosine, cosine), max(largest_difference, difference)
            identical += values.tobytes() == block.columns[name].astype(values.dtype).tobytes()
            if cosine < cosine_limit or difference > difference_limit:
                check.faults.append(
                    f"Row {row} ({source.id(first + row)}) of {name} differs from the recomputed one: cosine {cosine:.6f}, "
                    f"largest difference {difference:.2g} (allowed: {cosine_limit:g} and {difference_limit:g})."
                )
    check.result = f"{len(rows)} rows recomputed: cosine >= {min_cosine:.7f}, difference <= {largest_difference:.2g}"
    check.metrics["sample"] = {
        "rows": rows,
        "min_cosine": min_cosine,
        "largest_difference": largest_difference,
        "identical": identical,
        "cosine_limit": cosine_limit,
        "difference_limit": difference_limit,
        "sha256": digest.hexdigest(),
    }
    return check


def _extraction(reader: FeatureReader, source: ImageSource, choice: EncoderChoice, device: str) -> Extraction:
    """An extraction as the file records it, with one image per forward pass."""
    from simsiam_eval.extraction.options import ExtractionOptions
    from simsiam_eval.extraction.plan import extraction_like
    from simsiam_eval.runtime.device import resolve_device

    options = ExtractionOptions(batch=1, workers=0)
    return extraction_like(
        reader.attributes, reader.path, choice, source, options, resolve_device(device), every_column=True
    )


def _cosine_and_difference(stored: np.ndarray[Any, Any], computed: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The cosine similarity, and the largest difference relative to the largest computed value."""
    import numpy as np

    stored, computed = stored.reshape(-1).astype(np.float64), computed.reshape(-1).astype(np.float64)
    norms, scale = float(np.linalg.norm(stored) * np.linalg.norm(computed)), float(np.abs(computed).max())
    cosine = float(stored @ computed) / norms if norms else float(not stored.any() and not computed.any())
    return cosine, float(np.abs(stored - computed).max()) / scale if scale else float(stored.any())


def _result(settings: VerifySettings, started: float, checks: Sequence[Check], recorded: dict[str, Any]) -> Result:
    faults = [fault for check in checks for fault in check.faults]
    warnings = [warning for check in checks for warning in check.warnings]
    rows = [
        [check.name, "error" if check.faults else "warning" if check.warnings else "ok", text]
        for check in checks
        for text in [*([check.result] if check.result else []), *check.faults, *check.warnings]
    ]
    metrics: dict[str, Any] = {"faults": faults, "warnings": warnings}
    for check in checks:
        metrics |= check.metrics
    title = f"{settings.file}: {'no errors' if not faults else counted(len(faults), 'error')}"
    return Result(
        task="verify",
        settings=settings.to_dict(),
        metrics=metrics,
        provenance=provenance(started, settings.device, file=str(settings.file), **recorded),
        table=Table(title, ("check", "", "result"), rows),
        faults=faults,
    )
