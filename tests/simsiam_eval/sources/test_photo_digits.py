"""Handwritten digits on photographs."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from simsiam_eval.errors import UsageError
from simsiam_eval.sources import photo_digits
from simsiam_eval.sources.opening import open_source
from simsiam_eval.sources.photo_digits import PARTS, SIDE, SPLITS, STRIP

FINGERPRINTS = {  # their beginnings
    "unlabeled": "2016a12a1d5086e0",
    "train": "f90e6539224f001d",
    "val": "c4c65b03467f3f51",
    "test": "b2f0aff3bde22cde",
}


@pytest.fixture(scope="module")
def splits():
    return {split: open_source(f"photo-digits#{split}") for split in SPLITS}


def _digits(source):
    """The digit of each image."""
    return [int(name.split("/")[1].split("-")[0]) for name in source.ids]


def test_splits(splits):
    sizes = {"unlabeled": 3300, "train": 400, "val": 297, "test": 400}
    assert {split: len(source) for split, source in splits.items()} == sizes
    assert [name[-2:] for name in splits["unlabeled"].ids[:4]] == ["-0", "-1", "-2", "-0"]
    for source in splits.values():
        assert source.image(0).pixels().shape == (SIDE, SIDE, 3)
        assert source.class_names == tuple("0123456789")
    assert (splits["unlabeled"].labels == -1).all()
    for split in ("train", "val", "test"):
        assert np.bincount(splits[split].labels).min() > 0.09 * len(splits[split])


def test_train_is_a_part_of_the_unlabeled_images(splits):
    images = dict(zip(splits["unlabeled"].ids, splits["unlabeled"].pixels, strict=True))
    assert len({image.tobytes() for image in images.values()}) == 3300
    train = splits["train"]
    assert len(set(_digits(train))) == 400
    assert all(np.array_equal(images[name], image) for name, image in zip(train.ids, train.pixels, strict=True))


def test_other_splits_share_no_digit_and_no_background(splits):
    digits = [set(_digits(splits[split])) for split in PARTS]
    assert sum(map(len, digits)) == len(set.union(*digits)) == 1797
    strips = [set(part.strips) for part in PARTS.values()]
    assert sum(map(len, strips)) == len(set.union(*strips)) == 640 // STRIP


def test_backgrounds_stay_in_their_strips():
    photos = np.broadcast_to(np.arange(640)[:, None] // STRIP, (2, 427, 640, 3)).astype(np.uint8)
    for seed, part in enumerate(PARTS.values()):
        draws = photo_digits._Draws(photo_digits._uniforms(seed, 300, photo_digits._Draws.COLUMNS))
        squares = photo_digits._squares(photos, part.strips, draws)
        assert set(np.unique(squares)) == set(part.strips)


def test_labels_are_those_of_the_digits(splits):
    digits = open_source("digits")
    for split in ("train", "val", "test"):
        assert np.array_equal(splits[split].labels, digits.labels[_digits(splits[split])])


def test_images_are_the_same_on_every_machine(splits):
    assert splits["test"].fingerprint() == open_source("photo-digits", "test").fingerprint()
    assert {split: source.fingerprint()[:16] for split, source in splits.items()} == FINGERPRINTS


def test_uniforms_are_the_raw_bits_of_pcg64():
    assert photo_digits._uniforms(0, 3).tolist() == [0.6369616873214543, 0.2697867137638703, 0.04097352393619469]


def test_a_digit_fills_its_square():
    """An opaque digit is opaque in its square, as soft at the edges as a stored pixel is large, and 0 elsewhere."""
    draws = photo_digits._Draws(photo_digits._uniforms(0, 50, photo_digits._Draws.COLUMNS))
    drawn = photo_digits._drawn(np.ones((50, 8, 8)), draws)
    assert drawn.shape == (50, SIDE, SIDE)
    assert drawn.min() == 0
    assert drawn.max() == 1
    sides = np.round(np.sqrt((drawn >= 0.5).sum(axis=(1, 2))))  # corners are cut
    smallest, largest = photo_digits._DIGIT_SIDES
    assert smallest <= sides.min() < sides.max() <= largest


def test_gray_levels_of_squares():
    """Standard deviations of gray levels are those of NumPy."""
    squares = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    squares[2] = 9
    gray = squares @ np.array([0.299, 0.587, 0.114])
    deviations = photo_digits._gray_deviation(squares)
    assert deviations.shape == (3, 1, 1, 1)
    assert deviations.ravel() == pytest.approx(np.maximum(gray.std(axis=(1, 2)), 0.5))
    assert photo_digits._gray(squares.astype(float))[..., 0] == pytest.approx(gray)


def test_colors_mislead_a_nearest_neighbor(splits):
    """Most digits are recognized from gray levels of equal mean, but not from colors."""

    def accuracy(features):
        train, val = splits["train"], splits["val"]
        x, y = (features(source.pixels.astype(np.float32)).reshape(len(source), -1) for source in (train, val))
        return KNeighborsClassifier(20, metric="cosine").fit(x, train.labels).score(y, val.labels)

    def gray(images):
        levels = photo_digits._gray(images)
        return levels - levels.mean(axis=(1, 2), keepdims=True)

    assert accuracy(lambda images: images) < 0.5
    assert accuracy(gray) > 0.75


@pytest.mark.parametrize(
    "spec, message",
    [
        ("photo-digits#extra", "the split must be unlabeled, train, val or test, got 'extra'"),
        ("photo-digits", "the splits cannot be joined; choose one of unlabeled, train, val, test"),
        ("photo-digits#size=3", "unknown option"),
        ("photo-digits:folder", "photo-digits takes no path; expected photo-digits, photo-digits#train"),
    ],
)
def test_other_specs_are_rejected(spec, message):
    with pytest.raises(UsageError, match=message):
        open_source(spec)
