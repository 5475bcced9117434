"""Damage that decoders pass over: checksums, lengths, and JPEG data, which have neither.

Pillow, nibabel and ITK stop at the last pixel that they need; what tells that the pixels are right
stands behind it.
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from alignflow.errors import InputError

BLOCK = 8  # pixels: what JPEG codes together
BLOCK_TOLERANCE = 8.0  # gray levels; decoders of 150 whole photographs differed by 4 at most
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
        largest = np.abs(block_means(values) - block_means(other)).max(initial=0)
    if largest > BLOCK_TOLERANCE:
        raise InputError(
            f"image '{path}': two JPEG decoders make different pixels of it, so it is damaged; "
            "replace or remove it"
        )


def block_means(values: np.ndarray) -> np.ndarray:
    """Means of the whole blocks of (C, X, Y), which smoothing of colour within them leaves alone."""
    channels, x, y = values.shape[0], values.shape[1] // BLOCK, values.shape[2] // BLOCK
    whole = values[:, : x * BLOCK, : y * BLOCK].astype(np.float64)
    return whole.reshape(channels, x, BLOCK, y, BLOCK).mean(axis=(2, 4))


def require_whole_data(path: Path, expected: int) -> None:
    """Whether the data of an NRRD or MetaImage file are as long as its header says.

    Data in a file of their own are not looked at.

    Args:
        path: the file.
        expected: bytes of all values.

    Raises:
        InputError: there are more or fewer, or a header line stands twice.
    """
    content = path.read_bytes()
    is_nrrd = content.startswith(b"NRRD")
    end = re.search(
        rb"\r?\n\r?\n" if is_nrrd else rb"\n *ElementDataFile *= *LOCAL *\r?\n", content
    )
    if end is None:
        return
    fields = _fields(content[: end.start()], path)
    if {"line skip", "lineskip", "byte skip", "byteskip", "headersize"} & fields.keys():
        return
    encoding = fields.get("encoding", "raw").lower() if is_nrrd else "raw"
    if fields.get("compresseddata", "false").lower() in ("true", "1"):
        encoding = "gzip"
    data = content[end.end() :]
    if encoding in ("gzip", "gz"):
        stream = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # of either kind, with its checksum
        data = stream.decompress(data, expected + 1)
        if not stream.eof and not (stream.decompress(stream.unconsumed_tail) == b"" and stream.eof):
            raise InputError(f"image '{path}': its packed data do not end; replace or remove it")
    if encoding in ("raw", "gzip", "gz") and len(data) != expected:
        raise InputError(
            f"image '{path}': {len(data)} bytes of data, but its header needs {expected}; replace "
            "or remove it"
        )


def _fields(header: bytes, path: Path) -> dict[str, str]:
    """Lines "name: value" or "name = value", names in lower case."""
    fields: dict[str, str] = {}
    for line in header.decode("latin-1").splitlines():
        name, mark, value = line.partition(":" if header.startswith(b"NRRD") else "=")
        name = name.strip().lower()
        if not mark or line.startswith("#") or value.startswith("="):  # comments, and NRRD's keys
            continue
        if name in fields:
            raise InputError(f"image '{path}': '{name}' stands twice in its header; correct it")
        fields[name] = value.strip()
    return fields
