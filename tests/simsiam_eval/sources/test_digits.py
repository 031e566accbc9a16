"""scikit-learn's handwritten digits."""

from PIL import Image

from simsiam_eval.sources.opening import open_source


def test_splits_are_disjoint_and_complete():
    parts = [open_source(f"digits#{split}") for split in ("train", "test")]
    assert [len(part) for part in parts] == [1197, 600]
    ids = {part.id(row) for part in parts for row in range(len(part))}
    assert len(ids) == len(open_source("digits")) == 1797
    assert parts[0].image(0).pixels().shape == (8, 8, 3)


def test_digits_beside_a_folder_of_that_name(tmp_path, monkeypatch, capsys):
    (tmp_path / "digits" / "a").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "digits" / "a" / "x.png")
    monkeypatch.chdir(tmp_path)
    assert len(open_source("digits")) == 1797
    assert "write ./digits" in capsys.readouterr().err
    assert len(open_source("./digits")) == 1
    assert capsys.readouterr().err == ""
