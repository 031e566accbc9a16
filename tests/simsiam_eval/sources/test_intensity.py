"""Black and white are decided once for a source, from what its files say or from a sample of its images."""

import h5py
import numpy as np
import pytest
from PIL import Image

from simsiam_eval.errors import DataError
from simsiam_eval.images.channels import ChannelSelection
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.runtime import notes
from simsiam_eval.sources.intensity import report_range, source_intensity
from simsiam_eval.sources.opening import open_source

SIDE = 48
RAMP = np.tile(np.linspace(0, 1, SIDE), (SIDE, 1))  # 0 to 1


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.setattr(notes, "_said", set())


@pytest.fixture
def source_of(tmp_path):
    """A folder of images, from arrays."""

    def make(*arrays, ending=".tif", **options):
        for number, array in enumerate(arrays):
            Image.fromarray(array).save(tmp_path / f"{number:03}{ending}", **options)
        return open_source(str(tmp_path))

    return make


def levels(source, intensity, row=0):
    """The gray levels (H,W) of an image."""
    pixels = source.opened(row, None, intensity).pixels()
    assert pixels.dtype == np.uint8
    assert pixels.shape == (SIDE, SIDE, 3)
    return pixels[:, :, 0].astype(int)


def ramp(low, high, dtype, outlier=None):
    values = (low + RAMP * (high - low)).astype(dtype)
    if outlier is not None:
        values[3, 3] = outlier
    return values


CONVENTIONS = [
    (0, 1, np.float32, (0, 1)),
    (0, 1.03, np.float32, (0, 1)),  # the overshoot of an interpolation
    (-1, 1, np.float32, (-1, 1)),
    (0, 252, np.float32, (0, 255)),
    (0, 252, np.int32, (0, 255)),
    (0, 252, np.uint16, (0, 255)),
    (0, 60_000, np.int32, (0, 65535)),
    (0, 60_000, np.float32, (0, 65535)),
    (0, 60_000, np.uint16, (0, 65535)),
]


@pytest.mark.parametrize("outlier", [None, 256, 1e20, -9999, np.inf, np.nan])
@pytest.mark.parametrize(("low", "high", "dtype", "expected"), CONVENTIONS)
def test_one_value_changes_neither_the_range_nor_the_rest(source_of, low, high, dtype, expected, outlier):
    if outlier is not None and dtype != np.float32 and not (np.isfinite(outlier) and np.iinfo(dtype).min <= outlier):
        return
    if outlier is not None and dtype != np.float32 and outlier > np.iinfo(dtype).max:
        return
    clean = ramp(low, high, dtype)
    source = source_of(clean, ramp(low, high, dtype, outlier), clean)
    intensity = source_intensity(source, "auto")
    assert intensity.range_of(source.wide(0).value_type) == expected
    black, white = expected
    shown = np.floor((np.clip(clean.astype(float), black, white) - black) / (white - black) * 255 + 0.5)
    np.testing.assert_array_equal(levels(source, intensity), shown)
    if outlier is None or np.isfinite(outlier):
        rest = levels(source, intensity, 1) == levels(source, intensity)
        assert (~rest).sum() <= 1
    else:
        with pytest.raises(UnreadableImage, match="NaN or infinite"):
            levels(source, intensity, 1)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(-1000, 1500, np.int32), (250, 310, np.float32), (0, 20, np.float32), (5, 1e9, np.float32)],
)
def test_values_without_a_common_scale_get_percentiles_and_a_sentence(source_of, capsys, low, high, dtype):
    values = ramp(low, high, dtype)
    source = source_of(values)
    intensity = source_intensity(source, "auto")
    assert intensity == source_intensity(source, "percentile")
    black, white = intensity.range_of(source.wide(0).value_type)
    assert [black, white] == pytest.approx(np.percentile(values, (0.5, 99.5)).tolist(), abs=2e-3 * (high - low))
    shown = levels(source, intensity)
    assert shown.min() == 0
    assert shown.max() == 255
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "have no common scale; black is" in message
    assert f"from {low:,} to" in message


def test_flat_images_are_a_warning_with_numbers_once(source_of, capsys):
    source = source_of(*[ramp(0, 4095, np.uint16)] * 3, ending=".png")
    for _ in range(2):
        intensity = source_intensity(source, "auto")
    assert intensity.to_json() == {"uint16": [0, 65535]}
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "3 of 3 uint16 images" in message
    assert "most values are from 0 to 4,095, but black is 0 and white 65,535; give --intensity 0:4095." in message
    given = source_intensity(source, "0:4095")
    assert levels(source, given).max() == 255
    assert len(np.unique(levels(source, given))) == SIDE
    assert capsys.readouterr().err == ""
    report_range(source, Intensity())  # as for features that were computed before
    assert "give --intensity 0:4095" not in capsys.readouterr().err  # said already
    assert source_intensity(source, "dtype").range_of("uint16") == (0, 65535)


def hot(count, value):
    values = ramp(0, 1, np.float32)
    values.flat[:count] = value
    return values


