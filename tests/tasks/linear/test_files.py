import json

import pytest
from PIL import Image

from simsiam_eval.errors import DataError


def test_out_has_the_record_the_head_and_the_pictures(sets, tmp_path, run):
    out = tmp_path / "a" / "out"
    result = run(sets, out=out)
    names = ["confusion.json", "confusion.png", "curves.png", "head.safetensors", "record.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    record = json.loads((out / "record.json").read_text())
    assert record == json.loads(result.to_json())
    assert json.loads((out / "confusion.json").read_text())["matrix"] == record["metrics"]["confusion"]
    for name in ("confusion.png", "curves.png"):
        assert min(Image.open(out / name).size) > 100
    rows = run(sets, out=tmp_path / "many", trials=2)
    assert list(rows.files) == ["record"]
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "h.safetensors"):
        with pytest.raises(DataError, match="cannot be written"):
            run(sets, save_head=path)
    with pytest.raises(DataError, match="cannot be written"):
        run(sets, out=tmp_path / "file")
    run(sets, save_head=tmp_path / "new" / "h.safetensors")
    assert (tmp_path / "new" / "h.safetensors").exists()


def test_files_of_other_runs_in_the_folder_are_kept(sets, tmp_path, run):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "head.safetensors").write_text("another's")
    (out / "curves.png").write_text("another's")
    run(sets, out=out, trials=2)
    assert (out / "head.safetensors").read_text() == (out / "curves.png").read_text() == "another's"
    run(sets, out=out)
    assert (out / "confusion.json").exists()
    run(sets, out=out, trials=2)
    assert sorted(path.name for path in out.iterdir()) == ["record.json"]
