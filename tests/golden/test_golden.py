"""Every command reproduces records.json; features and weights are bitwise equal.

With other package versions or another processor, rounding differs and training amplifies the differences. In that case only
settings and metric names are compared, and the other tests are skipped.

If a number is supposed to change, run `python tests/golden/make.py` and review the diff of records.json.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
# Ranks and logistic regression are computed in float64, whose last digits depend on how threads and caches cut the sums.
EXACT = {"rel_tol": 1e-6, "abs_tol": 1e-9}
SHOWN = 15


@pytest.fixture(scope="module")
def golden():
    return json.loads((FOLDER / "records.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def current(tmp_path_factory):
    out = tmp_path_factory.mktemp("golden") / "records.json"
    # The records were made with the default number of threads.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, FOLDER / "make.py", out]
    made = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert made.returncode == 0, made.stderr
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.fixture
def same_machine(golden, current):
    """Skip the test if packages or the processor differ from those of the records."""
    for name, value in golden["made_with"].items():
        if (here := current["made_with"][name]) != value:
            pytest.skip(f"{name} is {here}; the records were made with {value}")


def test_settings_and_names_are_the_same(golden, current):
    expected, got = (dict(leaves(outline(content["records"]))) for content in (golden, current))
    if message := differences(expected, got):
        pytest.fail(message, pytrace=False)


@pytest.mark.usefixtures("same_machine")
def test_numbers_are_the_same(golden, current):
    expected, got = (dict(leaves(content["records"])) for content in (golden, current))
    if message := differences(expected, got):
        pytest.fail(message, pytrace=False)


@pytest.mark.usefixtures("same_machine")
def test_hashes_are_the_same(golden, current):
    if message := differences(golden["hashes"], current["hashes"]):
        pytest.fail(message, pytrace=False)


def test_differences_name_the_first_keys_with_both_values():
    expected = dict(leaves({"a": [1, 2.0], "b": {"c": "x", "sha256": "1"}, "d": []}))
    assert not differences(expected, dict(leaves({"a": [1, 2.0], "b": {"c": "x", "sha256": "1"}, "d": []})))
    got = dict(leaves({"a": [1, 2.00001], "b": {"e": "x", "sha256": "2"}, "d": []}))
    message = differences(expected, got)
    assert message.splitlines()[1:] == [
        "  a.1: 2.0, now 2.00001",
        "  b.c: 'x', now missing",
        "  b.e: missing, now 'x'",
        "  b.sha256: '1', now '2'",
    ]


def leaves(value, path=()):
    """Yield the flattened keys and values of a nested record, such as ("knn.metrics.top1", 0.5)."""
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, str(key)))
    else:
        yield ".".join(path), value


def outline(records):
    """The task, protocol, settings and metric names of each record."""
    return {
        name: {key: record[key] for key in ("task", "protocol", "settings")} | {"metrics": sorted(record["metrics"])}
        for name, record in records.items()
        if isinstance(record, dict) and "metrics" in record
    }


def equal(expected, got):
    if isinstance(expected, float) and isinstance(got, float):
        return math.isclose(expected, got, **EXACT)
    return type(expected) is type(got) and expected == got


def differences(expected, got):
    """A message that lists the first keys with different values; empty if there are none."""
    lines = []
    for path in sorted(expected.keys() | got.keys()):
        if path not in got or path not in expected or not equal(expected[path], got[path]):
            values = [repr(side[path]) if path in side else "missing" for side in (expected, got)]
            lines.append(f"  {path}: {values[0]}, now {values[1]}")
    more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return f"{len(lines)} values differ:\n" + "\n".join(lines[:SHOWN]) + more if lines else ""
