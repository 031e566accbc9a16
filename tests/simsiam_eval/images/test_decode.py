"""Every stored form of an image becomes the RGB image that a viewer shows; a damaged one has a reason."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from simsiam_eval.images import decode as images
from simsiam_eval.images.decode import image_size, open_image
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.images.opened import UnreadableImage

RED_GREEN = np.array([[[255, 0, 0], [0, 255, 0]]], dtype=np.uint8)


def stored(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data):
    image = open_image(data)
    pixels = image.pixels()
    assert pixels.dtype == np.uint8
    assert pixels.shape == (image.height, image.width, 3)
    assert np.array_equal(np.asarray(image), pixels)
    return pixels


def noise(height=23, width=34):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


JPEGS = {
    "4:2:0": stored(noise(), "JPEG", quality=90),
    "4:4:4": stored(noise(), "JPEG", subsampling=0),
    "progressive": stored(noise(), "JPEG", progressive=True),
    "stored as RGB": stored(noise(), "JPEG", keep_rgb=True),
    "gray": stored(noise().convert("L"), "JPEG"),
    "CMYK": stored(noise().convert("CMYK"), "JPEG"),
    "several pictures": stored(noise(), "MPO", save_all=True, append_images=[noise(10, 10)]),
}


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_colors_are_kept(mode):
    assert np.array_equal(decoded(stored(Image.fromarray(RED_GREEN).convert(mode))), RED_GREEN)


def test_cmyk():
    pixels = decoded(stored(Image.fromarray(RED_GREEN).resize((16, 16), 0).convert("CMYK"), "TIFF"))
    assert np.abs(pixels[0, 0].astype(int) - RED_GREEN[0, 0]).max() <= 1


def test_gray_has_three_equal_channels():
    pixels = decoded(stored(Image.fromarray(np.array([[7, 200]], dtype=np.uint8))))
    assert pixels.tolist() == [[[7] * 3, [200] * 3]]


def test_sixteen_bits_are_scaled_not_clipped():
    pixels = decoded(stored(Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))))
    assert pixels[0, :, 0].tolist() == [0, 128, 255]


def test_transparency_becomes_white():
    pixels = decoded(stored(Image.new("RGBA", (2, 1), (0, 0, 0, 0))))
    assert pixels.tolist() == [[[255, 255, 255]] * 2]


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert np.array_equal(decoded(stored(Image.fromarray(RED_GREEN), exif=exif)), RED_GREEN[:, ::-1])


@pytest.mark.parametrize("form", JPEGS)
def test_jpegs_equal_pillow(form):
    with Image.open(io.BytesIO(JPEGS[form])) as image:
        expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(decoded(JPEGS[form]) - expected).max() <= 1


@pytest.mark.parametrize("form", JPEGS)
@pytest.mark.parametrize(("max_factor", "factor"), [(0.3, 1), (1.99, 1), (2, 2), (7.9, 4), (100, 8)])
def test_reduced_jpeg_is_the_mean_of_its_blocks(form, max_factor, factor):
    image = open_image(JPEGS[form])
    pixels, used = image.reduced(max_factor)
    assert used == factor
    whole = image.pixels().astype(float)
    rows, columns = image.height // factor, image.width // factor
    assert pixels.shape == (-(-image.height // factor), -(-image.width // factor), 3)
    blocks = whole[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, 3).mean(axis=(1, 3))
    assert (
        np.abs(pixels[:rows, :columns] - blocks).mean() < 4
    )  # gray levels; the colors of 4:2:0 lie between the pixels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_only_jpegs_are_reduced(kind):
    pixels, factor = open_image(stored(noise(), kind)).reduced(8)
    assert factor == 1
    assert pixels.shape == (23, 34, 3)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("factor", [1, 2])
def test_size_is_known_before_decoding_in_any_orientation(orientation, factor):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = stored(noise(), "JPEG", exif=exif)
    image = open_image(file)
    pixels, used = image.reduced(factor)
    assert used == factor
    assert pixels.shape == (-(-image.height // factor), -(-image.width // factor), 3)
    if factor == 1:
        assert np.array_equal(pixels, ImageOps.exif_transpose(Image.open(io.BytesIO(file))))


def test_pillow_alone_gives_equal_pixels(monkeypatch):
    fast = {form: decoded(file) for form, file in JPEGS.items()}
    monkeypatch.setattr(images, "simplejpeg", None)
    assert all(np.abs(fast[form] - decoded(file).astype(int)).max() <= 1 for form, file in JPEGS.items())


@pytest.mark.parametrize("form", JPEGS)
def test_truncated_jpeg_is_unreadable(form):
    length = JPEGS[form].index(b"\xff\xd9")  # of the first picture
    for end in [*range(0, length, 61), length]:
        with pytest.raises(UnreadableImage):
            open_image(JPEGS[form][:end]).pixels()
        with pytest.raises(UnreadableImage):
            open_image(JPEGS[form][:end]).reduced(2)


def test_damaged_jpegs_are_treated_as_by_pillow(monkeypatch):
    def read(file):
        try:
            return open_image(file).pixels()
        except UnreadableImage as error:
            return str(error)

    rng = np.random.default_rng(0)
    damaged = []
    for _ in range(300):
        file = bytearray(JPEGS["4:2:0"])
        file[rng.integers(len(file))] = rng.integers(256)
        damaged.append(bytes(file))
    results = [read(file) for file in damaged]
    assert {type(result) for result in results} == {str, np.ndarray}
    monkeypatch.setattr(images, "simplejpeg", None)
    assert all(np.array_equal(ours, read(file)) for ours, file in zip(results, damaged, strict=True))


@pytest.mark.parametrize("content", [b"", b"text"])
def test_file_that_is_not_an_image_is_unreadable(content):
    with pytest.raises(UnreadableImage, match="not an image"):
        open_image(content)


def test_missing_file_and_bomb(tmp_path, monkeypatch):
    with pytest.raises(UnreadableImage, match="no such file"):
        open_image(tmp_path / "none.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(UnreadableImage, match="too many pixels"):
        open_image(stored(Image.new("RGB", (3, 1))))  # more than twice the limit, as Pillow has it


def test_transparent_gray_value_becomes_white():
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(file, "PNG", transparency=0)
    assert decoded(file.getvalue())[0, :, 0].tolist() == [255, 128, 255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_size_in_the_header_is_that_of_the_image(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise().save(tmp_path / "a", kind, exif=exif)
    opened = open_image(tmp_path / "a")
    assert image_size(tmp_path / "a") == (opened.width, opened.height)
    whole = (tmp_path / "a").read_bytes()
    if kind == "JPEG":  # the header alone is enough
        (tmp_path / "a").write_bytes(whole[:-20])
        assert image_size(tmp_path / "a") == (opened.width, opened.height)


def test_files_without_a_size(tmp_path):
    for content, message in ((None, "no such file"), (b"", "not an image"), (b"none", "not an image")):
        if content is not None:
            (tmp_path / "a").write_bytes(content)
        with pytest.raises(UnreadableImage, match=message):
            image_size(tmp_path / "a")
    with pytest.raises(UnreadableImage, match=r"not a regular file|is a directory"):
        image_size(tmp_path)


def test_lab_becomes_rgb():
    from PIL import ImageCms

    colors = Image.fromarray(RED_GREEN).resize((16, 16), Image.Resampling.NEAREST)
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    pixels = decoded(stored(ImageCms.profileToProfile(colors, srgb, lab, outputMode="LAB"), "TIFF"))
    assert np.abs(pixels[0, 0].astype(int) - RED_GREEN[0, 0]).max() <= 16  # CIELAB of 8 bits is coarse
    assert np.abs(pixels[0, -1].astype(int) - RED_GREEN[0, 1]).max() <= 16  # CIELAB of 8 bits is coarse


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_of_several_frames_is_read(kind):
    frames = [Image.new("RGB", (16, 16), (value, value, value)) for value in (20, 200)]
    pixels = decoded(stored(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert np.abs(pixels.astype(int) - 20).max() <= 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308])
def test_odd_values_and_damage_print_nothing(value, capfd):
    values = np.linspace(0, 1, 256).reshape(16, 16)
    values[3, 3] = value
    buffer = io.BytesIO()
    np.save(buffer, values)
    image = open_image(buffer.getvalue()).scaled(Intensity.parse("0:1"))
    if np.isfinite(value):
        assert image.pixels()[3, 3, 0] == 255
    else:
        with pytest.raises(UnreadableImage, match="NaN or infinite"):
            image.pixels()
    palette = Image.fromarray(RED_GREEN).quantize(2)
    decoded(stored(palette, transparency=bytes([0, 128])))
    tiff = stored(Image.fromarray(values.astype(np.float32)), "TIFF")
    for end in range(8, len(tiff), 97):
        with pytest.raises(UnreadableImage):
            open_image(tiff[:end]).scaled(Intensity.parse("0:1")).pixels()
    assert capfd.readouterr() == ("", "")
