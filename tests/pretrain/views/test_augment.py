"""Views for given parameters against torchvision's operations on PIL images.

Tolerances are in gray levels: the largest and the mean difference over the pixels of noise and of photographs.
"""

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode, functional as tv

from pretrain.build import view_recipe
from pretrain.settings import PretrainSettings
from pretrain.views import augment as views
from pretrain.views.augment import Views, _compiled_color_steps, _crop, crop_resident
from pretrain.views.parameters import BRIGHTNESS, CONTRAST, HUE, NOTHING, SATURATION, boxes, draw, pack
from pretrain.views.steps import shift_hue
from simsiam_eval.images.crops import crop_image
from simsiam_eval.images.decode import open_image

BILINEAR = InterpolationMode.BILINEAR
JITTER = {
    BRIGHTNESS: tv.adjust_brightness,
    CONTRAST: tv.adjust_contrast,
    SATURATION: tv.adjust_saturation,
    HUE: tv.adjust_hue,
    NOTHING: lambda image, _: image,
}
LEVELS = Views(mean=(0, 0, 0), std=(1 / 255,) * 3)  # whose views are in gray levels


def recipe(**values):
    return view_recipe(PretrainSettings(data="digits", out="unused", **({"preset": "imagenet"} | values)))


def unchanged(count):
    off = recipe(crop_area=1.0, jitter=0.0, grayscale=0.0, blur=0.0, flip=0.0)
    return draw(off, np.random.default_rng(0), count)


def jittered(count, order, factors):
    """The given operations in this order, on every image."""
    order = np.array([*order, *[NOTHING] * (4 - len(order))])
    values = np.array([factors.get(kind, 1.0 if kind != HUE else 0.0) for kind in range(4)])
    return replace(unchanged(count), order=np.tile(order, (count, 1)), factors=np.tile(values, (count, 1)))


def tensors(images):
    return torch.stack([tv.pil_to_tensor(image) for image in images])


def differences(parameters, images, operation):
    """|our views - the operation's images|, (B,3,S,S)."""
    expected = tensors([operation(image) for image in images]).numpy().astype(float)
    return np.abs(LEVELS.augment(tensors(images), parameters).numpy() - expected)


def assert_close(found, largest, mean):
    assert found.max() <= largest + 1e-3
    assert found.mean() <= mean


@pytest.fixture(scope="module")
def photos():
    return [Image.fromarray(photo) for photo in load_sample_images().images]


@pytest.fixture(scope="module", params=[32, 77])  # a blur's single block; several blocks, an odd side
def images(request, photos):
    side = request.param
    noise = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    noise[1] = 255 * (noise[1] > 128)  # full colors, black, white
    crops = [tv.resized_crop(photo, 40, 80, 300, 420, [side, side]) for photo in photos]
    return [*crops, *(Image.fromarray(one) for one in noise)]


# --- each operation, for given parameters ---


def test_nothing_is_normalization_alone(images):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = Views(mean, std).augment(tensors(images), unchanged(len(images)))
    assert found.dtype == torch.float32
    expected = torch.stack([tv.normalize(tv.to_tensor(image), mean, std) for image in images])
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("kind", "factors", "largest", "mean"),
    [
        (BRIGHTNESS, (0.6, 0.987, 1.4), 1, 0.001),
        (CONTRAST, (0.613, 0.987, 1.4), 1, 0.001),
        (SATURATION, (0.613, 0.987, 1.4), 1, 0.001),
        # Where a hue is a whole number of Pillow's 1/255 turns, rounding decides between two: six levels at full chroma.
        (HUE, (-0.1, 0.0, 0.037, 0.1, 0.5), 6, 0.01),
    ],
)
def test_each_jitter(images, kind, factors, largest, mean):
    for factor in factors:
        parameters = jittered(len(images), [kind], {kind: factor})
        assert_close(differences(parameters, images, lambda image, by=factor: JITTER[kind](image, by)), largest, mean)


def test_every_order_of_the_jitter_at_once(images):
    orders = np.array(list(itertools.permutations(range(4))))
    factors = np.random.default_rng(1).uniform([0.6, 0.6, 0.6, -0.1], [1.4, 1.4, 1.4, 0.1], (24, 4))
    for image in images:
        expected = []
        for order, values in zip(orders, factors, strict=True):
            changed = image
            for kind in order:
                changed = JITTER[kind](changed, values[kind])
            expected.append(changed)
        found = LEVELS.augment(tensors([image] * 24), replace(unchanged(24), order=orders, factors=factors))
        # What follows a hue that fell to the other side can double it.
        assert_close(np.abs(found.numpy() - tensors(expected).numpy()), 12, 0.05)


def test_grayscale_is_exact(images):
    gray = replace(unchanged(len(images)), gray=np.ones(len(images), bool))
    assert differences(gray, images, lambda image: tv.rgb_to_grayscale(image, 3)).max() < 1e-3


