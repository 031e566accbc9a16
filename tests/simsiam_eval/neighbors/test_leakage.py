import numpy as np
import pytest

from simsiam_eval.neighbors import leakage
from simsiam_eval.neighbors.leakage import measure_leakage, nearest_similarities


def test_accuracy_with_and_without_leaked_images():
    nearest = np.array([0.999, 0.5, 0.995, 0.98], dtype=np.float32)
    correct = np.array([True, True, True, False])
    leaked = measure_leakage(nearest, correct, 0.99)
    record = leaked.to_dict()
    assert (record["images"], record["of"], record["top1"], record["top1_without"]) == (2, 4, 1, 0.5)
    assert record["top1_without_interval"][0] < 0.5 < record["top1_without_interval"][1]
    assert "2 of 4 test images have a training image" in leaked.warning()
    assert "top-1 without them is 50.00 %" in leaked.warning()
    assert measure_leakage(nearest, correct, 1.0) is None


def test_a_threshold_that_nearly_all_images_reach_is_questioned():
    leaked = measure_leakage(np.array([0.999, 0.5, 0.995, 0.98], np.float32), np.ones(4, bool), 0.1)
    assert "top1_without" not in leaked.to_dict()
    assert "too many matches" in leaked.warning()
    assert "try a higher --leakage" in leaked.warning()


def test_all_images_are_exact_copies():
    leaked = measure_leakage(np.full(4, 1 - 3e-7, dtype=np.float32), np.ones(4, bool), 1.0)
    assert leaked.copies == leaked.images == 4
    assert "none are left to compute the accuracy without them" in leaked.warning("the accuracy")


def test_a_sample_is_named():
    leaked = measure_leakage(np.array([1, 0.2], np.float32), np.ones(2, bool), 0.99, drawn_from=7)
    assert leaked.to_dict()["drawn_from"] == 7
    assert "1 of 2 queries drawn from 7 have a gallery image" in leaked.warning("recall@1", "queries", "gallery image")


def test_a_search_that_would_take_long_looks_at_a_sample(monkeypatch):
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(50, 4)), rng.normal(size=(30, 4))
    rows, nearest = nearest_similarities(bank, queries, seed=0)
    assert rows.tolist() == list(range(30))
    monkeypatch.setattr(leakage, "_MULTIPLICATIONS", 10 * 50 * 4)
    some, of_some = nearest_similarities(bank, queries, seed=0)
    assert len(some) == 10
    assert (np.diff(some) > 0).all()
    assert of_some == pytest.approx(nearest[some])


def test_a_single_row_has_no_neighbor():
    rows, nearest = nearest_similarities(np.ones((1, 3)), None, seed=0)
    assert (rows.tolist(), nearest.tolist()) == ([0], [-1])
