import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.loader import Loader
from pretrain.recipe import PretrainSettings
from simsiam_eval.errors import DataError
from simsiam_eval.sources import ArraySource, PathSource


def settings(**values):
    return PretrainSettings(
        **({"data": "x", "out": "x", "preset": "cifar10", "image_size": 8, "batch_size": 4, "workers": 0} | values)
    )


UNCHANGED = {"crop_area": 1.0, "jitter": 0.0, "greyscale": 0.0, "flip": 0.0}


@pytest.fixture
def source():
    """Eleven images of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
    return ArraySource("noise", pixels, np.full(11, -1), None, [f"image {row}" for row in range(11)])


def grey_levels(batches):
    """The row of every image, where row r is a plain square of grey level r."""
    return [int(one) for batch in batches for one in batch.view1[:, 0, 0, 0]]


@pytest.fixture
def numbered():
    pixels = np.arange(11, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    return ArraySource("numbered", pixels, np.full(11, -1), None, [str(row) for row in range(11)])


def same(first, second):
    return torch.equal(first.view1, second.view1) and torch.equal(first.view2, second.view2)


def test_batches_do_not_depend_on_the_number_of_workers(source):
    alone, helped = (Loader(source, settings(workers=workers), False) for workers in (0, 2))
    for epoch in (0, 1, 0):
        ours, theirs = list(alone.epoch(epoch)), list(helped.epoch(epoch))
        assert len(ours) == len(theirs) == 2
        assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))


def test_an_epoch_does_not_depend_on_those_before_it_nor_on_global_seeds(source):
    whole = Loader(source, settings(), False)
    list(whole.epoch(0))
    next(whole.epoch(1))
    torch.manual_seed(7)
    np.random.seed(7)
    again = list(Loader(source, settings(), False).epoch(2))
    assert all(same(a, b) for a, b in zip(whole.epoch(2), again, strict=True))


def test_views_differ_from_each_other_and_between_epochs_and_seeds(source):
    loader = Loader(source, settings(batch_size=11), False)
    (first,), (second,) = loader.epoch(0), loader.epoch(1)
    assert first.view1.shape == first.view2.shape == (11, 3, 8, 8)
    assert first.view1.dtype == torch.uint8
    assert not (first.view1 == first.view2).flatten(1).all(dim=1).any()
    (other,) = Loader(source, settings(batch_size=11, seed=1), False).epoch(0)

    def pictures(batch):
        return {one.numpy().tobytes() for one in batch.view1}

    assert not pictures(first) & pictures(second)
    assert not pictures(first) & pictures(other)


def test_every_epoch_has_another_order_and_drops_the_incomplete_batch(numbered):
    loader = Loader(numbered, settings(**UNCHANGED), False)
    orders = []
    for epoch in range(12):
        batches = list(loader.epoch(epoch))
        assert len(loader) == len(batches) == 2
        assert [len(batch.view1) for batch in batches] == [4, 4]
        assert all(torch.equal(batch.view1, batch.view2) and not batch.unreadable for batch in batches)
        orders.append(tuple(grey_levels(batches)))
    assert all(len(set(order)) == 8 for order in orders)  # no image twice in an epoch
    assert len(set(orders)) == 12
    assert set().union(*orders) == set(range(11))  # and none is always the one dropped


def test_as_many_images_as_a_batch_are_one_batch(numbered):
    (batch,) = Loader(numbered, settings(batch_size=11, **UNCHANGED), False).epoch(0)
    assert sorted(grey_levels([batch])) == list(range(11))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_makes_its_batch_smaller_and_is_reported(tmp_path, workers):
    paths = [tmp_path / f"{row}.png" for row in range(6)]
    for row, path in enumerate(paths):
        Image.new("RGB", (8, 8), (row, row, row)).save(path)
    paths[2].write_bytes(paths[2].read_bytes()[:30])
    paths[4].unlink()
    loader = Loader(PathSource(paths), settings(batch_size=3, workers=workers, **UNCHANGED), False)
    batches = list(loader.epoch(0))
    assert len(batches) == 2
    reasons = {row: reason for batch in batches for row, reason in batch.unreadable.items()}
    assert set(reasons) == {2, 4}
    assert reasons[4] == "no such file"
    assert reasons[2]
    for batch in batches:
        assert len(batch.view1) == len(batch.view2) == 3 - len(batch.unreadable)
    assert sorted(grey_levels(batches)) == [0, 1, 3, 5]


def test_a_batch_of_unreadable_images_is_empty(tmp_path):
    loader = Loader(PathSource([tmp_path / "a.png", tmp_path / "b.png"]), settings(batch_size=2), False)
    (batch,) = loader.epoch(0)
    assert len(batch.view1) == len(batch.view2) == 0
    assert set(batch.unreadable) == {0, 1}


def test_too_few_images_for_a_batch_are_refused(source):
    with pytest.raises(DataError, match=r"noise has 11 images.*12.*--batch-size"):
        Loader(source, settings(batch_size=12), False)
