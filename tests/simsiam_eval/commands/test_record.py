"""The record: strict JSON with metrics and provenance."""

import json
import time

import pytest

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.wording import percent


def _result(**changed):
    values = dict(
        task="bake",
        settings={"heat": 1.0},
        metrics={"top1": 0.5},
        provenance={"device": "cpu"},
        table=Table("t", ("a",), [["1"]]),
    )
    return Result(**(values | changed))


def _strict(text):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def test_record_has_metrics_and_provenance_and_no_table():
    record = _strict(_result(protocol="cake", files={"features": "x.h5"}).to_json())
    assert record["record"] == "simsiam-eval"
    assert record["record_version"] == 1
    assert (record["task"], record["protocol"]) == ("bake", "cake")
    assert record["metrics"] == {"top1": 0.5}
    assert record["provenance"] == {"device": "cpu"}
    assert record["settings"] == {"heat": 1.0}
    assert record["files"] == {"features": "x.h5"}
    assert "table" not in record


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_null_at_any_depth(value):
    record = _strict(_result(metrics={"loss": value, "by_k": {20: [1.0, (value, 2)]}}).to_json())
    assert record["metrics"] == {"loss": None, "by_k": {"20": [1.0, [None, 2]]}}


def test_record_keeps_text_of_any_script():
    assert "Löwe 狮" in _result(metrics={"class": "Löwe 狮"}).to_json()


def test_provenance_says_versions_machine_and_seconds():
    found = provenance(time.perf_counter() - 2, "cuda:0", checkpoint="c.pth")
    assert found["device"] == "cuda:0"
    assert found["checkpoint"] == "c.pth"
    assert 2 <= found["seconds"] < 10
    assert {"python", "torch", "faiss-cpu", "numpy"} <= set(found["versions"])
    assert found["finished"].endswith("Z")


def test_percent():
    assert percent(0.5) == "50.00"
    assert percent(0.5, (0.25, 1)) == "50.00 [25.00, 100.00]"
