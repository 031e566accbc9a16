"""The one search of the page finds what a search for each section would find."""

import numpy as np
import pytest
import torch

from simsiam_eval.neighbors.exact import search
from simsiam_eval.neighbors.suspects import neighbor_suspects
from tasks.report.neighbors import ImageNeighbors

CPU = torch.device("cpu")


def made(voters, labeled, own=None, **options):
    """Features of 90 images, the last 5 of them copies of the first, and their neighbors."""
    features = np.random.default_rng(0).normal(size=(90, 6)).astype(np.float32)
    features[-5:] = features[:5]
    own = np.full(90, -1) if own is None else own
    return features, ImageNeighbors(features, voters, labeled, own, 7, CPU, **options)


def agrees(found, similarities, rows):
    np.testing.assert_allclose(found.similarities[:, : rows.shape[1]], similarities, atol=1e-6)
    np.testing.assert_array_equal(found.numbers[:, : rows.shape[1]], rows)


GROUPS = {
    "all vote": (np.arange(90), np.full(90, True)),
    "no image has a label": (np.arange(90), np.full(90, False)),
    "the labeled ones vote": (np.arange(0, 90, 2), np.arange(90) % 2 == 0),
    "a training set votes": (np.arange(40, 90), np.full(90, True)),
    "a training set votes, and test images lack labels": (np.arange(40, 90), np.arange(90) >= 20),
}


@pytest.mark.parametrize("case", GROUPS)
def test_neighbors_among_voters_all_and_labeled_images(case):
    voters, labeled = GROUPS[case]
    features, near = made(voters, labeled)
    agrees(near.of_all, *search(features, None, 15))
    similarities, rows = search(features[voters], None, 15)
    of_voters = type(near.voting)(near.voting.similarities[voters], near.voting.numbers[voters])
    agrees(of_voters, similarities, voters[rows])
    others = np.setdiff1d(np.arange(90), voters)
    if len(others):
        similarities, rows = search(features[voters], features[others], 15)
        of_others = type(near.voting)(near.voting.similarities[others], near.voting.numbers[others])
        agrees(of_others, similarities, voters[rows])
    if labeled.any():
        agrees(near.of_labeled(), *search(features[labeled], None, 15))


@pytest.mark.parametrize("deep_rows", [np.arange(40), np.array([0, 3, 39])])
def test_more_neighbors_of_some_images(deep_rows):
    voters = np.arange(40, 90)
    features, near = made(voters, np.full(90, True), deep_rows=deep_rows, deep_k=30)
    similarities, rows = search(features[voters], features[deep_rows], 30)
    agrees(near.deep, similarities, voters[rows])
    assert near.deep.numbers.shape == (len(deep_rows), 30)
    agrees(near.of_all, *search(features, None, 15))


def test_the_same_image_in_the_training_set_does_not_vote_and_is_a_neighbor():
    own = np.full(90, -1)
    own[:5] = np.arange(85, 90)
    _, near = made(np.arange(40, 90), np.full(90, True), own, deep_rows=np.arange(40), deep_k=49)
    assert not (near.voting.numbers[:5] == own[:5, None]).any()
    assert not (near.deep.numbers[:5] == own[:5, None]).any()
    np.testing.assert_array_equal(near.of_all.numbers[:5, 0], own[:5])


def test_few_images_have_few_neighbors():
    features = np.eye(3, dtype=np.float32)
    near = ImageNeighbors(features, np.array([1, 2]), np.array([False, True, True]), np.full(3, -1), 7, CPU)
    assert near.voting.numbers.tolist() == [[1, 2], [2, -1], [1, -1]]
    assert near.of_all.numbers.tolist() == [[1, 2], [0, 2], [0, 1]]
    alone = ImageNeighbors(features[:1], np.array([0]), np.array([True]), np.full(1, -1), 7, CPU)
    assert alone.voting.numbers.shape == alone.of_all.numbers.shape == (1, 0)


@pytest.mark.parametrize("unlabeled", [0, 20])
def test_suspects_of_found_neighbors_are_those_of_a_search(unlabeled):
    labels = np.random.default_rng(1).integers(0, 3, 90)
    labels[:unlabeled] = -1
    features, near = made(np.arange(40, 90), labels >= 0)
    found = neighbor_suspects(
        features, labels, k=7, neighbors=[near.of_all.block()], labeled_neighbors=lambda: [near.of_labeled().block()]
    )
    searched = neighbor_suspects(features, labels, k=7)
    np.testing.assert_array_equal(found.labels.order(), searched.labels.order())
    np.testing.assert_array_equal(found.labels.suggested, searched.labels.suggested)
    np.testing.assert_allclose(found.outliers.distance, searched.outliers.distance, atol=1e-6)
    np.testing.assert_array_equal(found.nearest, searched.nearest)
