"""Damage that decoders pass over: checksums, lengths, and JPEG data, which have neither.

Pillow, nibabel and ITK stop at the last pixel that they need; what tells that the pixels are right
stands behind it.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from alignflow.errors import InputError

BLOCK = 8  # pixels: what JPEG codes together
GRAY_TOLERANCE = 3.0  # gray levels of a pixel
BLOCK_TOLERANCE = 8.0  # gray levels; decoders of 150 whole photographs differed by 4 at most
START_OF_SCAN, END_OF_IMAGE = b"\xda", b"\xff\xd9"  # markers of JPEG (ITU-T T.81, table B.1)
END_OF_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)  # no stuffed byte, no restart
ADDED = bytes.fromhex("5aa5c33c") * 16
READ_AT_ONCE = 1 << 22  # bytes


def require_whole_gzip(path: Path) -> None:
    """Read a file to its end, where length and checksum stand.

    Raises:
        OSError, EOFError, zlib.error: they do not fit.
    """
    with gzip.open(path) as file:
        while file.read(READ_AT_ONCE):
            pass


def require_whole_png(path: Path) -> None:
    """Check the checksum of each chunk, up to the end of the picture.

    Raises:
        SyntaxError, OSError: one does not fit, or the end is missing.
    """
    with Image.open(path) as image:
        image.verify()


def require_sound_jpeg(path: Path, values: np.ndarray, other: np.ndarray) -> None:
    """Compare two decoders: of a damaged scan each makes pixels of its own.

    Args:
        path: the file.
        values, other: (C, X, Y), 0 to 255.

    Raises:
        InputError: blocks of them differ.
    """
    largest = np.inf
    if values.shape == other.shape:
        largest = jpeg_difference(values, other)
    if largest > BLOCK_TOLERANCE:
        raise InputError(
            f"image '{path}': two JPEG decoders make different pixels of it, so it is damaged; "
            "replace or remove it"
        )


def jpeg_difference(values: np.ndarray, other: np.ndarray) -> float:
    """Largest one, of (C, X, Y): of pixels in gray, of blocks in colour, which decoders smooth.

    Pixels of gray differ by rounding alone, and count `BLOCK_TOLERANCE / GRAY_TOLERANCE` fold.
    """
    if len(values) == 1:
        apart = float(np.abs(values.astype(float) - other).max(initial=0))
        return apart * BLOCK_TOLERANCE / GRAY_TOLERANCE
    return float(np.abs(block_means(values) - block_means(other)).max(initial=0))


def require_tiff_size(path: Path, width: int) -> None:
    """Whether strips of JPEG data within a TIFF are as wide as the picture.

    Where they are not, libtiff warns on the console and leaves the rest as it is in memory.

    Raises:
        InputError: they are not.
    """
    frames = re.findall(rb"\xff[\xc0-\xc2]\0[\x0b\x11]\x08..(..)", path.read_bytes(), re.DOTALL)
    if not frames or any(int.from_bytes(frame) != width for frame in frames):
        raise InputError(f"image '{path}': its JPEG data are not {width} wide; save it as PNG")


def require_whole_jpeg(data: bytes, what: str) -> None:
    """Whether the scans of a JPEG stream hold all its pixels.

    Where one ends too early, libjpeg, which Pillow and ITK share, warns on the console and makes
    the rest gray. So bytes are added to the end of each scan: the pixels must not change.

    Args:
        data: a stream that Pillow reads.
        what: names the file.

    Raises:
        InputError: the pixels change.
        OSError: Pillow does not read it.
    """
    pixels = []
    for stream in (data, _with_longer_scans(data)):
        with Image.open(io.BytesIO(stream)) as image:
            pixels.append(image.tobytes())
    if pixels[0] != pixels[1]:
        raise InputError(f"{what}: its JPEG data end too early; replace or remove it")


def _with_longer_scans(data: bytes) -> bytes:
    parts, start, at = [], 0, 2
    while at < len(data) and data[at : at + 2] != END_OF_IMAGE:
        if data[at : at + 1] != b"\xff" or data[at + 1 : at + 2] == b"\xff":  # filled up
            at += 1
            continue
        is_scan = data[at + 1 : at + 2] == START_OF_SCAN
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
        if is_scan:
            end = END_OF_SCAN.search(data, at)
            at = end.start() if end else len(data)
            parts += [data[start:at], ADDED]
            start = at
    return b"".join([*parts, data[start:]])


def block_means(values: np.ndarray) -> np.ndarray:
    """Means of blocks of (C, X, Y), which smoothing of colour within them leaves alone."""
    channels, *size = values.shape
    padded = np.pad(values.astype(np.float64), [(0, 0), *((0, -n % BLOCK) for n in size)])
    x, y = (n // BLOCK for n in padded.shape[1:])
    return padded.reshape(channels, x, BLOCK, y, BLOCK).mean(axis=(2, 4))


def inflated(data: bytes, expected: int, wbits: int = zlib.MAX_WBITS) -> bytes:
    """Unpacked Deflate data, hardly more than expected whatever the file would make.

    Raises:
        EOFError: they do not end there.
        zlib.error: they are damaged.
    """
    stream = zlib.decompressobj(wbits)
    values = stream.decompress(data, expected + 1)
    if not stream.eof:  # the checksum is read with the last byte, or after it
        values += stream.decompress(stream.unconsumed_tail, 1)
    if not stream.eof:
        raise EOFError("packed data do not end")
    return values
