"""Every command still gives the numbers of records.json: features and weights bit for bit, where packages are the same.

Where a number is meant to change, run `python tests/golden/make.py` and review the diff of records.json.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
# Of floats with the same packages: what is float64 (ranks, logistic regression) differs between processors of Intel and
# AMD in its last digits, though the weights of a training do not.
EXACT = {"rel_tol": 1e-6, "abs_tol": 1e-9}
# With other versions of torch and the rest: rounding differs, and a short training multiplies it.
TOLERANCE = {"rel_tol": 0.1, "abs_tol": 0.1}
SHOWN = 15


@pytest.fixture(scope="module")
def golden():
    return json.loads((FOLDER / "records.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def current(tmp_path_factory):
    out = tmp_path_factory.mktemp("golden") / "records.json"
    made = subprocess.run([sys.executable, FOLDER / "make.py", out], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return json.loads(out.read_text(encoding="utf-8"))


def test_records_are_the_same(golden, current):
    exact = golden["versions"] == current["versions"]
    expected, got = (dict(leaves(content["records"])) for content in (golden, current))
    if message := differences(expected, got, equal if exact else close):
        pytest.fail(message, pytrace=False)


def test_hashes_are_the_same(golden, current):
    for name, version in golden["versions"].items():
        if (installed := current["versions"][name]) != version:
            pytest.skip(f"{name} {installed} is installed; the hashes are those of {name} {version}")
    if message := differences(golden["hashes"], current["hashes"], equal):
        pytest.fail(message, pytrace=False)


def test_differences_name_the_first_keys_with_both_values():
    expected = dict(leaves({"a": [1, 2.0], "b": {"c": "x", "sha256": "1"}, "d": []}))
    assert not differences(expected, dict(leaves({"a": [1, 2.0], "b": {"c": "x", "sha256": "1"}, "d": []})), equal)
    got = dict(leaves({"a": [1, 2.00001], "b": {"e": "x", "sha256": "2"}, "d": []}))
    message = differences(expected, got, equal)
    assert message.splitlines()[1:] == [
        "  a.1: 2.0, now 2.00001",
        "  b.c: 'x', now missing",
        "  b.e: missing, now 'x'",
        "  b.sha256: '1', now '2'",
    ]
    assert differences(expected, got, close).splitlines()[1:] == ["  b.c: 'x', now missing", "  b.e: missing, now 'x'"]


def leaves(value, path=()):
    """The keys and values of a nested record, flat: ("knn.metrics.top1", 0.5)."""
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, str(key)))
    else:
        yield ".".join(path), value


def equal(path, expected, got):
    if isinstance(expected, float) and isinstance(got, float):
        return math.isclose(expected, got, **EXACT)
    return type(expected) is type(got) and expected == got


def close(path, expected, got):
    """Equal but for rounding; hashes of weights and features cannot be."""
    if isinstance(expected, int | float) and isinstance(got, int | float):
        return math.isclose(expected, got, **TOLERANCE)
    return "sha256" in path or expected == got


def differences(expected, got, same):
    """One line for each of the first keys whose values differ, or an empty text."""
    lines = []
    for path in sorted(expected.keys() | got.keys()):
        if path not in got or path not in expected or not same(path, expected[path], got[path]):
            values = [repr(side[path]) if path in side else "missing" for side in (expected, got)]
            lines.append(f"  {path}: {values[0]}, now {values[1]}")
    more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return f"{len(lines)} values differ:\n" + "\n".join(lines[:SHOWN]) + more if lines else ""
