"""Images of more than 8 bits: black and white are the same for every image of a source."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from input_cases.case import Case, difference
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.runtime import notes
from simsiam_eval.sources.intensity import source_intensity
from simsiam_eval.sources.opening import open_source

SIDE = 64
RAMP = np.tile(np.linspace(0, 1, SIDE), (SIDE, 1))
OUTLIERS = {"none": None, "256": 256, "1e20": 1e20, "-9999": -9999, "inf": np.inf, "NaN": np.nan}
Levels = list[NDArray[np.int64] | str]


def values(low: float, high: float, dtype: Any, outlier: float | None = None) -> NDArray[Any]:
    """A ramp (64,64) from low to high, with one other value."""
    ramp = (low + RAMP * (high - low)).astype(dtype)
    if outlier is not None:
        ramp[3, 3] = outlier
    return ramp


def write(folder: Path, arrays: Sequence[NDArray[Any]], ending: str = ".tif", **options: Any) -> str:
    """Images in a folder; the folder."""
    for number, array in enumerate(arrays):
        if ending == ".npy":
            np.save(folder / f"{number:03}.npy", array)
        else:
            Image.fromarray(array).save(folder / f"{number:03}{ending}", **options)
    return str(folder)


def read(spec: str, setting: str = "auto") -> tuple[Intensity, Levels, str]:
    """Black and white, the gray levels (or the error) of each image, and what was printed."""
    notes._said.clear()
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        source = open_source(spec)
        intensity = source_intensity(source, setting)
        levels: Levels = []
        for row in range(len(source)):
            try:
                levels.append(source.opened(row, None, intensity).pixels()[:, :, 0].astype(int))
            except UnreadableImage as error:
                levels.append(str(error))
    return intensity, levels, printed.getvalue()


def expected_levels(array: NDArray[Any], low: float, high: float) -> NDArray[np.int64]:
    """The gray levels of values, from low to high."""
    return np.floor(np.clip((array.astype(float) - low) / (high - low), 0, 1) * 255 + 0.5).astype(int)


def outlier_case(name: str, dtype: Any, low: float, high: float, span: tuple[float, float], outlier: str) -> Case:
    """Three images of one scale, the second with one odd value."""

    def check(folder: Path) -> str | None:
        clean = values(low, high, dtype)
        arrays = [clean, values(low, high, dtype, OUTLIERS[outlier]), clean]
        _, levels, _ = read(write(folder, arrays))
        wanted = expected_levels(clean, *span)
        for row in (0, 2):
            if not np.array_equal(levels[row], wanted):
                return f"image {row}: other gray levels than {span[0]:g} to {span[1]:g}"
        if outlier in ("inf", "NaN"):
            return difference(levels[1], "values are NaN or infinite")
        return difference(int(np.sum(levels[1] != wanted)) <= 1, True)

    return Case(f"{name} from {low:g} to {high:g}, one value: {outlier}", f"{span[0]:g} to {span[1]:g} for all", check)


def scale_case(name: str, arrays: Callable[[], list[NDArray[Any]]], recorded: Any, says: str = "", **how: Any) -> Case:
    """The recorded scale, and a part of what is printed ("": nothing is printed)."""
    ending, setting = how.get("ending", ".tif"), how.get("setting", "auto")

    def check(folder: Path) -> str | None:
        intensity, _, printed = read(write(folder, arrays(), ending), setting)
        if wrong := difference(intensity.to_json(), recorded):
            return wrong
        if not says and printed:
            return f"printed: {printed}"
        return None if says in printed else f"expected {says!r} in: {printed or 'nothing'}"

    return Case(name, f"{recorded}{': ' if says else ''}{says}", check)


def tagged_case(name: str, tags: dict[int, tuple[int, Any]], array: NDArray[Any], span: tuple[float, float]) -> Case:
    """A TIFF file whose tags (number -> type, value) say black and white, or the value of no data."""

    def check(folder: Path) -> str | None:
        described = TiffImagePlugin.ImageFileDirectory_v2()
        for number, (kind, value) in tags.items():
            described.tagtype[number] = kind
            described[number] = value
        _, levels, _ = read(write(folder, [array], tiffinfo=described))
        counted = np.isfinite(array) & (np.abs(array.astype(float)) < 1e5)
        wanted = np.where(counted, expected_levels(np.where(counted, array, 0), *span), 0)
        return None if np.array_equal(levels[0], wanted) else f"other gray levels than {span[0]:g} to {span[1]:g}"

    return Case(name, f"{span[0]:g} to {span[1]:g}; no data is black", check)


def hot(array: NDArray[Any]) -> NDArray[Any]:
    """The array with five pixels of 60,000."""
    array.flat[:5] = 60_000
    return array


def patch(array: NDArray[Any], value: float) -> NDArray[Any]:
    """The array with a patch of one value."""
    array[:20, :20] = value
    return array


def eight_and_sixteen(folder: Path) -> str | None:
    """8-bit images stay as they are beside 16-bit ones, whatever the setting."""
    Image.fromarray(values(0, 100, np.uint8)).save(folder / "a.png")
    Image.fromarray(values(0, 4095, np.uint16)).save(folder / "b.png")
    _, levels, _ = read(str(folder), "0:4095")
    return difference([int(np.max(level)) for level in levels], [100, 255])


CONVENTIONS = [
    ("floats", np.float32, 0, 1, (0, 1)), ("floats", np.float32, 0, 1.04, (0, 1)), ("floats", np.float32, -1, 1, (-1, 1)),
    ("floats", np.float32, 0, 252, (0, 255)), ("32-bit integers", np.int32, 0, 252, (0, 255)),
    ("32-bit integers", np.int32, 0, 60_000, (0, 65535)),
]  # fmt: skip

CASES: list[Case] = [
    *(
        outlier_case(name, dtype, low, high, span, outlier)
        for name, dtype, low, high, span in CONVENTIONS
        for outlier in OUTLIERS
        if dtype == np.float32 or outlier in ("none", "256", "-9999")
    ),
    scale_case("8 bits", lambda: [values(0, 90, np.uint8)], {}),
    scale_case("16 bits", lambda: [values(0, 65535, np.uint16)], {"uint16": [0, 65535]}, ending=".png"),
    scale_case(
        "12 of 16 bits",
        lambda: [values(0, 4095, np.uint16)] * 3,
        {"uint16": [0, 65535]},
        "3 of 3 uint16 images",
        ending=".png",
    ),
    scale_case(
        "12 of 16 bits: the option that is named",
        lambda: [values(0, 4000, np.uint16)],
        {"uint16": [0, 65535]},
        "intensity 0:4095",
        ending=".png",
    ),
    scale_case(
        "12 of 16 bits, given", lambda: [values(0, 4095, np.uint16)], [0, 4095], ending=".png", setting="0:4095"
    ),
    scale_case("dtype", lambda: [values(0, 9, np.int32)], "dtype", "use less than a tenth", setting="dtype"),
    scale_case(
        "five hot pixels",
        lambda: [hot(values(0, 1, np.float32))] * 3,
        {"float": [0, 65535]},
        "most values are from 0 to 1, but black is 0 and white 65,535; give",
    ),
    scale_case(
        "no data without a tag",
        lambda: [patch(values(0, 1, np.float32), -9999)] * 3,
        {"float": [-10000, 10]},
        "most values are from 0 to 1, but black is -10,000",
    ),
    scale_case("12 of 16 bits, 0:1", lambda: [values(0, 4095, np.uint16)], [0, 1], "intensity 0:4095", setting="0:1"),
    scale_case(
        "the last image is bright",
        lambda: [*[values(0, 200, np.int32)] * 70, values(0, 60_000, np.int32)],
        {"int32": [0, 65535]},
        "int32 images",
    ),
    scale_case("CT", lambda: [values(-1000, 1500, np.int32)], {"int32": [-1000, 1500]}, "have no common scale"),
    scale_case("temperatures", lambda: [values(250, 310, np.float32)], {"float": [250, 310]}, "have no common scale"),
    scale_case("float64 .npy", lambda: [values(0, 1, np.float64)], {"float": [0, 1]}, ending=".npy"),
    scale_case("int16 .npy of 8 bits", lambda: [values(0, 250, np.int16)], {"int16": [0, 255]}, "0:255", ending=".npy"),
    scale_case(
        "types side by side",
        lambda: [values(0, 1, np.float32), values(0, 252, np.int32)],
        {"float": [0, 1], "int32": [0, 255]},
        "int32 values from 0 to 252",
    ),
    Case("8 and 16 bits side by side", "8 bits: 0 to 255, 16 bits: as given", eight_and_sixteen),
    tagged_case("SMin/MaxSampleValue", {340: (12, 0.0), 341: (12, 5000.0)}, values(0, 4900, np.float32), (0, 5000)),
    tagged_case("Min/MaxSampleValue", {280: (3, 100), 281: (3, 900)}, values(100, 900, np.uint16), (100, 900)),
    tagged_case("nodata -9999", {42113: (2, "-9999")}, patch(values(0, 1, np.float32), -9999), (0, 1)),
    tagged_case("nodata NaN", {42113: (2, "nan")}, patch(values(0, 1, np.float32), np.nan), (0, 1)),
    tagged_case("nodata 1e20", {42113: (2, "1e20")}, patch(values(0, 200, np.float32), 1e20), (0, 255)),
]
