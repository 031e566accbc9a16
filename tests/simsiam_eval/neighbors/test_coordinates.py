"""Maps of features: neighbors stay neighbors, whatever the method, and the rest is placed between its own."""

import numpy as np
import pytest

from simsiam_eval.errors import UsageError
from simsiam_eval.neighbors import coordinates as module
from simsiam_eval.neighbors.coordinates import coordinates
from simsiam_eval.neighbors.exact import search


@pytest.fixture(scope="module")
def groups():
    """(300,16) features in three directions of different lengths, and the direction of each."""
    rng = np.random.default_rng(0)
    of = rng.integers(0, 3, 300)
    features = (np.eye(3, 16)[of] + 0.1 * rng.normal(size=(300, 16))) * rng.uniform(0.5, 4, (300, 1))
    return features.astype(np.float32), of


def share_of_nearest_in_group(points, of):
    distances = np.square(points[:, None] - points[None]).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    return (of[distances.argmin(axis=1)] == of).mean()


@pytest.mark.parametrize("method", ["pca", "umap"])
def test_groups_stay_apart(groups, method):
    if method == "umap":
        pytest.importorskip("umap")
    features, of = groups
    made = coordinates(features, method)
    assert (made.points.shape, made.points.dtype, made.method, made.fitted) == ((300, 2), np.float32, method, 300)
    assert share_of_nearest_in_group(made.points, of) > 0.98
    np.testing.assert_array_equal(coordinates(features, method).points, made.points)


def test_rows_outside_of_the_sample_are_placed_in_their_group(groups):
    pytest.importorskip("umap")
    features, of = groups
    made = coordinates(features, "umap", sample=100)
    assert made.fitted == 100
    assert "200 were placed by theirs" in made.sentence()
    assert share_of_nearest_in_group(made.points, of) > 0.95


def test_neighbors_that_were_found_before_give_the_same_map(groups):
    pytest.importorskip("umap")
    features = groups[0]
    found = search(features, None, module.NEIGHBORS + 5)
    expected = coordinates(features, "umap")
    np.testing.assert_array_equal(coordinates(features, "umap", neighbors=lambda: found).points, expected.points)


def test_pca_is_that_of_scikit_learn_up_to_sign(groups):
    from sklearn.decomposition import PCA

    features, _ = groups
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = PCA(2).fit_transform(unit)
    points = coordinates(features, "pca").points
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_rows_and_equal_rows_have_a_map(count):
    for features in (np.ones((count, 4), np.float32), np.eye(count, 4, dtype=np.float32)):
        assert np.isfinite(coordinates(features, "pca").points).all()
    assert coordinates(np.ones((count, 1), np.float32), "pca").points.shape == (count, 2)


def test_umap_that_is_missing_is_one_sentence(groups, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(UsageError, match=r"simsiam-eval\[report\]"):
        coordinates(groups[0], "umap")
    assert module.NEIGHBORS == 15