def test_flip_is_exact(images):
    flip = replace(unchanged(len(images)), flip=np.ones(len(images), bool))
    assert differences(flip, images, tv.hflip).max() < 1e-3


@pytest.mark.parametrize("radius", [0.1, 0.5, 1.0, 1.3, 2.0])
def test_blur_up_to_the_edges(images, radius):
    """Pillow rounds to whole levels six times on the way, which the weights of a small radius do not survive."""
    parameters = replace(unchanged(len(images)), blur=np.full(len(images), radius))
    found = differences(parameters, images, lambda image: image.filter(ImageFilter.GaussianBlur(radius)))
    assert_close(found[:2], 2.6, 0.6)  # photographs
    assert_close(found[2:], 3, 1.3)  # noise


@pytest.mark.parametrize("side", [1, 2, 5, 44, 45, 63])
def test_blur_of_any_side(side):
    image = Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8))
    found = differences(
        replace(unchanged(1), blur=np.array([2.0])), [image], lambda image: image.filter(ImageFilter.GaussianBlur(2.0))
    )
    assert_close(found, 2.5, 0.5)


@pytest.mark.parametrize(
    ("degrees", "right", "down", "scale", "shear"),
    [(0, 0, 0, 1, 0), (10, 0.1, -0.05, 0.9, 5), (-40, 0, 0.02, 1.3, -20), (180, 0.0137, 0, 1.1, 60)],
)
def test_affine(images, degrees, right, down, scale, shear):
    side = images[0].width
    values = np.tile([float(degrees), right, down, scale, shear], (len(images), 1))

    def operation(image):
        shift = [right * side, down * side]
        return tv.affine(image, float(degrees), shift, scale, [float(shear), 0.0], BILINEAR)

    found = differences(replace(unchanged(len(images)), affine=values), images, operation)
    assert_close(found, 1, 0.05)


def test_the_whole_chain(images):
    changing = recipe(crop_area=1.0, rotate=10.0, zoom=0.1)
    for image in images[:2]:
        parameters = draw(changing, np.random.default_rng(3), 60)
        expected = []
        for row in range(60):
            degrees, right, down, scale, shear = parameters.affine[row].tolist()
            view = tv.affine(image, degrees, [right, down], scale, [shear, 0.0], BILINEAR)
            for kind in parameters.order[row]:
                view = JITTER[kind](view, parameters.factors[row, kind % 4])
            view = tv.rgb_to_grayscale(view, 3) if parameters.gray[row] else view
            view = view.filter(ImageFilter.GaussianBlur(float(parameters.blur[row])))
            expected.append(tv.hflip(view) if parameters.flip[row] else view)
        found = LEVELS.augment(tensors([image] * 60), parameters)
        assert_close(np.abs(found.numpy() - tensors(expected).numpy()), 12, 0.25)


# --- crops ---

BOXES = [
    (0, 0, 90, 120),
    (0, 0, 20, 15),
    (70, 105, 20, 15),
    (5, 0, 85, 64),
    (31, 17, 33, 44),
    (10, 10, 32, 32),
    (3, 4, 1, 2),
]


@pytest.mark.parametrize("size", [10, 32, 65])
def test_crops_are_pillows(photos, size):
    pictures = [photo.crop((100, 100, 220, 190)) for photo in photos]  # 120 x 90
    expected = tensors([tv.resized_crop(one, *box, [size, size], BILINEAR) for one in pictures for box in BOXES]).int()
    alone = torch.stack([crop_image(np.array(one), box, size) for one in pictures for box in BOXES])
    assert alone.dtype == torch.uint8
    assert alone.is_contiguous()
    assert_close((alone.int() - expected).abs().float(), 1, 0.03)
    rows = torch.tensor([0, 1]).repeat_interleave(len(BOXES))
    resident = crop_resident(tensors(pictures), rows, np.array(BOXES * 2), size)
    assert torch.equal(resident, resident.round())
    assert_close((resident - expected).abs(), 1, 0.15)


