"""The record: strict JSON with metrics and provenance."""

import json
import pickle
import time

import pytest

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.errors import spelled_as
from simsiam_eval.wording import Measurement, percent


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
    def reject(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=reject)


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


def test_a_result_shows_its_table():
    table = Table("Top-1 <b>", ("file", "images", "rank"), [["a<b", "3", "-"], ["c", "4", "1.5"]], ["a & b"])
    result = _result(table=table)
    assert "Top-1 <b>" in repr(result) and "a<b" in repr(result)
    page = result._repr_html_()
    assert "<p>Top-1 &lt;b&gt;</p>" in page and "<td>a&lt;b</td>" in page and "<th>rank</th>" in page
    assert "a &amp; b" in page
    assert "<th>" not in _result(table=Table("t", ("", ""), [["a", "b"]]))._repr_html_()


def test_a_result_as_a_frame_has_numbers_where_all_cells_are():
    table = Table("t", ("file", "images", "rank", "note"), [["a", "3", "-", "9 [8, 10]"], ["b", "4", "1.5", "-"]])
    frame = _result(table=table).to_frame()
    assert list(frame["file"]) == ["a", "b"] and list(frame["images"]) == [3, 4]
    assert frame["rank"].isna().tolist() == [True, False] and frame["rank"][1] == 1.5
    assert list(frame["note"]) == ["9 [8, 10]", "-"]
    assert _result(table=Table("t", ("a",), [])).to_frame().shape == (0, 1)


def test_measurements_become_columns_of_numbers():
    rows = [["a", percent(0.654321, (0.6, 0.7)), "-"], ["b", "-", Measurement("5 ± 1", 5, std=1.0)], ["c", "7", "8"]]
    frame = _result(table=Table("t", ("file", "top-1 % [95 %]", "AP"), rows)).to_frame()
    assert list(frame) == ["file", "top-1 %", "top-1 % low", "top-1 % high", "AP", "AP std"]
    assert frame["top-1 %"].dropna().tolist() == pytest.approx([65.4321, 7])
    assert frame["top-1 % low"].dropna().tolist() == [60]
    assert frame["AP"].dropna().tolist() == [5, 8] and frame["AP std"].dropna().tolist() == [1]
    assert all(kind.kind in "fi" for kind in frame.dtypes.iloc[1:])
    copy = pickle.loads(pickle.dumps(rows[0][1]))
    assert (copy, copy.value, copy.parts) == (rows[0][1], rows[0][1].value, rows[0][1].parts)


def test_notes_name_arguments_outside_the_command_line():
    result = _result(table=Table("t", ("a",), [["1"]], ["Recall of --index."]))
    with spelled_as("arguments"):
        assert "Recall of index." in repr(result) and "Recall of index." in result._repr_html_()
    with spelled_as("options"):
        assert "Recall of --index." in repr(result)


def test_control_characters_of_names_do_not_reach_the_terminal():
    table = Table("of \x1b[1ma", ("class",), [("b\x07",)], ["c\x9b is worst"])
    shown = str(table)
    assert not set(shown) & {"\x1b", "\x07", "\x9b"}
    assert all(part in shown for part in ("of \\x1b[1ma", "b\\x07", "c\\x9b is worst"))
