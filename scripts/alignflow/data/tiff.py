"""TIFF files, whose directory and strips are looked at before Pillow reads them (TIFF 6.0).

Decoders guess where a directory contradicts itself: Pillow and ITK, which share libtiff, take the
default for a field whose type they do not know, such as 1 for BitsPerSample. Only what can be
checked to its last byte is read: one picture in strips or tiles, plain or packed by LZW, Deflate,
PackBits or JPEG.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alignflow.data.integrity import inflated
from alignflow.errors import InputError

SIZES = {  # bytes of a value of each type
    **{1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4},
    **{16: 8, 17: 8, 18: 8},  # of BigTIFF
}
UNSIGNED = {3: "H", 4: "I", 16: "Q"}  # types of the fields below, as struct has them
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIPS, ORIENTATION, SAMPLES, ROWS, STRIP_BYTES, PLANAR = 273, 274, 277, 278, 279, 284
PREDICTOR, TILE_WIDTH, TILE_LENGTH, TILES, TILE_BYTES = 317, 322, 323, 324, 325
EXTRA, FORMAT = 338, 339
DEFAULTS = {BITS: (1,), COMPRESSION: (1,), SAMPLES: (1,), PLANAR: (1,), ORIENTATION: (1,)}
NAMES = {
    **{WIDTH: "ImageWidth", LENGTH: "ImageLength", BITS: "BitsPerSample"},
    **{COMPRESSION: "Compression", PHOTOMETRIC: "PhotometricInterpretation"},
    **{FILL_ORDER: "FillOrder", STRIPS: "StripOffsets", ORIENTATION: "Orientation"},
    **{SAMPLES: "SamplesPerPixel", ROWS: "RowsPerStrip", STRIP_BYTES: "StripByteCounts"},
    **{PLANAR: "PlanarConfiguration", PREDICTOR: "Predictor", TILE_WIDTH: "TileWidth"},
    **{TILE_LENGTH: "TileLength", TILES: "TileOffsets", TILE_BYTES: "TileByteCounts"},
    **{EXTRA: "ExtraSamples", FORMAT: "SampleFormat"},
}
ALLOWED: dict[int, Any] = {  # what a picture of medical images may state, each alone
    PHOTOMETRIC: (0, 1, 2, 3, 5, 6),  # white is 0, black is 0, RGB, palette, CMYK, YCbCr of JPEG
    FILL_ORDER: (1,),
    ORIENTATION: range(1, 9),
    SAMPLES: range(1, 6),
    PLANAR: (1, 2),
    PREDICTOR: (1, 2, 3),
}
PLAIN, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS = 1, 5, 7, 8, 32946, 32773
LZW_CLEAR, LZW_END, LZW_FULL = 256, 257, 4096

Fields = dict[int, tuple[int, ...]]


def require_sound_tiff(path: Path) -> None:
    """Check a TIFF from its directory to the last byte of its pixels.

    Raises:
        InputError: there is no directory or more than one; it contradicts itself or the file;
            strips do not hold as many bytes as the picture needs; their packing is another one.
    """
    data = path.read_bytes()
    try:
        fields, taken = _directory(data)
        _require_sense(fields)
        for offset, count, expected in _segments(fields):
            taken.append((offset, offset + count))
            if offset + count > len(data):
                raise ValueError("its pixels end behind the file")
            _require_length(data[offset : offset + count], fields[COMPRESSION][0], expected)
        taken.sort()
        if any(end > start for (_, end), (start, _) in zip(taken, taken[1:], strict=False)):
            raise ValueError("its parts lie on each other")
    except struct.error as error:
        raise InputError(
            f"image '{path}': its directory ends behind the file; replace or remove it"
        ) from error
    except (ValueError, zlib.error) as error:
        raise InputError(f"image '{path}': {error}; save it again, or as PNG") from error


def _directory(data: bytes) -> tuple[Fields, list[tuple[int, int]]]:
    """Fields of whole numbers, and from where to where the directory and its values lie."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    version = struct.unpack_from(f"{order}H", data, 2)[0] if order else None
    if version == 42:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (number,) = struct.unpack_from(f"{order}H", data, start)
        entry, first, room, last = f"{order}HHI", start + 2, 4, "I"
    elif version == 43:
        (start,) = struct.unpack_from(f"{order}Q", data, 8)
        (number,) = struct.unpack_from(f"{order}Q", data, start)
        entry, first, room, last = f"{order}HHQ", start + 8, 8, "Q"
    else:
        raise ValueError("it does not begin as a TIFF does")
    size = struct.calcsize(entry) + room
    end = first + number * size
    if struct.unpack_from(f"{order}{last}", data, end)[0] != 0:
        raise ValueError("several pages, of which each needs a file of its own")
    fields: Fields = {}
    taken = [(0, 8 if room == 4 else 16), (start, end + room)]
    before = 0
    for at in range(first, end, size):
        tag, kind, count = struct.unpack_from(entry, data, at)
        if tag <= before or kind not in SIZES:  # "sorted in ascending order", page 15
            raise ValueError(f"field {tag} of its directory is out of order or of no known type")
        before = tag
        place, length = at + size - room, count * SIZES[kind]
        if length > room:
            (place,) = struct.unpack_from(f"{order}{last}", data, place)
            taken.append((place, place + length))
        if place + length > len(data):
            raise ValueError(f"field {tag} of its directory ends behind the file")
        if tag in NAMES:
            if kind not in UNSIGNED or not count:
                raise ValueError(f"{NAMES[tag]} is no whole number")
            fields[tag] = struct.unpack_from(f"{order}{count}{UNSIGNED[kind]}", data, place)
    return DEFAULTS | fields, taken