@pytest.mark.parametrize(
    ("image", "setting", "warning"),
    [
        (hot(5, 60_000), "auto", "from 0 to 1, but black is 0 and white 65,535; give --intensity 0:1."),
        (hot(900, -9999), "auto", "from 0 to 1, but black is -10,000 and white 10; give --intensity 0:1."),
        (ramp(0, 4095, np.int32), "0:1", "to 4,095, but black is 0 and white 1; give --intensity 0:4095."),
        (np.full((SIDE, SIDE), 300, np.int32), "0:65535", None),
        ((ramp(0, 1, np.float32) > 0.5).astype(np.int32) * 65535, "auto", None),  # two values, and two gray levels
    ],
    ids=["hot pixels", "no data", "clipped", "constant", "mask"],
)
def test_few_gray_levels_are_said_whatever_the_extremes(source_of, capsys, image, setting, warning):
    source_intensity(source_of(image, image), setting)
    message = capsys.readouterr().err
    assert ("Warning" in message) == (warning is not None)
    assert warning is None or ("most values are" in message and warning in message)


def test_the_last_image_is_in_the_sample(source_of):
    source = source_of(*[ramp(0, 200, np.int32)] * 70, ramp(0, 60_000, np.int32))
    assert source_intensity(source, "auto").range_of("int32") == (0, 65535)


def test_images_without_a_finite_value_are_called_so(source_of):
    source = source_of(np.full((SIDE, SIDE), np.nan, np.float32))
    with pytest.raises(UnreadableImage, match="values are NaN or infinite"):
        levels(source, source_intensity(source, "auto"))


def test_images_of_eight_bits_are_always_0_to_255(tmp_path, capsys):
    Image.fromarray(ramp(0, 100, np.uint8)).save(tmp_path / "a.png")
    source = open_source(str(tmp_path))
    for setting in ("auto", "dtype", "percentile"):
        assert source_intensity(source, setting) == Intensity()
    assert capsys.readouterr().err == ""
    assert source_intensity(source, "0:50") == Intensity()
    assert "--intensity 0:50 changes nothing" in capsys.readouterr().err
    Image.fromarray(ramp(0, 4095, np.uint16)).save(tmp_path / "b.png")
    source = open_source(str(tmp_path))
    intensity = source_intensity(source, "0:4095")
    assert levels(source, intensity, 0).max() == 100
    assert levels(source, intensity, 1).max() == 255


def test_types_are_scaled_each_on_its_own_and_a_type_that_was_not_sampled_is_unreadable(source_of, tmp_path):
    source = source_of(ramp(0, 1, np.float32), ramp(0, 4095, np.int32))
    intensity = source_intensity(source, "auto")
    assert dict(intensity.ranges)["float"] == (0, 1)
    only_float = Intensity.of({"float": (0, 1)})
    with pytest.raises(
        UnreadableImage, match="int32, and which of them are black and white is unknown; give --intensity"
    ):
        levels(source, only_float, 1)


