import h5py
import numpy as np
import pytest
import torch

from simsiam_eval.features.writer import write_features
from simsiam_eval.metrics.spread import effective_rank, explained_variance_auc


def write(path, features):
    source = {"spec": "nowhere", "fingerprint": path.stem, "class_names": None}
    ids = [str(row) for row in range(len(features))]
    write_features(path, features, np.full(len(features), -1), ids, encoder={"arch": "made"}, source=source)
    return path


def test_is_what_the_measures_say_and_needs_no_labels(record, tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    spoilt = np.vstack([rows, np.full((1, 8), np.nan, np.float32)])
    flat = np.outer(np.arange(1, 61), np.ones(8)).astype(np.float32)
    found = record("rank", write(tmp_path / "a.h5", spoilt), write(tmp_path / "b.h5", flat))["metrics"]
    assert found["images"] == 60
    assert found["rankme"] == pytest.approx(effective_rank(torch.from_numpy(rows)).item())
    assert found["explained_variance_auc"] == pytest.approx(explained_variance_auc(torch.from_numpy(rows)).item())
    assert found["rank_limit"] == 8
    assert found["alignment"] is None
    one_direction = found["files"][1]
    assert one_direction["rankme"] == pytest.approx(1, abs=1e-3)
    assert one_direction["uniformity"] == pytest.approx(0, abs=1e-5)


def test_alignment_is_the_mean_over_pairs_of_views(record, tmp_path):
    rng = np.random.default_rng(1)
    path = write(tmp_path / "a.h5", rng.normal(size=(12, 4)).astype(np.float32))
    views = rng.normal(size=(12, 3, 4)).astype(np.float32)
    with h5py.File(path, "r+") as file:
        file["views"] = views
    unit = views / np.linalg.norm(views, axis=2, keepdims=True)
    pairs = [((unit[:, a] - unit[:, b]) ** 2).sum(axis=1).mean() for a in range(3) for b in range(a)]
    assert record("rank", path)["metrics"]["alignment"] == pytest.approx(np.mean(pairs), rel=1e-5)


def test_rows_without_a_feature_are_left_out_and_said(call, tmp_path):
    rows = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    rows[2:4] = np.nan
    path, other = (write(tmp_path / name, rows) for name in ("a.h5", "b.h5"))
    for command in (
        ("rank", path),
        ("duplicates", path),
        ("compare", path, other),
        ("retrieval", "search", path, "--gallery", path),
    ):
        assert "a.h5: 2 unreadable images skipped" in call(*command).stderr


def test_one_image_is_rejected(call, tmp_path):
    assert "only one image" in call("rank", write(tmp_path / "a.h5", np.ones((1, 3), np.float32))).stderr
    assert call("rank").exit_code == 2
