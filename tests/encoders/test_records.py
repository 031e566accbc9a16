"""What is recognized in files with the recorded keys and shapes of real toolkits' files."""

import pytest

from simsiam_eval.encoders import checkpoint
from tests.encoders.outcomes import FAULT, outcome_of
from tests.encoders.records import LARGEST, RECORDS, read_record, read_tables, write
from tests.encoders.skeleton import Rebuilder


@pytest.fixture(scope="module")
def rebuilder():
    return Rebuilder(read_tables())


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda path: path.stem)
def test_record(path, rebuilder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "weights_sha256", lambda *_: "")  # takes longer than all the rest
    case, files = read_record(path)
    assert case.name == path.stem
    assert path.stat().st_size <= LARGEST
    write(files, tmp_path, rebuilder)
    outcome = outcome_of(case, tmp_path, lambda choice: (None, checkpoint.inspect_checkpoint(choice)))
    assert outcome.result != FAULT, outcome.faults
