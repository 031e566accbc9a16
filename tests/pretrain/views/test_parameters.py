"""Drawn parameters against torchvision's distributions."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from pretrain.build import view_recipe
from pretrain.settings import PretrainSettings
from pretrain.views.parameters import BRIGHTNESS, CONTRAST, NOTHING, SATURATION, PerImage, boxes, draw, pack, unpack

OFF = {"crop_area": 1.0, "jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "flip": 0.0}


def recipe(**values):
    return view_recipe(PretrainSettings(data="digits", out="unused", **({"preset": "imagenet"} | values)))


# --- draws ---


@pytest.mark.parametrize("preset", ["imagenet", "cifar10", "digits"])
def test_a_draw_is_repeatable_from_the_generator(preset):
    first, again, other = (draw(recipe(preset=preset), np.random.default_rng(seed), 30) for seed in (5, 5, 6))
    for name, array in vars(first).items():
        assert np.array_equal(array, getattr(again, name)) or array is None
    assert not np.array_equal(first.factors, other.factors)
    assert len(first) == 30
    assert len(first[4:11]) == 7


def test_probabilities_and_ranges_of_the_references_views():
    views, rate = draw(recipe(), np.random.default_rng(1), 20000), 0.015  # some 4 standard deviations
    jittered = (views.order != NOTHING).all(axis=1)
    assert np.array_equal(jittered, (views.order != NOTHING).any(axis=1))
    assert jittered.mean() == pytest.approx(0.8, abs=rate)
    assert views.gray.mean() == pytest.approx(0.2, abs=rate)
    assert (views.blur > 0).mean() == pytest.approx(0.5, abs=rate)
    assert views.flip.mean() == pytest.approx(0.5, abs=rate)
    assert views.affine is None
    ranges = [(views.blur[views.blur > 0], 0.1, 2.0), (views.crops.area, 0.2, 1.0), (views.crops.offset, 0.0, 1.0)]
    ranges += [(factor, 0.6, 1.4) for factor in views.factors[:, :3].T]
    ranges += [(views.factors[:, 3], -0.1, 0.1), (np.log(views.crops.ratio), np.log(3 / 4), np.log(4 / 3))]
    for values, low, high in ranges:
        slack = 0.01 * (high - low)
        assert low - 1e-12 <= values.min() < low + slack
        assert high - slack < values.max() <= high + 1e-12
        assert np.quantile(values, [0.25, 0.5, 0.75]) == pytest.approx(np.linspace(low, high, 5)[1:4], abs=2 * slack)
    orders, counts = np.unique(views.order[jittered], axis=0, return_counts=True)
    assert len(orders) == 24  # every order, about as often
    assert counts.max() < 1.3 * counts.min()


def test_ranges_of_the_affine_transform():
    moving = recipe(preset="digits", rotate=10.0, shift=0.2, zoom=0.3, shear=5.0)
    affine = draw(moving, np.random.default_rng(1), 2000).affine
    low, high = np.array([-10, -0.2, -0.2, 0.7, -5]), np.array([10, 0.2, 0.2, 1.3, 5])
    slack = 0.02 * (high - low)
    assert (affine >= low).all() and (affine <= high).all()
    assert (affine.min(axis=0) < low + slack).all() and (affine.max(axis=0) > high - slack).all()


def test_off_is_off_and_always_is_always():
    off = draw(recipe(**OFF), np.random.default_rng(0), 200)
    assert off.crops is None and off.affine is None
    assert (off.order == NOTHING).all() and not off.gray.any() and not off.blur.any() and not off.flip.any()
    always = recipe(jitter=1.0, grayscale=1.0, blur=1.0, flip=1.0, shear=3.0)
    on = draw(always, np.random.default_rng(2), 200)
    assert (on.order != NOTHING).all() and on.gray.all() and on.blur.all() and on.flip.all()
    without_hue = draw(recipe(jitter=1.0, jitter_hue=0.0), np.random.default_rng(2), 200)
    assert (np.sort(without_hue.order, axis=1) == [BRIGHTNESS, CONTRAST, SATURATION, NOTHING]).all()


# --- boxes ---


@pytest.mark.parametrize(("width", "height", "smallest"), [(64, 48, 0.2), (32, 32, 0.2), (30, 90, 0.08), (50, 40, 0.9)])
def test_boxes_are_distributed_as_random_resized_crops(width, height, smallest):
    count = 2500
    ours = boxes(draw(recipe(crop_area=smallest), np.random.default_rng(3), count), height, width)
    torch.manual_seed(3)
    picture = Image.new("RGB", (width, height))
    scale, ratio = (smallest, 1.0), (3 / 4, 4 / 3)
    theirs = np.array([RandomResizedCrop.get_params(picture, scale, ratio) for _ in range(count)])
    top, left, h, w = ours.T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
    for of in (lambda b: b[:, 0], lambda b: b[:, 1], lambda b: b[:, 2] * b[:, 3], lambda b: np.log(b[:, 3] / b[:, 2])):
        a, b = of(ours), of(theirs)
        error = np.sqrt((a.var() + b.var()) / count)
        assert abs(a.mean() - b.mean()) < 5 * error
        for share in (0.1, 0.5, 0.9):  # the whole distribution, not its mean alone
            assert np.mean(a <= np.quantile(b, share)) == pytest.approx(np.mean(b <= np.quantile(b, share)), abs=0.06)


def test_a_box_is_the_same_alone_and_in_a_batch():
    parameters, rng = draw(recipe(), np.random.default_rng(4), 300), np.random.default_rng(6)
    heights, widths = rng.integers(1, 700, (2, 300))
    together = boxes(parameters, heights, widths)
    assert together.dtype == np.int64
    for row in range(300):
        alone = boxes(parameters[row : row + 1], int(heights[row]), int(widths[row]))
        assert np.array_equal(alone, together[row : row + 1])


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (997, 7), (3, 500), (1, 60), (60, 1), (1, 1)])
def test_where_no_box_fits_it_is_torchvisions_central_one(size):
    width, height = size
    expected = RandomResizedCrop.get_params(Image.new("RGB", size), (0.9, 1.0), (3 / 4, 4 / 3))
    found = boxes(draw(recipe(crop_area=0.9), np.random.default_rng(0), 5), height, width)
    assert found.tolist() == [list(expected)] * 5


def test_without_a_crop_the_box_is_the_image():
    whole = draw(recipe(**OFF), np.random.default_rng(0), 2)
    assert boxes(whole, np.array([3, 5]), np.array([4, 6])).tolist() == [[0, 0, 3, 4], [0, 0, 5, 6]]


def test_parameters_are_plain_arrays():
    parameters = draw(recipe(rotate=5.0), np.random.default_rng(4), 40)
    arrays = {**vars(parameters), **vars(parameters.crops)}
    del arrays["crops"]
    assert all(array is None or isinstance(array, np.ndarray) for array in arrays.values())


def test_packed_columns_keep_their_names():
    parameters = draw(recipe(rotate=5.0), np.random.default_rng(4), 40)
    image = unpack(torch.from_numpy(pack(parameters, 32)))
    assert sum(column.shape[1] for column in image) == pack(parameters, 32).shape[1]
    assert np.array_equal(image.takes_flip[:, 0] > 0, parameters.flip)
    assert np.array_equal(image.takes_gray[:, 0] > 0, parameters.gray)
    assert image.blur_taps.sum(dim=1).tolist() == pytest.approx([1.0] * 40)
    identity = unpack(torch.from_numpy(pack(draw(recipe(**OFF), np.random.default_rng(0), 1), 32)))
    assert identity.blend_self.tolist() == [[1.0] * 4]
    assert not any(column.any() for name, column in zip(PerImage._fields, identity, strict=True)
                   if name not in ("blend_self", "hue_shift", "blur_taps"))  # fmt: skip
