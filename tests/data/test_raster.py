"""Pictures: what Pillow and tifffile read, and how bright and colour come out."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from alignflow.data.formats import load

ROW, COLUMN = np.indices((30, 41))
GRAY = (5 * ROW + COLUMN).astype(np.uint8)
COLOUR = np.stack([5 * ROW, 6 * COLUMN, 3 * (ROW + COLUMN)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (GRAY, {"tile": (32, 48)}),
        (GRAY, {"rowsperstrip": 7}),
        (GRAY, {"bigtiff": True}),
        (GRAY.astype(np.uint16) * 200, {"byteorder": ">"}),
        (GRAY.astype(np.float32) / 7, {}),
        (255 - GRAY, {"photometric": "miniswhite"}),
        (COLOUR.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}),
    ],
)
def test_kinds_of_tiff_that_are_read(tmp_path, values, options):
    tifffile.imwrite(tmp_path / "a.tif", np.ascontiguousarray(values), **options)
    if options.get("photometric") == "miniswhite":  # 0 is imaged as white
        values = 255 - values
    expected = values if values.ndim == 3 else values[None]
    np.testing.assert_array_equal(load(tmp_path / "a.tif").numpy(), expected.transpose(0, 2, 1))


@pytest.mark.parametrize("packing", ["lzw", "adobe_deflate", "packbits", "zstd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_packed_tiff(tmp_path, packing, dtype):
    values = (COLOUR * np.float32(3.25)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", compression=packing)
    np.testing.assert_array_equal(load(tmp_path / "a.tif").numpy(), values.transpose(2, 1, 0))


def test_white_of_16_bits(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GRAY.astype(np.uint16), photometric="miniswhite")
    np.testing.assert_array_equal(load(tmp_path / "a.tif")[0].T, 65535 - GRAY.astype(int))


def test_palette_binary_and_alpha_of_tiff(tmp_path):
    palette = Image.fromarray(COLOUR).quantize(16)
    palette.save(tmp_path / "palette.tif")
    expected = np.asarray(palette.convert("RGB")).transpose(2, 1, 0)
    np.testing.assert_array_equal(load(tmp_path / "palette.tif").numpy(), expected)
    Image.fromarray(GRAY > 70).save(tmp_path / "binary.tif")
    np.testing.assert_array_equal(load(tmp_path / "binary.tif")[0].T, 255 * (GRAY > 70))
    Image.fromarray(np.dstack([COLOUR, GRAY])).save(tmp_path / "alpha.tif")
    np.testing.assert_array_equal(load(tmp_path / "alpha.tif").numpy(), COLOUR.transpose(2, 1, 0))
    Image.fromarray(COLOUR).save(tmp_path / "jpeg.tif", compression="jpeg")
    assert np.abs(load(tmp_path / "jpeg.tif").numpy() - COLOUR.transpose(2, 1, 0)).mean() < 5


def test_tiff_whose_place_or_colours_are_unclear(tmp_path, refuse):
    tifffile.imwrite(tmp_path / "a.tif", GRAY, extratags=[(274, "H", 1, 6, True)])
    refuse(tmp_path / "a.tif", "stored turned or mirrored; save it upright")
    tifffile.imwrite(tmp_path / "b.tif", np.dstack([COLOUR, GRAY]), photometric="separated")
    refuse(tmp_path / "b.tif", "SEPARATED pixels; save it as gray or RGB")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_kinds_of_bmp_that_are_read(tmp_path, mode):
    picture = Image.fromarray(COLOUR).convert(mode)
    picture.save(tmp_path / "a.bmp")
    expected = np.asarray(picture.convert("RGB" if mode in ("P", "RGB") else "L"))
    expected = expected.reshape(30, 41, -1).transpose(2, 1, 0)
    np.testing.assert_array_equal(load(tmp_path / "a.bmp").numpy(), expected)


@pytest.mark.parametrize(
    ("suffix", "size"), [(".tif", 20), (".bmp", 40), (".png", 60), (".jpg", 99)]
)
def test_files_that_end_early(tmp_path, suffix, size, refuse):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(GRAY).save(path)
    path.write_bytes(path.read_bytes()[:size])
    refuse(path, "cannot be read")


def test_a_tiff_without_some_of_its_pixels(tmp_path, refuse):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.arange(1, 65, dtype=np.uint8).reshape(8, 8))
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["StripByteCounts"].overwrite(0)
    refuse(path, "parts of its pixels are missing")


def test_a_picture_under_another_name(tmp_path, refuse):
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    refuse(tmp_path / "a.tif", "cannot be read")
