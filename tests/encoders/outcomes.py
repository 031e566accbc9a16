"""Load the file of a case and compare what comes with what is expected."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.errors import UserError
from tests.encoders.cases import Case

TOLERANCE = 2e-5  # of the largest feature
EXACT, ASSUMED, REJECTED, FAULT = (
    "loaded exactly",
    "loaded with a named assumption",
    "rejected with the reason",
    "wrong",
)


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        case: with what was expected.
        result: EXACT, ASSUMED, REJECTED or FAULT.
        faults: what differs from what was expected; empty unless FAULT.
        family: as reported, or None.
        message: of the rejection, or None.
        difference: largest absolute difference of a feature from the toolkit's, divided by its largest feature; or None.
        cosine: smallest cosine similarity of an image's features to the toolkit's; or None.
    """

    case: Case
    result: str
    faults: tuple[str, ...] = ()
    family: str | None = None
    message: str | None = None
    difference: float | None = None
    cosine: float | None = None


def choice_of(case: Case, folder: Path) -> EncoderChoice:
    """What a user would give for the case's file."""
    options = dict(case.choice)
    checkpoint = options.pop("checkpoint", "{file}").format(file=folder / case.file)
    return EncoderChoice(checkpoint, **options)


def outcome_of(case: Case, folder: Path, load: Callable[[EncoderChoice], tuple[Any, Any]] = load_encoder) -> Outcome:
    """Load a case's file in its folder and compare; nothing is raised."""
    try:
        encoder, report = load(choice_of(case, folder))
    except UserError as error:
        return _rejection(case, str(error))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}: {error}"
        return Outcome(case, FAULT, (fault,))
    difference = cosine = None
    faults = []
    if case.expect == "reject":
        faults.append(f"loaded as {report.family} {report.arch}, but is to be rejected")
    elif case.expect != "assume" and (folder / "expected.npz").exists():
        difference, cosine = _parity(encoder, folder / "expected.npz")
        if not difference <= TOLERANCE:
            faults.append(f"features differ by {difference:.1e} of the largest, cosine {cosine:.4f}")
    # Every file of another program has an assumption about the normalization, which is not meant here.
    if case.expect == "assume" and all("mean" in sentence for sentence in report.assumptions):
        faults.append("no assumption is named, although the file cannot tell")
    faults += differences(case, report)
    result = FAULT if faults else ASSUMED if case.expect == "assume" else EXACT
    return Outcome(case, result, tuple(faults), report.family, None, difference, cosine)


def differences(case: Case, report: Any) -> list[str]:
    """Where a report says something other than the case."""
    found = []
    for name in ("family", "arch", "stem", "variant"):
        expected, reported = getattr(case, name), getattr(report, name)
        if expected is not None and reported != expected:
            found.append(f"{name} is {reported!r}, not {expected!r}")
    for name in ("projector", "predictor"):
        expected, reported = getattr(case, name), getattr(report, name)
        if expected is not None and list(reported or []) != expected:
            found.append(f"{name} is {reported}, not {expected or None}")
    return found


def _rejection(case: Case, message: str) -> Outcome:
    if case.expect not in ("reject", "either"):
        return Outcome(case, FAULT, (f"is rejected: {message}",), message=message)
    if case.reason and not re.search(case.reason, message):
        return Outcome(case, FAULT, (f"the message does not match {case.reason!r}: {message}",), message=message)
    return Outcome(case, REJECTED, message=message)


def _parity(encoder: torch.nn.Module, expected: Path) -> tuple[float, float]:
    """(largest difference relative to the largest feature, smallest cosine similarity) to the expected features."""
    with np.load(expected) as arrays:
        images, features = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["features"])
    with torch.inference_mode():
        computed = encoder(images).float()
    if computed.shape != features.shape:
        return float("inf"), float("nan")
    difference = (computed - features).abs().max() / features.abs().max()
    return difference.item(), torch.nn.functional.cosine_similarity(computed, features).min().item()
