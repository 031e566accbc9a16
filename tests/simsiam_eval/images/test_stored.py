"""Images as they are stored: any number of channels, 16 bits, floats."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.images.channels import ChannelSelection
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.images.stored import OtherChannels, StoredImage, read_stored, selected

RNG = np.random.default_rng(0)
BANDS = RNG.integers(0, 65536, (40, 50, 4), dtype=np.uint16)


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def deep_png(pixels):
    """A PNG of 16 bits per channel, which Pillow cannot write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = pixels.shape
    color = {2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(array, **options):
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def read(data, channels, intensity="auto", **options):
    levels = Intensity.parse(intensity) or Intensity()
    return selected(read_stored(data), ChannelSelection.parse(channels, **options), levels)


def test_sixteen_bit_gray_keeps_every_bit():
    gray = BANDS[:, :, 0]
    for form in ("PNG", "TIFF"):
        pixels = read(encoded(Image.fromarray(gray), form), "1")
        assert pixels.dtype == np.float32
        np.testing.assert_array_equal(pixels[:, :, 0], gray.astype(np.float32) / np.float32(65535))
    scaled = read(encoded(Image.fromarray(gray), "PNG"), "1", "0:10000")
    np.testing.assert_array_equal(scaled[:, :, 0], gray.astype(np.float32) / np.float32(10_000))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bit_color_png_keeps_every_bit(channels):
    pytest.importorskip("imagecodecs")
    pixels = BANDS[:, :, :channels]
    np.testing.assert_array_equal(read_stored(deep_png(pixels)).pixels, pixels)


def test_eight_bit_files_have_their_own_channels():
    pixels = (BANDS >> 8).astype(np.uint8)
    for mode, count in (("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)):
        image = Image.fromarray(pixels[:, :, :count].squeeze(), mode)
        np.testing.assert_array_equal(read_stored(encoded(image, "PNG")).pixels, pixels[:, :, :count])
    palette = Image.fromarray(pixels[:, :, :3]).quantize(9)
    np.testing.assert_array_equal(read_stored(encoded(palette, "PNG")).pixels, np.array(palette.convert("RGB")))
    assert read_stored(encoded(Image.new("1", (8, 8), 1), "PNG")).pixels.max() == 255


def test_indices_choose_order_and_repeat():
    stored = StoredImage(BANDS, "last")
    for text, indices in (("3,0", [3, 0]), ("1-3", [1, 2, 3]), ("2-2", [2]), ("0,0,0", [0, 0, 0])):
        expected = BANDS[:, :, indices].astype(np.float32) / np.float32(65535)
        np.testing.assert_array_equal(selected(stored, ChannelSelection.parse(text), Intensity()), expected)
    assert ChannelSelection.parse("1-3") == ChannelSelection.parse("1, 2,3")
    recorded = ChannelSelection.parse("2-2", "first")
    assert ChannelSelection.from_dict(recorded.to_dict()) == recorded


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1,", "3-1", "1.5", "0,x", "99999999", "0-99999999"])
def test_channels_that_cannot_be_read(text):
    with pytest.raises(UsageError, match="--channels"):
        ChannelSelection.parse(text)


@pytest.mark.parametrize(
    ("shape", "channels", "axis", "expected"),
    [
        ((4, 40, 50), "4", None, "first"),
        ((40, 50, 4), "4", None, "last"),
        ((4, 40, 4), "4", None, None),
        ((4, 40, 4), "4", "first", "first"),
        ((4, 40, 4), "4", "last", "last"),
        ((13, 64, 64), "0,1", None, "first"),
        ((28, 28, 13), "0,1", None, None),
        ((64, 64, 200), "0,1", None, None),
        ((64, 64, 200), "200", None, "last"),
    ],
)
def test_layout_of_arrays_is_said_or_clear(shape, channels, axis, expected):
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    if expected is None:
        with pytest.raises(OtherChannels, match=r"can be \(H,W,C\) or \(C,H,W\); say with --channel-axis"):
            read(npy(array), channels, channel_axis=axis)
        return
    pixels = array if expected == "last" else array.transpose(1, 2, 0)
    chosen = pixels[:, :, : ChannelSelection.parse(channels).number]
    np.testing.assert_array_equal(read(npy(array), channels, channel_axis=axis), chosen / np.float32(255))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int16, np.int32, np.uint32, np.int8])
def test_values_of_other_types_need_black_and_white(dtype):
    array = np.full((40, 50, 4), 3, dtype)
    with pytest.raises(UnreadableImage, match=f"{np.dtype(dtype)}, and which of them are black and white is unknown"):
        read(npy(array), "4")
    np.testing.assert_array_equal(read(npy(array), "4", "0:6"), np.full((40, 50, 4), 0.5, np.float32))
    np.testing.assert_array_equal(read(npy(array), "4", "2:2.5"), np.full((40, 50, 4), 2, np.float32))  # not clipped


@pytest.mark.parametrize(
    ("data", "channels", "message"),
    [
        (npy(BANDS), "0,9", "has 4 channels .* but --channels 0,9 needs 10"),
        (encoded(Image.fromarray(BANDS[:, :, 0]), "PNG"), "4", "has 1 channel .* but --channels expects 4"),
        (npy(np.zeros((2, 2, 2, 2), np.uint8)), "4", "an array of shape"),
        (npy(np.zeros((40, 50), bool)), "1", "the values are bool"),
        (npy(np.array([{}]), allow_pickle=True), "4", "allow_pickle=False"),
        (npy(np.full((4, 4), np.nan)), "1", "NaN or infinite"),
        (encoded(Image.new("CMYK", (8, 8)), "TIFF"), "4", "CMYK|tifffile|SEPARATED"),
        (encoded(Image.new("CMYK", (8, 8)), "JPEG"), "4", "CMYK has no channels"),
        (b"P6\n2 2\n65535\n" + bytes(24), "3", "PPM"),
        (npy(BANDS)[:500], "4", "ValueError|truncated|cannot"),
        (b"", "4", "empty"),
    ],
)
def test_images_that_do_not_fit_are_explained(data, channels, message):
    with pytest.raises((UnreadableImage, DataError), match=message):
        read(data, channels, "0:1")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"photometric": "minisblack", "planarconfig": "separate"},
        {"ome": True, "metadata": {"axes": "CYX"}},
        {"imagej": True, "metadata": {"axes": "CYX"}},
        {"photometric": "minisblack", "metadata": None},
        {"photometric": "minisblack", "planarconfig": "separate", "compression": "zlib"},
    ],
)
def test_tiff_of_bands_in_planes_or_pages(options):
    np.testing.assert_array_equal(read(tiff(BANDS.transpose(2, 0, 1), **options), "4"), BANDS / np.float32(65535))


