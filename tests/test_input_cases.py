"""Inputs that are easy to misread have their right value: the cases of benchmarks/inputs.py."""

import pytest
from input_cases.case import Case
from inputs import cases, modules

CASES = [pytest.param(case, id=f"{kind}: {case.name}") for kind in modules() for case in cases(kind)]


@pytest.mark.parametrize("case", CASES)
def test_input_is_read_as_expected(case: Case, tmp_path, monkeypatch):
    monkeypatch.setenv("SIMSIAM_EVAL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "input"
    folder.mkdir()
    wrong = case.check(folder)
    assert wrong is None, f"{wrong} (expected: {case.expected})"


def test_every_case_has_its_own_name():
    """A row of benchmarks/results/inputs.md."""
    for kind in modules():
        names = [case.name for case in cases(kind)]
        assert len(set(names)) == len(names), kind
