"""`verify`: check a feature file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import DeviceSettings, SeedSettings, setting
from simsiam_eval.errors import DataError
from simsiam_eval.wording import counted

if TYPE_CHECKING:
    import numpy as np

    from simsiam_eval.features.checks import Check
    from simsiam_eval.features.reader import FeatureReader
    from simsiam_eval.sources.base import ImageSource

# Minimum cosine and maximum difference (relative to the row's largest value) of a recomputed row. The order of additions
# depends on the batch size, the machine and torch.compile; see docs/feature-file-commands.md.
_TOLERANCE = {"float32": (1 - 1e-5, 5e-3), "bf16": (0.999, 0.1)}


@dataclass(frozen=True, kw_only=True)
class VerifySettings(DeviceSettings, SeedSettings):
    """Check a whole feature file for errors; exit status 1 if there are any.

    Given --checkpoint and --data, also recompute a sample of rows with the settings recorded in the file.
    """

    GROUPS: ClassVar[dict[str, str]] = {"data": "file data", "encoder": "checkpoint", "evaluation": "sample"}
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "train.h5",
        "train.h5 --checkpoint checkpoint.pth.tar --data folder:photos/train",
    )

    file: Path = setting(positional=True, help="Feature file (.h5), or an unfinished one (.h5.part).")
    checkpoint: Path | None = setting(None, help="Checkpoint of the encoder that should have computed the features.")
    data: str | None = setting(None, help="Image source that the features should have been computed from.")
    sample: int = setting(
        32, at_least=1, help="Number of rows to recompute, sampled with --seed; requires --checkpoint and --data."
    )


def verify(settings: VerifySettings) -> Result:
    """Run `verify`. In the record, `metrics.faults` lists the errors and `warnings` the warnings, one sentence each.

    Raises:
        DataError: there is no such file, or the checkpoint or the images cannot be used.
    """
    from simsiam_eval.features.checks import Check, check_ids, check_layout, check_rows
    from simsiam_eval.features.file import part_of
    from simsiam_eval.features.reader import FeatureReader

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
        kind = f"version {reader.attributes['format_version']}, complete"
        checks = [Check("format", kind + (", virtual" if reader.attributes["parts"] else "")), check_layout(reader)]
        if not checks[1].faults:
            checks += [*check_rows(reader), check_ids(reader)]
            checks += _against_origin(reader, settings)
        return _result(settings, started, checks, {key: reader.attributes[key] for key in ("encoder", "source")})


def _unfinished(path: Path) -> Check:
    """The progress of an unfinished extraction."""
    import h5py
    import numpy as np

    from simsiam_eval.features.checks import Check
    from simsiam_eval.features.file import UNREADABLE, part_of

    if not part_of(path).exists():
        raise DataError(f"There is no feature file {path} and no unfinished {part_of(path).name}.")
    try:
        with h5py.File(part_of(path), "r", locking=False) as file:
            rows, written, unreadable = len(file["valid"]), 0, 0
            for start in range(0, rows, 1 << 20):
                flags = file["valid"][start : start + (1 << 20)].view(np.uint8)
                written, unreadable = written + int((flags > 0).sum()), unreadable + int((flags == UNREADABLE).sum())
    except (OSError, KeyError) as error:
        again = "rerun its command"
        return Check(
            "format",
            "",
            [f"{part_of(path)} is being finished, was killed while it was, or is damaged ({error}): {again}."],
        )
    far = f"{written} of {rows} rows, {100 * written / rows:.1f} %,"
    return Check(
        "complete",
        f"{unreadable} unreadable so far",
        [f"{path} is unfinished ({far} are written): rerun its command to resume."],
        metrics={"rows": rows, "written": written, "unreadable": unreadable},
    )


def _against_origin(reader: FeatureReader, settings: VerifySettings) -> list[Check]:
    """The file against the checkpoint, the images, and both."""
    from simsiam_eval.features.checks import Check

    checks, source = [], None
    if settings.checkpoint is not None:
        from simsiam_eval.encoders.checkpoint import inspect_checkpoint

        ours, theirs = reader.attributes["encoder"].get("weights_sha256"), inspect_checkpoint(settings.checkpoint)
        same = ours == theirs.weights_sha256
        wrong = [] if same else [f"The features are from another encoder than {settings.checkpoint}: {ours}, not "
                                 f"{theirs.weights_sha256}."]  # fmt: skip
        checks.append(Check("encoder", f"sha256 {theirs.weights_sha256[:16]}..., matches" if same else "", wrong))
    if settings.data is not None:
        from simsiam_eval.sources.opening import open_source

        source = open_source(settings.data)
        checks.append(_check_images(reader, source, settings.data))
    if source is not None and settings.checkpoint is not None and not any(check.faults for check in checks):
        checks.append(_check_sample(reader, source, settings))
    return checks


def _check_images(reader: FeatureReader, source: ImageSource, spec: str) -> Check:
    """Fingerprint, ids and labels."""
    from simsiam_eval.features.checks import Check

    described, check = reader.attributes["source"], Check("images")
    first, last = described.get("rows", (0, len(source)))
    if last > len(source) or last - first != len(reader):
        check.faults.append(f"{spec} has {len(source)} rows, but the file has {len(reader)}.")
        return check
    fingerprint = str(described.get("fingerprint"))
    if fingerprint != (source.listing_fingerprint() if fingerprint.startswith("listing ") else source.fingerprint()):
        check.faults.append(f"The features are from other images than {spec}: the fingerprints differ.")
    for start in range(0, len(reader), 1 << 13):
        rows = range(start, min(start + (1 << 13), len(reader)))
        there = range(first + rows.start, first + rows.stop)
        for what, ours, theirs in (
            ("id", reader.ids(rows), source.ids_of(there)),
            ("label", reader.labels(rows).tolist(), source.labels[there.start : there.stop].tolist()),
        ):
            wrong = [place for place, (one, two) in enumerate(zip(ours, theirs, strict=True)) if one != two]
            if wrong:
                at = wrong[0]
                check.faults.append(f"Row {start + at} has the {what} {ours[at]}, but in {spec} it is {theirs[at]}.")
        if check.faults:
            return check
    check.found = "fingerprint, ids and labels match"
    return check


def _check_sample(reader: FeatureReader, source: ImageSource, settings: VerifySettings) -> Check:
    """Some rows recomputed, each in its own forward pass, as the file's attributes record."""
    import hashlib

    import numpy as np

    from simsiam_eval.features.checks import Check

    draws = np.random.default_rng(settings.seed).choice(
        len(reader), min(len(reader), 4 * settings.sample), replace=False
    )
    rows = [int(row) for row in draws if reader.file["valid"][row]][: settings.sample]
    check, digest = Check("sample"), hashlib.sha256()
    least, largest, equal = 1.0, 0.0, 0
    cosine_limit, difference_limit = _TOLERANCE[reader.attributes["precision"]]
    difference_limit += 2e-3 * (reader.attributes["dtype"] == "float16")
    first = reader.attributes["source"].get("rows", [0])[0]
    for row, block in zip(rows, _work(reader, source, settings).compute([first + row for row in rows]), strict=True):
        if block.reasons:
            (reason,) = block.reasons.values()
            check.faults.append(f"Row {row} ({source.id(first + row)}) cannot be recomputed: {reason}.")
            continue
        stored = reader.block(range(row, row + 1)).columns
        for name, values in stored.items():
            digest.update(values.tobytes())
            cosine, difference = _compared(values, block.columns[name])
            least, largest = min(least, cosine), max(largest, difference)
            equal += values.tobytes() == block.columns[name].astype(values.dtype).tobytes()
            if cosine < cosine_limit or difference > difference_limit:
                check.faults.append(
                    f"Row {row} ({source.id(first + row)}) of {name} differs from the recomputed one: cosine {cosine:.6f}, "
                    f"largest difference {difference:.2g} (allowed: {cosine_limit:g} and {difference_limit:g})."
                )
    check.found = f"{len(rows)} rows recomputed: cosine >= {least:.7f}, difference <= {largest:.2g}"
    check.metrics["sample"] = {
        "rows": rows, "least_cosine": least, "largest_difference": largest, "same_bytes": equal,
        "cosine_limit": cosine_limit, "difference_limit": difference_limit, "sha256": digest.hexdigest(),
    }  # fmt: skip
    return check