@pytest.mark.parametrize("count", [5, 13])
def test_tiff_of_interleaved_bands(count):
    pixels = RNG.integers(0, 65536, (40, 50, count), dtype=np.uint16)
    interleaved = tiff(pixels, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_stored(interleaved).pixels, pixels)
    # Without these options tifffile writes 40 pages of 50 x 13 pixels, and does not say which axis is which.
    np.testing.assert_array_equal(read(tiff(pixels), str(count)), pixels / np.float32(65535))


def test_tiff_of_slices_is_no_image():
    with pytest.raises(UnreadableImage, match="has 3 slices of a volume"):
        read(tiff(np.zeros((3, 4, 9, 9), np.uint16), imagej=True, metadata={"axes": "ZCYX"}), "4")
    with pytest.raises(UnreadableImage, match="MINISWHITE"):
        read(tiff(BANDS[:, :, 0], photometric="miniswhite"), "1")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_is_turned_as_pillow_turns_it(orientation):
    pytest.importorskip("tifffile")
    from simsiam_eval.images import tiff as module

    image = Image.fromarray((BANDS[:5, :7, 0] >> 8).astype(np.uint8))
    exif = image.getexif()
    exif[0x0112] = orientation
    data = encoded(image, "TIFF", exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.array(ImageOps.exif_transpose(opened))
    for read_pixels in (module._by_pillow, module._by_tifffile):
        np.testing.assert_array_equal(read_pixels(data)[0][:, :, 0], expected)


def test_missing_packages_are_named(monkeypatch):
    for name in ("tifffile", "imagecodecs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match=r"require tifffile: pip install \"simsiam-eval\[tiff\]\""):
        read(deep_tiff(), "3")
    with pytest.raises(DataError, match=r"require imagecodecs: pip install \"simsiam-eval\[tiff\]\""):
        read(deep_png(BANDS), "4")


def test_tiff_of_sixteen_bit_color_keeps_every_bit():
    pytest.importorskip("tifffile")
    assert read_stored(deep_tiff()).pixels.tolist() == [[[1, 2, 3]]]


def deep_tiff():
    """A TIFF of 16-bit RGB, 1 x 1 pixel, written by hand: tifffile may be missing."""
    entries = [
        (256, 3, 1, 1),
        (257, 3, 1, 1),
        (258, 3, 3, 110),
        (262, 3, 1, 2),
        (273, 4, 1, 116),
        (277, 3, 1, 3),
        (279, 4, 1, 6),
    ]
    body = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    body += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return body.ljust(110, b"\0") + struct.pack("<3H", 16, 16, 16) + struct.pack("<3H", 1, 2, 3)