class TestWhatFilesSay:
    """Metadata decides where all images agree and the values fit."""

    def test_bits_of_png(self, tmp_path):
        path = tmp_path / "a.png"
        for bits, values, expected in ((12, ramp(0, 4095, np.uint16), 4095), (12, ramp(0, 65520, np.uint16), 65535)):
            Image.fromarray(values).save(path)
            data = path.read_bytes()
            end = data.index(b"IDAT") - 4  # the chunk's length stands before its name
            path.write_bytes(
                data[:end] + b"\0\0\0\1sBIT" + bytes([bits]) + _checksum(b"sBIT" + bytes([bits])) + data[end:]
            )
            source = open_source(str(path))
            assert source_intensity(source, "auto").range_of("uint16") == (0, expected)

    @pytest.mark.parametrize("tags", [{340: 0.0, 341: 5000.0}, {280: 0, 281: 5000}])
    def test_range_of_tiff(self, tmp_path, tags):
        from PIL.TiffImagePlugin import ImageFileDirectory_v2

        described = ImageFileDirectory_v2()
        for number, value in tags.items():
            described.tagtype[number] = 12 if isinstance(value, float) else 3
            described[number] = value
        Image.fromarray(ramp(0, 4900, np.float32)).save(tmp_path / "a.tif", tiffinfo=described)
        source = open_source(str(tmp_path))
        assert source_intensity(source, "auto").to_json() == {"float": [0, 5000]}
        Image.fromarray(ramp(0, 255, np.float32)).save(tmp_path / "b.tif")  # says nothing
        assert source_intensity(open_source(str(tmp_path)), "auto").to_json() != {"float": [0, 5000]}

    @pytest.mark.parametrize("bits", [10, 12, 14])
    def test_bits_of_tiff(self, tmp_path, bits):
        tifffile = pytest.importorskip("tifffile")
        pytest.importorskip("imagecodecs")
        values = ramp(0, 2**bits - 1, np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", np.stack([values] * 3, -1), bitspersample=bits, photometric="rgb")
        source = open_source(str(tmp_path))
        try:
            image = source.wide(0)
        except UnreadableImage:
            pytest.skip("this tifffile does not write packed bits")
        assert image.stated == (0, 2**bits - 1)

    @pytest.mark.parametrize(
        ("nodata", "text"), [(-9999.0, "-9999"), (np.nan, "nan"), (1e20, "1e20"), (-3.4e38, "-3.4e+38")]
    )
    def test_values_without_data_do_not_count_and_are_black(self, tmp_path, nodata, text):
        from PIL.TiffImagePlugin import ImageFileDirectory_v2

        values = ramp(0, 1, np.float32)
        values[: SIDE // 2] = nodata
        described = ImageFileDirectory_v2()
        described.tagtype[42113] = 2
        described[42113] = text
        Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo=described)
        source = open_source(str(tmp_path))
        intensity = source_intensity(source, "auto")
        assert intensity.to_json() == {"float": [0, 1]}
        shown = levels(source, intensity)
        assert not shown[: SIDE // 2].any()
        np.testing.assert_array_equal(shown[-1], np.floor(RAMP[0].astype(np.float32) * 255 + 0.5))


def _checksum(data):
    import zlib

    return zlib.crc32(data).to_bytes(4, "big")


def test_white_is_zero_in_tiff(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", ramp(0, 65535, np.uint16), photometric="miniswhite")
    source = open_source(str(tmp_path))
    shown = levels(source, source_intensity(source, "auto"))
    assert shown[0, 0] == 255
    assert shown[0, -1] == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint16, np.int64])
@pytest.mark.parametrize("shape", ["HW", "HWC", "CHW"])
def test_pixels_in_hdf5_and_npy(tmp_path, dtype, shape):
    gray = ramp(0, 200, dtype)
    pixels = {"HW": gray, "HWC": np.stack([gray] * 3, -1), "CHW": np.stack([gray] * 3)}[shape]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = np.stack([pixels, pixels])
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "a.npy", pixels)
    for spec in (f"hdf5:{tmp_path / 'a.h5'}", str(tmp_path / "arrays"), str(tmp_path / "arrays" / "a.npy")):
        source = open_source(spec)
        intensity = source_intensity(source, "auto")
        assert intensity.range_of(source.wide(0).value_type) == (0, 255)
        np.testing.assert_array_equal(levels(source, intensity), np.floor(gray.astype(float) + 0.5))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_color_of_twelve_bits_in_sixteen(tmp_path, kind):
    imagecodecs = pytest.importorskip("imagecodecs")
    tifffile = pytest.importorskip("tifffile")
    gray = ramp(0, 4095, np.uint16)
    pixels = np.stack([gray, gray[::-1], gray.T], -1)
    if kind == "PNG":
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    else:
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    source = open_source(str(tmp_path))
    assert source_intensity(source, "auto").to_json() == {"uint16": [0, 65535]}
    shown = source.opened(0, None, source_intensity(source, "0:4095")).pixels()
    np.testing.assert_array_equal(shown, np.floor(pixels / 4095 * 255 + 0.5))
    np.testing.assert_array_equal(source.opened(0, None, Intensity()).pixels(), pixels >> 8)


def test_transparency_of_sixteen_bits_is_on_white(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = np.zeros((SIDE, SIDE, 4), np.uint16)
    pixels[..., 0], pixels[..., 3] = 4095, 65535
    pixels[0, 0, 3] = 0
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    source = open_source(str(tmp_path))
    shown = source.opened(0, None, Intensity.parse("0:4095")).pixels()
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert shown[1, 1].tolist() == [255, 0, 0]


def test_rare_wide_images_are_found(tmp_path):
    for number in range(200):
        Image.new("L", (4, 4)).save(tmp_path / f"{number:03}.png")
    Image.fromarray(ramp(0, 1, np.float32)).save(tmp_path / "133.tif")
    assert source_intensity(open_source(str(tmp_path)), "auto").to_json() == {"float": [0, 1]}


def test_with_channels_an_unclear_scale_is_an_error(tmp_path):
    pixels = np.random.default_rng(0).normal(0, 50, (20, 20, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", pixels)
    source, selection = open_source(str(tmp_path)), ChannelSelection.parse("4")
    with pytest.raises(DataError, match=r"float values from .* have no common scale; give --intensity LOW:HIGH"):
        source_intensity(source, "auto", selection)
    assert source_intensity(source, "0:1", selection).to_json() == [0, 1]
    np.save(tmp_path / "a.npy", np.clip(pixels, 0, 1))
    assert source_intensity(open_source(str(tmp_path)), "auto", selection).to_json() == {"float": [0, 1]}


def test_auto_keeps_what_a_checkpoint_records(source_of):
    source = source_of(ramp(0, 4000, np.uint16), ending=".png")
    recorded = Intensity.of({"uint16": (0, 4095)})
    assert source_intensity(source, "auto", known=recorded).to_json() == {"uint16": [0, 4095]}
    assert source_intensity(source, "dtype", known=recorded).range_of("uint16") == (0, 65535)
    assert source_intensity(source, "auto", known=Intensity.of({"float": (0, 1)})).to_json() == {"uint16": [0, 65535]}
