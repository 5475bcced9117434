"""Damaged TIFF and BMP files, which have no checksum: refused where their parts do not fit."""

import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from alignflow.data.formats import load

ROW, COLUMN = np.indices((30, 41))
GRAY = (5 * ROW + COLUMN).astype(np.uint8)
COLOUR = np.stack([5 * ROW, 6 * COLUMN, 3 * (ROW + COLUMN)], axis=-1).astype(np.uint8)


@pytest.fixture
def tiff(tmp_path):
    """A function that writes a TIFF, with its directory changed by `change(entries)`.

    Entries are [tag, type, count, value] of a little-endian file.
    """

    def write(change=lambda entries: None, values=GRAY, **options):
        path = tmp_path / "a.tif"
        Image.fromarray(values).save(path, **options)
        data = bytearray(path.read_bytes())
        (start,) = struct.unpack_from("<I", data, 4)
        (number,) = struct.unpack_from("<H", data, start)
        places = range(start + 2, start + 2 + 12 * number, 12)
        entries = [list(struct.unpack_from("<HHII", data, at)) for at in places]
        change(entries)
        # the directory moves to the end, where it may grow
        directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        at = len(data) + len(data) % 2
        data[4:8] = struct.pack("<I", at)
        data += bytes(at - len(data)) + struct.pack("<H", len(entries)) + directory + bytes(4)
        path.write_bytes(data)
        return path

    return write


def entry(entries, tag):
    return next(e for e in entries if e[0] == tag)


def put(tag, column, value):
    """A change of one number of an entry: 0 the tag, 1 its type, 2 the count, 3 the value."""
    return lambda entries: entry(entries, tag).__setitem__(column, value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (put(258, 1, 67), "field 258 of its directory is out of order or of no known type"),
        (put(258, 0, 2306), "field 259 of its directory is out of order"),
        (lambda entries: entries.insert(0, entries[0]), "field 256 of its directory"),
        (lambda entries: entries.remove(entry(entries, 258)), "1230 bytes of pixels where 180"),
        (lambda entries: entries.remove(entry(entries, 262)), "PhotometricInterpretation is miss"),
        (lambda entries: entries.remove(entry(entries, 273)), "strips are described in part"),
        (put(258, 1, 2), "BitsPerSample is no whole number"),
        (put(258, 2, 3), "field 258 of its directory ends|BitsPerSample is"),
        (put(262, 3, 8), "PhotometricInterpretation is 8"),
        (put(257, 3, 29), "1230 bytes of pixels where 1189"),
        (put(278, 3, 0), "strips or tiles of 41 x 0 pixels"),
        (put(257, 3, 2**32 - 1), "1 strips or tiles where 143165577 are needed"),
        (put(278, 3, 20), "1 strips or tiles where 2 are needed"),
        (put(279, 3, 1229), "1229 bytes of pixels where 1230"),
        (put(273, 3, 200), "its pixels end behind the file|its parts lie on each other"),
        (put(273, 3, 4), "its parts lie on each other"),
        (put(259, 3, 5), "its packed pixels"),
        (put(259, 3, 4), "compression 4, which nothing here can check"),
    ],
)
def test_directories_of_tiff(tiff, change, match, refuse):
    refuse(tiff(change), match)


def test_a_moved_directory_is_read(tiff):
    np.testing.assert_array_equal(load(tiff())[0].T, GRAY)


@pytest.mark.parametrize("packing", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_packed_strips_of_tiff(tiff, packing, refuse):
    # large and random, so that codes of LZW become as long as they can
    values = np.random.default_rng(0).integers(0, 256, (90, 100, 3), dtype=np.uint8)
    path = tiff(values=values, compression=packing)
    np.testing.assert_array_equal(load(path).numpy().transpose(2, 1, 0), values)
    refuse(tiff(put(279, 3, 20), values, compression=packing), "packed pixels|strips|where|count")
    path = tiff(values=COLOUR, compression=packing)
    data = bytearray(path.read_bytes())
    data[8:18] = b"\x7f" * 10  # where the first strip begins
    path.write_bytes(data)
    refuse(path, "packed pixels|bytes of pixels|decompressing")


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


def test_white_of_16_bits(tmp_path, refuse):
    tifffile.imwrite(tmp_path / "a.tif", GRAY.astype(np.uint16), photometric="miniswhite")
    refuse(tmp_path / "a.tif", "white is 0 in its 16 bits")


def test_a_picture_under_another_name(tmp_path, refuse):
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    refuse(tmp_path / "a.tif", "does not begin as a TIFF")


@pytest.mark.parametrize(("suffix", "size"), [(".tif", 20), (".bmp", 40)])
def test_files_that_end_early(tmp_path, suffix, size, refuse):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(GRAY).save(path)
    path.write_bytes(path.read_bytes()[:size])
    refuse(path, "ends behind the file")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_kinds_of_bmp_that_are_read(tmp_path, mode):
    picture = Image.fromarray(COLOUR).convert(mode)
    picture.save(tmp_path / "a.bmp")
    expected = np.asarray(picture.convert("RGB" if mode in ("P", "RGB") else "L"))
    expected = expected.reshape(30, 41, -1).transpose(2, 1, 0)
    np.testing.assert_array_equal(load(tmp_path / "a.bmp").numpy(), expected)


@pytest.mark.parametrize(
    ("at", "form", "value", "match"),
    [
        (10, "<I", 200, "its pixels begin at byte 200"),
        (14, "<I", 12, "its header is none of BMP"),
        (18, "<i", 39, "bytes of pixels where 1200 are needed|1200 bytes of pixels where"),
        (26, "<H", 2, "2 planes"),
        (28, "<H", 4, "colours for 4 bits"),
        (30, "<I", 2, "8 bits of compression 2"),
        (30, "<I", 1, "8 bits of compression 1"),
        (34, "<I", 1000, "bytes of pixels where its header states 1000"),
        (46, "<I", 100, "its pixels begin at byte 1078"),
    ],
)
def test_headers_of_bmp(tmp_path, at, form, value, match, refuse):
    path = tmp_path / "a.bmp"
    Image.fromarray(GRAY).save(path)
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, at, value)
    path.write_bytes(data)
    refuse(path, match)
