"""MetaImage files (itk.org/Wiki/MetaIO/Documentation), read by ITK.

MetaIO takes numbers that are missing in a line from the next one, and ends the process at some
numbers of axes and file names: so these are looked at before.
"""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path
from typing import Any

import itk
import numpy as np
from monai.data import ITKReader
from monai.data.utils import to_affine_nd

from alignflow.errors import InputError

LARGEST_HEADER = 1 << 16  # bytes
LARGEST = 1e12  # the SVD of ITK does not end with 1e308 in a direction
LONGEST_NAME = 200  # of a file; MetaIO writes beyond its arrays
PLACES = ("Offset", "Position", "Origin")  # names of one thing, and so are the next
TURNS = ("TransformMatrix", "Orientation", "Rotation")
PER_AXIS = ("DimSize", "ElementSpacing", "ElementSize", *PLACES)
UNUSED = "CenterOfRotation"  # but its numbers are counted, too
LOCAL = "LOCAL"  # data in the same file
MILLIMETRES = ("mm", "millimeter", "?")

ITK_DTYPES = {
    "unsigned_char": "uint8",
    "char": "int8",
    "unsigned_short": "uint16",
    "short": "int16",
    "unsigned_int": "uint32",
    "int": "int32",
    "unsigned_long": "uint64",
    "long": "int64",
    "unsigned_long_long": "uint64",
    "long_long": "int64",
    "float": "float32",
    "double": "float64",
}


def read_metaimage(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Values (C, X, Y) or (C, X, Y, Z), affine (4, 4) in RAS and mm, and the stored type.

    Raises:
        InputError: a header that MetaIO would misunderstand, lengths that are not in mm, or data in
            a file that is missing.
        Exception: whatever ITK raises on a damaged file.
    """
    fields, start = _header(path)
    _require_sound(fields, path)
    io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if io is None:
        raise ValueError("no ITK reader knows the file")
    io.SetFileName(str(path))
    io.ReadImageInformation()
    if "".join(fields.get("CompressedData", []))[:1] in ("T", "t", "1"):
        _require_whole(fields, start, path, io.GetImageSizeInBytes())
    native = ITK_DTYPES[io.GetComponentTypeAsString(io.GetComponentType())]
    # ITK's wheels lack images of some integers and most vectors; double keeps 32 bits exact.
    pixel_type: Any = itk.F if np.can_cast(native, "float32") else itk.D
    is_vector = io.GetNumberOfComponents() > 1
    if is_vector:
        pixel_type = itk.VariableLengthVector[pixel_type]
    array, header = ITKReader().get_data(itk.imread(str(path), pixel_type=pixel_type))
    array = np.moveaxis(array, -1, 0) if is_vector else array[None]
    return array, to_affine_nd(3, header["affine"]), native


def _require_whole(fields: dict[str, list[str]], start: int, path: Path, size: int) -> None:
    """Refuse compressed data that are damaged: MetaIO gives what is in memory in their place."""
    name = " ".join(fields["ElementDataFile"])
    content = path.read_bytes()[start:] if name == LOCAL else (path.parent / name).read_bytes()
    stream = zlib.decompressobj()
    values = stream.decompress(content[: int(fields["CompressedDataSize"][0])])
    if len(values) != size or not stream.eof:
        raise ValueError(f"{len(values)} bytes of data where {size} are needed")


def _header(path: Path) -> tuple[dict[str, list[str]], int]:
    """Words of each field, up to the one that begins the data, and where it ends."""
    fields: dict[str, list[str]] = {}
    start = 0
    with path.open("rb") as file:
        text = file.read(LARGEST_HEADER).decode("latin-1")
    for line in text.split("\n"):
        start += len(line) + 1
        name, mark, value = line.partition("=")
        name = name.strip()
        if not mark:
            continue
        if fields.setdefault(name, value.split()) != value.split() and name != "Comment":
            raise InputError(f"image '{path}': two different '{name}' in its header; correct it")
        if name == "ElementDataFile":
            return fields, start
    raise InputError(f"image '{path}': its header has no ElementDataFile; replace or remove it")


def _require_sound(fields: dict[str, list[str]], path: Path) -> None:
    axes = " ".join(fields.get("NDims", []))
    if axes not in ("2", "3", "4"):
        raise InputError(f"image '{path}': 'NDims' is '{axes}'; save an image of two or three axes")
    for names in (PLACES, TURNS):
        found = [name for name in names if name in fields]
        if len(found) > 1:
            raise InputError(f"image '{path}': both {' and '.join(found)}; remove one of them")
    for name in {*PER_AXIS, *TURNS, UNUSED} & fields.keys():
        count = int(axes) ** 2 if name in TURNS else int(axes)
        is_sound = name == UNUSED or all(map(_is_number, fields[name]))
        if len(fields[name]) != count or not is_sound:
            stated = " ".join(fields[name])[:60]
            raise InputError(
                f"image '{path}': '{name}' is '{stated}', not {count} numbers; correct it"
            )
    unit = " ".join(fields.get("DistanceUnits", ["mm"]))
    if unit.lower() not in MILLIMETRES:
        raise InputError(f"image '{path}': 'DistanceUnits' is '{unit}'; save it in mm")
    name = " ".join(fields["ElementDataFile"])
    if name != LOCAL and not (len(name) <= LONGEST_NAME and (path.parent / name).is_file()):
        raise InputError(
            f"image '{path}': ElementDataFile is '{name[:60]}', no such file; correct it, or save "
            "the image as one file"
        )


def _is_number(word: str) -> bool:
    is_plain = re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", word, re.IGNORECASE)
    try:
        return bool(is_plain) and math.isfinite(float(word)) and abs(float(word)) <= LARGEST
    except ValueError:
        return False