# Boxes of a 640 x 427 photograph decoded at a half and a quarter: on and off the scaled image's own pixels, at its edges.
SCALED_BOXES = [(0, 0, 427, 640), (13, 27, 300, 400), (1, 1, 257, 301), (170, 331, 257, 309), (100, 100, 256, 256)]


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("box", SCALED_BOXES)
def test_crops_of_a_smaller_decoding_are_those_of_the_whole(photos, box, factor):
    """To some gray levels in the mean, at twice the pixels that the crop has."""
    for photo in photos:
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=90)
        image = open_image(file.getvalue())
        pixels, was = image.reduced(factor)
        assert was == factor
        side = min(box[2:]) // (2 * factor)
        whole = crop_image(image.pixels(), box, side).float()
        apart = (crop_image(pixels, box, side, factor) - whole).abs().mean()
        assert apart < 2


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (26, 28, 1, 1), (25, 27, 2, 2), (0, 0, 27, 29)])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_box_lies_in_every_smaller_decoding(box, factor):
    pixels = np.zeros((-(-27 // factor), -(-29 // factor), 3), np.uint8)
    assert crop_image(pixels, box, 5, factor).shape == (3, 5, 5)


# --- batches ---


def drawn(count=40, **values):
    return draw(recipe(rotate=5.0, **values), np.random.default_rng(4), count)


@pytest.fixture(scope="module")
def crops():
    return torch.from_numpy(np.random.default_rng(5).integers(0, 256, (40, 3, 50, 50), dtype=np.uint8))


def test_views_do_not_depend_on_the_batch(crops):
    parameters = drawn()
    whole = LEVELS.augment(crops, parameters)
    halves = torch.cat([LEVELS.augment(crops[part], parameters[part]) for part in (slice(0, 17), slice(17, 40))])
    alone = torch.cat([LEVELS.augment(crops[i : i + 1], parameters[i : i + 1]) for i in range(40)])
    picked = LEVELS.augment(crops[[7, 3]], parameters[np.array([7, 3])])
    for other in (halves, alone):
        torch.testing.assert_close(other, whole, atol=1e-3, rtol=0)
    torch.testing.assert_close(picked, whole[[7, 3]], atol=1e-3, rtol=0)


def test_bytes_and_floats_give_the_same_views_and_are_left_as_they_are(crops):
    kept, floats = crops.clone(), crops.float()
    assert torch.equal(LEVELS.augment(crops, drawn()), LEVELS.augment(floats, drawn()))
    assert torch.equal(crops, kept)
    assert torch.equal(floats, kept.float())
    strided = crops.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(LEVELS.augment(strided, drawn()), LEVELS.augment(crops, drawn()))


def test_an_autocast_around_them_changes_nothing(crops):
    rows, found = torch.arange(40), boxes(drawn(), 50, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        views, resident = LEVELS.augment(crops, drawn()), crop_resident(crops, rows, found, 20)
    assert torch.equal(views, LEVELS.augment(crops, drawn()))
    assert torch.equal(resident, crop_resident(crops, rows, found, 20))


def test_parameters_of_another_batch_are_rejected(crops):
    with pytest.raises(ValueError, match="got 3 crops but parameters for 40 views"):
        LEVELS.augment(crops[:3], drawn())


def test_no_images_are_no_views():
    assert LEVELS.augment(torch.zeros(0, 3, 8, 8), drawn(0)).shape == (0, 3, 8, 8)
    none = crop_resident(
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.long), np.zeros((0, 4), int), 8
    )
    assert none.shape == (0, 3, 8, 8)


@pytest.mark.parametrize("wrong", [1 - 2.4e-7, 1, 1 + 2.4e-7])
def test_the_hue_does_not_hang_on_a_divisions_last_bit(monkeypatch, wrong):
    """A GPU's compiled one is not exact."""
    level = torch.arange(0, 256, 3.0)
    colors = torch.stack([one.flatten() for one in torch.meshgrid(level, level, level, indexing="ij")])[None]
    expected = shift_hue(colors, torch.tensor([[13.0]]))
    monkeypatch.setattr(torch.Tensor, "div_", lambda self, other: self.mul_(other.reciprocal()).mul_(wrong))
    assert torch.equal(shift_hue(colors, torch.tensor([[13.0]])), expected)


@pytest.mark.parametrize("preset", ["imagenet", "cifar10", "digits"])
def test_what_is_compiled_is_the_same(crops, preset, monkeypatch):
    """Every image takes every step then: where a step is not an image's, it changes nothing."""
    given = []
    monkeypatch.setattr(views, "_compile", lambda function: given.append(function) or function)
    parameters = draw(recipe(preset=preset), np.random.default_rng(3), 40)
    assert torch.equal(Views((0.5,) * 3, (0.2,) * 3, compiled=True).augment(crops, parameters),
                       Views((0.5,) * 3, (0.2,) * 3).augment(crops, parameters))  # fmt: skip
    where = crops, torch.arange(40), boxes(parameters, 50, 50), 20
    assert torch.equal(crop_resident(*where, compiled=True), crop_resident(*where))
    assert given == [_compiled_color_steps, _crop]


def test_what_is_compiled_is_one_graph(crops):
    """Nothing in it depends on a value. (The eager backend needs no C++ compiler.)"""
    packed = torch.from_numpy(pack(drawn(), 50))
    cut = crops, torch.arange(40), torch.from_numpy(boxes(drawn(), 50, 50)), 20
    for function, given in ((_compiled_color_steps, (crops.float(), packed)), (_crop, cut)):
        compiled = torch.compile(function, backend="eager", fullgraph=True)
        assert torch.equal(compiled(*given), function(*given))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_views_on_a_gpu_are_the_same(crops, compiled):
    there = Views(LEVELS.mean, LEVELS.std, compiled)
    found = (there.augment(crops.cuda(), drawn()).cpu() - LEVELS.augment(crops, drawn())).abs()
    assert found.max() <= 12
    assert (found > 0.5).float().mean() < 1e-3