def _require_sense(fields: Fields) -> None:
    for tag in (WIDTH, LENGTH, PHOTOMETRIC):
        if tag not in fields:
            raise ValueError(f"{NAMES[tag]} is missing")
    for tag, allowed in ALLOWED.items():
        if tag in fields and (len(fields[tag]) > 1 or fields[tag][0] not in allowed):
            raise ValueError(f"{NAMES[tag]} is {_text(fields[tag])}")
    samples, photometric = fields[SAMPLES][0], fields[PHOTOMETRIC][0]
    if len(fields[BITS]) != samples or len(set(fields[BITS])) > 1:
        raise ValueError(f"BitsPerSample is {_text(fields[BITS])} for {samples} samples")
    extra = len(fields.get(EXTRA, ()))
    if samples - extra != {2: 3, 5: 4, 6: 3}.get(photometric, 1):
        raise ValueError(f"{samples} samples, {extra} of them extra, for this kind of picture")
    if photometric == 0 and fields[BITS][0] > 8:  # Pillow leaves it dark
        raise ValueError("white is 0 in its 16 bits or more")
    if photometric == 6 and fields[COMPRESSION] != (JPEG,):
        raise ValueError("YCbCr without JPEG")


def _text(values: tuple[int, ...]) -> str:
    return " ".join(map(str, values[:4]))


def _segments(fields: Fields) -> Iterator[tuple[int, int, int]]:
    """Of each strip or tile: where it begins, its bytes, and bytes when unpacked."""
    width, length = fields[WIDTH][0], fields[LENGTH][0]
    planes = fields[SAMPLES][0] if fields[PLANAR] == (2,) else 1
    bits = fields[BITS][0] * fields[SAMPLES][0] // planes
    if TILES in fields:
        if not {TILE_WIDTH, TILE_LENGTH, TILE_BYTES} <= fields.keys() or STRIPS in fields:
            raise ValueError("its tiles are described in part")
        across, down = fields[TILE_WIDTH][0], fields[TILE_LENGTH][0]
        offsets, counts = fields[TILES], fields[TILE_BYTES]
    else:
        if not {STRIPS, STRIP_BYTES} <= fields.keys():
            raise ValueError("its strips are described in part")
        across, down = width, min(fields.get(ROWS, (length,))[0], length)
        offsets, counts = fields[STRIPS], fields[STRIP_BYTES]
    if min(across, down) < 1:
        raise ValueError(f"strips or tiles of {across} x {down} pixels")
    needed = _ceil(width, across) * _ceil(length, down)  # of each plane
    if not len(offsets) == len(counts) == needed * planes:
        raise ValueError(f"{len(offsets)} strips or tiles where {needed * planes} are needed")
    for number, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
        is_last = TILES not in fields and number % needed == needed - 1
        rows = length - (needed - 1) * down if is_last else down
        yield offset, count, rows * _ceil(across * bits, 8)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _require_length(data: bytes, compression: int, expected: int) -> None:
    """JPEG data have checks of their own, see `integrity`."""
    if compression == JPEG:
        return
    if compression not in LENGTHS:
        raise ValueError(f"compression {compression}, which nothing here can check")
    found = LENGTHS[compression](data, expected)
    if found != expected:
        raise ValueError(f"{found} bytes of pixels where {expected} are needed")


def _inflated_length(data: bytes, expected: int) -> int:
    try:
        return len(inflated(data, expected))
    except EOFError as error:
        raise ValueError("its packed pixels do not end") from error


def _packbits_length(data: bytes, expected: int) -> int:
    """Of runs (TIFF 6.0, section 9): n + 1 bytes, or one byte 257 - n times; 128 is nothing."""
    at = length = 0
    while at < len(data):
        n = data[at]
        at += 1
        if n != 128:
            length += n + 1 if n < 128 else 257 - n
            at += n + 1 if n < 128 else 1
    if at > len(data):
        raise ValueError("its packed pixels do not end")
    return length


def _lzw_length(data: bytes, expected: int) -> int:
    """Of codes (TIFF 6.0, section 13), whose strings are known by their lengths alone."""
    have = bits = length = before = 0
    width, strings = 9, [1] * 258
    for byte in data:
        have, bits = have << 8 | byte, bits + 8
        if bits < width:
            continue
        bits -= width
        code, have = have >> bits, have & (1 << bits) - 1
        if code == LZW_END:
            return length
        if code == LZW_CLEAR:
            width, before = 9, 0
            del strings[258:]
            continue
        if before:
            strings.append(before + 1)
        if code >= len(strings) or len(strings) > LZW_FULL:
            raise ValueError("its packed pixels are damaged")
        before = strings[code]
        length += before
        if len(strings) + 1 == 1 << width and width < 12:  # one earlier than needed
            width += 1
    raise ValueError("its packed pixels do not end")


LENGTHS: dict[int, Callable[[bytes, int], int]] = {
    PLAIN: lambda data, expected: len(data),
    LZW: _lzw_length,
    DEFLATE: _inflated_length,
    OLD_DEFLATE: _inflated_length,
    PACKBITS: _packbits_length,
}
