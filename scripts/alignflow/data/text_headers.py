"""Headers of NRRD and MetaImage files, which are lines of text, read strictly before ITK does.

ITK passes over lines that it does not know and takes "1e" for 1; at others it ends the process or
does not end at all. What is looked at here are the names of the fields (teem.sourceforge.net/nrrd/
format.html; itk.org/Wiki/MetaIO/Documentation), the form of those that pixels or their place depend
on, and the length of the data.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np

from alignflow.data.integrity import inflated
from alignflow.errors import InputError

LARGEST = 1e12  # of a header; the SVD of ITK does not end with 1e308 in a direction
LONGEST = 1000  # characters of a value; MetaIO writes beyond its arrays
LONGEST_NAME = 200  # of a file; file systems end at 255 bytes
WHOLE = r"\d+"
REAL = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
VECTOR = rf"\([ \t]*{REAL}(?:[ \t]*,[ \t]*{REAL})*[ \t]*\)"
BOOLEAN = "(?i:true|false)"
OWN = r"[A-Za-z0-9][\w.:|/ ()\[\]-]*"  # a name that a writer made up, such as ITK's "dim[0]"


def _list_of(form: str) -> str:
    return rf"(?:{form})(?:[ \t]+(?:{form}))*"


REALS = _list_of(REAL)
TEXT = ("ascii", "text", "txt")
NRRD = {  # fields that matter, and the form of their values; other fields of the standard
    "encoding": f"(?i:raw|gzip|gz|{'|'.join(TEXT)})",
    "dimension": WHOLE,
    "sizes": _list_of(WHOLE),
    "spacings": _list_of(f"{REAL}|(?i:nan)"),
    "space dimension": WHOLE,
    "space directions": _list_of(f"{VECTOR}|none"),
    "space origin": VECTOR,
    "space units": _list_of(r'"(?:mm|millimeters?|millimetres?|\?\?\?)?"'),
    "line skip": "0",  # what is skipped, and data in another file, nothing here can check
    "lineskip": "0",
    "byte skip": "0",
    "byteskip": "0",
    "units": _list_of(r'"(?:mm|millimeters?|millimetres?|\?\?\?)?"'),
} | dict.fromkeys(
    [
        *("type", "block size", "blocksize", "endian", "content", "min", "max", "old min"),
        *("oldmin", "old max", "oldmax", "number", "sample units", "sampleunits"),
        *("thicknesses", "axis mins", "axismins", "axis maxs", "axismaxs", "centers"),
        *("centerings", "labels", "kinds", "space", "measurement frame"),
    ],
    ".*",
)
DETACHED = ("data file", "datafile")
META = {
    "ObjectType": "Image",
    "NDims": "[23]|4",
    "DimSize": _list_of(WHOLE),
    "ElementType": r"MET_\w+",
    "ElementDataFile": ".+",
    "ElementNumberOfChannels": WHOLE,
    "ElementSpacing": REALS,
    "ElementSize": REALS,
    "Offset": REALS,
    "Position": REALS,
    "Origin": REALS,
    "TransformMatrix": REALS,
    "Orientation": REALS,
    "Rotation": REALS,
    "CenterOfRotation": REALS,
    "AnatomicalOrientation": r"[LRAPSI?]+",
    "DistanceUnits": r"mm|\?",
    "BinaryData": "(?i:true)",
    "BinaryDataByteOrderMSB": BOOLEAN,
    "ElementByteOrderMSB": BOOLEAN,
    "CompressedData": BOOLEAN,
    "CompressedDataSize": WHOLE,
    "HeaderSize": rf"-1|{WHOLE}",
}
NEEDED = {
    "NRRD": ("type", "dimension", "sizes", "encoding"),
    "MetaImage": ("NDims", "DimSize", "ElementType", "ElementDataFile"),
}
SQUARE = ("TransformMatrix", "Orientation", "Rotation")
# MetaIO takes numbers that are missing from the next line.
PER_AXIS = ("DimSize", "ElementSpacing", "Offset", "Position", "Origin", "CenterOfRotation")
ONE_OF = (SQUARE, ("Offset", "Position", "Origin"))  # names of one thing


def require_sound_header(path: Path) -> None:
    """Check names and values of a header.

    Raises:
        InputError: it does not end, a field is missing, stands twice or is none of the standard, a
            value has not the form of its kind, lengths are not in mm, the data of a MetaImage lie
            in a file that does not exist.
    """
    header = _split(path)[0]
    is_nrrd = _is_nrrd(header)
    fields, forms = _fields(header, path), NRRD if is_nrrd else META
    for name in NEEDED["NRRD" if is_nrrd else "MetaImage"]:
        if name not in fields:
            raise InputError(f"image '{path}': its header has no '{name}'; add it")
    for name in forms.keys() & fields.keys():
        numbers = re.findall(rf"(?<![\w.]){REAL}", fields[name]) if forms[name] != ".*" else []
        is_right = len(fields[name]) <= LONGEST and re.fullmatch(forms[name], fields[name])
        if not is_right or any(abs(float(number)) > LARGEST for number in numbers):
            raise InputError(f"image '{path}': '{name}' is {fields[name][:60]!r}; correct it")
    if not is_nrrd:
        _require_axes(fields, path)
        _require_data_file(fields["ElementDataFile"], path)


def _require_axes(fields: dict[str, str], path: Path) -> None:
    axes = int(fields["NDims"])
    for name in {*PER_AXIS, *SQUARE} & fields.keys():
        wanted = axes**2 if name in SQUARE else axes
        if len(fields[name].split()) != wanted:
            raise InputError(f"image '{path}': '{name}' has not {wanted} numbers; correct it")
    for names in ONE_OF:
        found = [name for name in names if name in fields]
        if len(found) > 1:
            raise InputError(f"image '{path}': both {' and '.join(found)}; leave one of them")


def _require_data_file(name: str, path: Path) -> None:
    """MetaIO ends the process at some names, and knows patterns and lists of files."""
    is_name = "\0" not in name and len(name) <= LONGEST_NAME
    if name != "LOCAL" and not (is_name and (path.parent / name).is_file()):
        raise InputError(
            f"image '{path}': ElementDataFile is {name[:60]!r}, no such file; correct it, or save "
            "the image as one file"
        )


def require_whole_data(path: Path, count: int, dtype: np.dtype) -> None:
    """Whether the data of an NRRD or MetaImage file are as long as its header says.

    Args:
        path: the file.
        count: of all values.
        dtype: of a value.

    Raises:
        InputError: there are more or fewer, or a word of text is no number.
        zlib.error: packed data are damaged.
    """
    header, data = _split(path)
    fields = _fields(header, path)
    encoding = fields.get("encoding", "raw").lower()
    if fields.get("ElementDataFile", "LOCAL") != "LOCAL":
        data = (path.parent / fields["ElementDataFile"]).read_bytes()
    if fields.get("CompressedData", "False").lower() == "true":
        encoding = "gzip"
        if fields.get("CompressedDataSize") != str(len(data)):  # ITK reads as much as it states
            raise InputError(
                f"image '{path}': {len(data)} bytes of packed data, but 'CompressedDataSize' is "
                f"{fields.get('CompressedDataSize')}; replace or remove it"
            )
    if encoding in TEXT:
        _require_numbers(data, count, dtype, path)
        return
    if _is_nrrd(header) and dtype.itemsize > 1 and "endian" not in fields:
        raise InputError(f"image '{path}': its header has no 'endian'; add it")
    expected = count * dtype.itemsize
    if encoding in ("gzip", "gz"):
        try:
            data = inflated(data, expected, wbits=32 + zlib.MAX_WBITS)  # of either kind of header
        except EOFError as error:
            raise InputError(
                f"image '{path}': its packed data do not end; replace or remove it"
            ) from error
    length = len(data) - max(0, int(fields.get("HeaderSize", 0)))
    if length != expected and not (fields.get("HeaderSize") == "-1" and length > expected):
        raise InputError(
            f"image '{path}': {length} bytes of data, but its header needs {expected}; replace "
            "or remove it"
        )


def _require_numbers(data: bytes, count: int, dtype: np.dtype, path: Path) -> None:
    words = data.decode("latin-1").split()
    form = REAL if dtype.kind == "f" else r"[-+]?\d+"
    wrong = next((word for word in words if not re.fullmatch(form, word, re.ASCII)), None)
    if wrong is not None:
        raise InputError(f"image '{path}': {wrong[:20]!r} among its values; replace or remove it")
    if len(words) != count:
        raise InputError(
            f"image '{path}': {len(words)} values, but its header needs {count}; replace or remove "
            "it"
        )


def _is_nrrd(content: bytes) -> bool:
    return content.startswith(b"NRRD")


def _split(path: Path) -> tuple[bytes, bytes]:
    """Header and what follows it."""
    content = path.read_bytes()
    mark = rb"\r?\n\r?\n" if _is_nrrd(content) else rb"(?<=\n)[ \t]*ElementDataFile[^\n]*(\n|$)"
    end = re.search(mark, content)
    if end is None:
        raise InputError(f"image '{path}': its header does not end; replace or remove it")
    return content[: end.start() if _is_nrrd(content) else end.end()], content[end.end() :]


def _fields(header: bytes, path: Path) -> dict[str, str]:
    """Lines "name: value" or "name = value"."""
    is_nrrd = _is_nrrd(header)
    lines = header.decode("latin-1").split("\n")
    known = {name.lower(): name for name in (NRRD if is_nrrd else META)}
    fields: dict[str, str] = {}
    for line in lines[1:] if is_nrrd else lines:  # the first line of NRRD is its version
        line = line.strip("\r \t")
        name, mark, value = line.partition(":" if is_nrrd else "=")
        name, value = name.strip(), value.strip()
        is_pair = is_nrrd and value.startswith("=") and name.lower() not in known
        if not line or is_nrrd and (line.startswith("#") or is_pair):
            continue
        # Readers differ on whether case matters. MetaImage has fields of its writers' own.
        own = None if is_nrrd or not re.fullmatch(OWN, name, re.ASCII) else name
        spelled = known.get(name.lower(), own)
        if is_nrrd and name.lower() in DETACHED:
            raise InputError(
                f"image '{path}': its data lie in another file; save the image as one file"
            )
        if not mark or not name or name != spelled:
            raise InputError(
                f"image '{path}': line {line[:60]!r} of its header is no field; "
                + (f"write '{spelled}'" if spelled and mark else "correct it")
            )
        if name in fields and name != "Comment":
            raise InputError(f"image '{path}': '{name}' stands twice in its header; correct it")
        fields[name] = value
    return fields
