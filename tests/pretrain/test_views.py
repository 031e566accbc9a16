"""Drawn parameters against torchvision's distributions, applied ones against torchvision's operations."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as tv

from pretrain.recipe import PretrainSettings
from pretrain.views import View, Views, draw_box

PLAIN = View(box=None, affine=None, jitter=(), grey=False, blur=None, flip=False)


def views(**values):
    return Views(PretrainSettings(data="digits", out="unused", **({"preset": "imagenet", "image_size": 24} | values)))


@pytest.fixture(scope="module")
def image():
    """Smooth and coloured, so that no two operations give the same."""
    y, x = np.mgrid[0:30, 0:40]
    colours = np.stack([6 * x, 8 * y, 255 - 3 * x - 3 * y], axis=-1) + np.random.default_rng(0).integers(
        0, 15, (30, 40, 3)
    )
    return Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))


def small(image):
    return tv.resize(image, [24, 24], InterpolationMode.BILINEAR)


EXPECTED = {
    "nothing": ({}, small),
    "box": ({"box": (3, 5, 20, 11)}, lambda image: tv.resized_crop(image, 3, 5, 20, 11, [24, 24])),
    "affine": (
        {"affine": (20.0, 2.0, -3.0, 1.2, 7.0)},
        lambda image: tv.affine(small(image), 20.0, [2.0, -3.0], 1.2, [7.0, 0.0], InterpolationMode.BILINEAR),
    ),
    "brightness": ({"jitter": (("brightness", 1.3),)}, lambda image: tv.adjust_brightness(small(image), 1.3)),
    "contrast": ({"jitter": (("contrast", 0.7),)}, lambda image: tv.adjust_contrast(small(image), 0.7)),
    "saturation": ({"jitter": (("saturation", 0.6),)}, lambda image: tv.adjust_saturation(small(image), 0.6)),
    "hue": ({"jitter": (("hue", -0.08),)}, lambda image: tv.adjust_hue(small(image), -0.08)),
    "two jitters": (
        {"jitter": (("hue", 0.1), ("contrast", 1.4))},
        lambda image: tv.adjust_contrast(tv.adjust_hue(small(image), 0.1), 1.4),
    ),
    "jitters the other way round": (
        {"jitter": (("contrast", 1.4), ("hue", 0.1))},
        lambda image: tv.adjust_hue(tv.adjust_contrast(small(image), 1.4), 0.1),
    ),
    "grey": ({"grey": True}, lambda image: tv.rgb_to_grayscale(small(image), 3)),
    "blur": ({"blur": 1.5}, lambda image: small(image).filter(ImageFilter.GaussianBlur(1.5))),
    "flip": ({"flip": True}, lambda image: small(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "all": (
        {"box": (1, 2, 25, 30), "jitter": (("saturation", 1.3),), "grey": True, "blur": 0.8, "flip": True},
        lambda image: tv.hflip(
            tv.rgb_to_grayscale(tv.adjust_saturation(tv.resized_crop(image, 1, 2, 25, 30, [24, 24]), 1.3), 3).filter(
                ImageFilter.GaussianBlur(0.8)
            )
        ),
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_step_is_torchvisions(image, name):
    values, operation = EXPECTED[name]
    found = views().apply(image, dataclasses.replace(PLAIN, **values))
    assert found.dtype == torch.uint8
    assert found.shape == (3, 24, 24)
    expected = np.asarray(operation(image)).transpose(2, 0, 1)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert name == "nothing" or not np.array_equal(expected, np.asarray(small(image)).transpose(2, 0, 1))


@pytest.mark.parametrize("preset", ["imagenet", "cifar10", "digits"])
def test_a_draw_is_repeatable_from_the_generator(preset):
    drawer = views(preset=preset)
    rng, again = np.random.default_rng(5), np.random.default_rng(5)
    drawn = [drawer.draw(rng, 40, 30) for _ in range(20)]
    assert drawn == [drawer.draw(again, 40, 30) for _ in range(20)]
    assert len(set(drawn)) > 10  # and each is another


def test_drawn_views_can_be_applied(image):
    rng = np.random.default_rng(0)
    for preset in ("imagenet", "digits"):
        drawer = views(preset=preset)
        results = [drawer.apply(image, drawer.draw(rng, *image.size)) for _ in range(10)]
        assert all(one.shape == (3, 24, 24) for one in results)
        assert not torch.equal(results[0], results[1])


def test_probabilities_and_ranges_of_the_references_views():
    rng, drawer = np.random.default_rng(1), views()
    drawn = [drawer.draw(rng, 40, 30) for _ in range(4000)]
    rate = 0.03  # some 4 standard deviations
    assert np.mean([bool(view.jitter) for view in drawn]) == pytest.approx(0.8, abs=rate)
    assert np.mean([view.grey for view in drawn]) == pytest.approx(0.2, abs=rate)
    assert np.mean([view.blur is not None for view in drawn]) == pytest.approx(0.5, abs=rate)
    assert np.mean([view.flip for view in drawn]) == pytest.approx(0.5, abs=rate)
    assert all(view.affine is None for view in drawn)
    radii = [view.blur for view in drawn if view.blur is not None]
    assert 0.1 <= min(radii) < 0.15 and 1.95 < max(radii) <= 2
    assert np.mean(radii) == pytest.approx(1.05, abs=0.05)
    for name, low, high in [
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.6, 1.4),
        ("hue", -0.1, 0.1),
    ]:
        factors = [dict(view.jitter)[name] for view in drawn if view.jitter]
        slack = 0.01 * (high - low)
        assert low <= min(factors) < low + slack and high - slack < max(factors) <= high
        assert np.mean(factors) == pytest.approx((low + high) / 2, abs=3 * slack)
    orders = [tuple(name for name, _ in view.jitter) for view in drawn if view.jitter]
    counts = {order: orders.count(order) for order in set(orders)}
    assert len(counts) == 24  # every order, about as often
    assert max(counts.values()) < 2 * min(counts.values())


def test_ranges_of_the_affine_transform():
    rng = np.random.default_rng(1)
    drawer = views(preset="digits", image_size=10, rotate=10.0, shift=0.2, zoom=0.3, shear=5.0)
    drawn = np.array([drawer.draw(rng, 8, 8).affine for _ in range(2000)])
    low, high = np.array([-10, -2, -2, 0.7, -5]), np.array([10, 2, 2, 1.3, 5])
    slack = 0.02 * (high - low)
    assert (drawn >= low).all() and (drawn <= high).all()
    assert (drawn.min(axis=0) < low + slack).all() and (drawn.max(axis=0) > high - slack).all()


def test_off_is_off_and_always_is_always():
    rng = np.random.default_rng(2)
    off = views(jitter=0.0, greyscale=0.0, blur=0.0, flip=0.0, crop_area=1.0)
    assert {off.draw(rng, 40, 30) for _ in range(200)} == {PLAIN}
    on = views(jitter=1.0, greyscale=1.0, blur=1.0, flip=1.0, shear=3.0)
    drawn = [on.draw(rng, 40, 30) for _ in range(200)]
    assert all(view.jitter and view.grey and view.blur and view.flip and view.box and view.affine for view in drawn)


@pytest.mark.parametrize(("width", "height", "smallest"), [(64, 48, 0.2), (32, 32, 0.2), (30, 90, 0.08), (50, 40, 0.9)])
def test_boxes_are_distributed_as_random_resized_crops(width, height, smallest):
    rng, count = np.random.default_rng(3), 2500
    ours = np.array([draw_box(rng, width, height, smallest) for _ in range(count)])
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


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (997, 7), (3, 500), (1, 60), (60, 1)])
def test_where_no_box_fits_it_is_torchvisions_central_one(size):
    picture = Image.new("RGB", size)
    assert draw_box(np.random.default_rng(0), *size, 0.9) == tuple(
        RandomResizedCrop.get_params(picture, (0.9, 1.0), (3 / 4, 4 / 3))
    )


def test_one_pixel_is_its_own_box():
    assert draw_box(np.random.default_rng(0), 1, 1, 0.2) == (0, 0, 1, 1)
