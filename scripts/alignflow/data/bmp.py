"""BMP files, whose headers are looked at before Pillow reads them: they have no checksum."""

from __future__ import annotations

import struct
from pathlib import Path

from alignflow.errors import InputError

FILE_HEADER = 14  # bytes
HEADERS = (40, 52, 56, 108, 124)  # bytes of BITMAPINFOHEADER and those that begin as it does
PLAIN, FIELDS = 0, 3  # compression; the others pack pixels by run lengths, JPEG or PNG
BITS = {PLAIN: (1, 4, 8, 24, 32), FIELDS: (32,)}
SRGB = (0, 0x73524742, 0x57696E20)  # colour spaces: calibrated, sRGB, that of Windows


def require_sound_bmp(path: Path) -> None:
    """Check that header, colours and pixels fill the file, each where the other ends.

    Raises:
        InputError: they do not, the header contradicts itself, or pixels are packed.
    """
    content = path.read_bytes()
    try:
        _require_sense(content)
    except struct.error as error:
        raise InputError(
            f"image '{path}': its header ends behind the file; replace or remove it"
        ) from error
    except ValueError as error:
        raise InputError(f"image '{path}': {error}; save it again, or as PNG") from error


def _require_sense(content: bytes) -> None:
    magic, stated, _, offset, size = struct.unpack_from("<2sIIII", content)
    if magic != b"BM" or size not in HEADERS:
        raise ValueError("its header is none of BMP")
    width, height, planes, bits, packing, length, _, _, colours, _ = struct.unpack_from(
        "<iiHHIIiiII", content, FILE_HEADER + 4
    )
    if stated not in (0, len(content)):  # some writers leave it out
        raise ValueError(f"{len(content)} bytes where its header states {stated}")
    if width < 1 or height == 0 or planes != 1:
        raise ValueError(f"{width} x {height} pixels in {planes} planes")
    if bits not in BITS.get(packing, ()):
        raise ValueError(f"{bits} bits of compression {packing}")
    if colours > (2**bits if bits <= 8 else 0):
        raise ValueError(f"{colours} colours for {bits} bits")
    table = 4 * (colours or 2**bits) if bits <= 8 else 0
    masks = 12 if size == 40 and packing == FIELDS else 0
    if offset != FILE_HEADER + size + masks + table:
        raise ValueError(f"its pixels begin at byte {offset}, not behind its colours")
    needed = (width * bits + 31) // 32 * 4 * abs(height)  # rows are filled up to 4 bytes
    profile = size == 124 and struct.unpack_from("<I", content, FILE_HEADER + 56)[0] not in SRGB
    # Some writers fill the file up to a multiple of 4.
    if len(content) - offset < needed or len(content) - offset > needed + 3 and not profile:
        raise ValueError(f"{len(content) - offset} bytes of pixels where {needed} are needed")
    if length not in (0, needed, len(content) - offset):
        raise ValueError(f"{needed} bytes of pixels where its header states {length}")