def _work(reader: FeatureReader, source: ImageSource, settings: VerifySettings) -> Any:
    """The extraction that made the file, with one image in a forward pass."""
    from simsiam_eval.extraction.options import ExtractionOptions
    from simsiam_eval.extraction.plan import extraction_like
    from simsiam_eval.runtime.device import resolve_device

    assert settings.checkpoint is not None
    options, device = ExtractionOptions(batch=1, workers=0), resolve_device(settings.device)
    return extraction_like(
        reader.attributes, reader.path, settings.checkpoint, source, options, device, every_column=True
    )


def _compared(stored: np.ndarray[Any, Any], computed: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Cosine, and the largest difference relative to the largest value."""
    import numpy as np

    one, two = stored.reshape(-1).astype(np.float64), computed.reshape(-1).astype(np.float64)
    lengths, scale = float(np.linalg.norm(one) * np.linalg.norm(two)), float(np.abs(two).max())
    cosine = float(one @ two) / lengths if lengths else float(not one.any() and not two.any())
    return cosine, float(np.abs(one - two).max()) / scale if scale else float(one.any())


def _result(settings: VerifySettings, started: float, checks: Sequence[Check], described: dict[str, Any]) -> Result:
    faults = [fault for check in checks for fault in check.faults]
    warnings = [warning for check in checks for warning in check.warnings]
    rows = [
        [check.name, "error" if check.faults else "warning" if check.warnings else "ok", text]
        for check in checks
        for text in [*([check.found] if check.found else []), *check.faults, *check.warnings]
    ]
    metrics: dict[str, Any] = {"faults": faults, "warnings": warnings}
    for check in checks:
        metrics |= check.metrics
    title = f"{settings.file}: {'no errors' if not faults else counted(len(faults), 'error')}"
    return Result(
        task="verify",
        settings=settings.to_dict(),
        metrics=metrics,
        provenance=provenance(started, settings.device, file=str(settings.file), **described),
        table=Table(title, ("check", "", "result"), rows),
        faults=faults,
    )
