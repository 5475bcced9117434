"""Ways to damage a file: bytes anywhere, and fields of headers by their meaning."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from random import Random

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

Mutation = Callable[[bytes, Random], bytes]

NUMBERS = ["0", "1", "-1", "-0", "1e308", "-1e-308", "nan", "inf", "-inf", "1e5", "0.5", "-7",
           "65535", "65536", "2147483647", "4294967296", "99999999999999999999", "", " ", "abc",
           "1,5", "1.5.5", "0x10", "\0", "-", "1 2", "1\\2", "+3", "1e", "٣"]  # fmt: skip
BYTES = [0x00, 0x01, 0x7F, 0x80, 0xFF, 0x0A, 0x5C, 0x20]


def flip_bits(data: bytes, random: Random) -> bytes:
    """One to sixteen bits turned over."""
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 4, 16])):
        changed[_position(data, random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, random: Random) -> bytes:
    """One to eight neighbouring bytes set to an awkward or a random value."""
    at, length = _position(data, random), random.choice([1, 2, 4, 8])
    value = random.choice([bytes([random.choice(BYTES)]) * length, random.randbytes(length)])
    return data[:at] + value + data[at + length :]


def truncate(data: bytes, random: Random) -> bytes:
    """The end is missing."""
    return data[: _position(data, random)]


def insert(data: bytes, random: Random) -> bytes:
    """Up to 64 random bytes, or a piece of the file again."""
    at, length = _position(data, random), random.randint(1, 64)
    start = _position(data, random)
    piece = random.choice([random.randbytes(length), data[start : start + length]])
    return data[:at] + piece + data[at:]


def remove(data: bytes, random: Random) -> bytes:
    """Up to 64 bytes are missing."""
    at = _position(data, random)
    return data[:at] + data[at + random.randint(1, 64) :]


def swap_blocks(data: bytes, random: Random) -> bytes:
    """Two blocks of equal length change places."""
    length = random.choice([4, 16, 64, 512])
    first, second = sorted((_position(data, random), _position(data, random)))
    if second - first < length:
        return flip_bits(data, random)
    a, b = data[first : first + length], data[second : second + length]
    return data[:first] + b + data[first + length : second] + a + data[second + length :]


def _position(data: bytes, random: Random) -> int:
    """Half of them within the first 600 bytes, where most formats have their header."""
    end = min(len(data), 600) if random.random() < 0.5 else len(data)
    return random.randrange(end)


def dicom_values(data: bytes, random: Random) -> bytes:
    """One to three elements with another value, VR or length, or without one, or gone."""
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    for _ in range(random.choice([1, 1, 2, 3])):
        place = _any_dataset(dataset, random)
        tags = [tag for tag in place.keys() if tag != 0x7FE00010]  # noqa: SIM118
        if not tags:
            continue
        tag = random.choice(GEOMETRY if random.random() < 0.5 else tags)
        _change(place, Tag(tag), random)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


GEOMETRY = [
    0x00280010, 0x00280011, 0x00280008, 0x00280002, 0x00280004, 0x00280006, 0x00280100,
    0x00280101, 0x00280102, 0x00280103, 0x00281052, 0x00281053, 0x00280030, 0x00200032,
    0x00200037, 0x00180050, 0x00180088, 0x00080060, 0x00080016, 0x0020000E,
]  # fmt: skip


def _any_dataset(dataset: pydicom.Dataset, random: Random) -> pydicom.Dataset:
    """The file's own data set, or an item of a sequence within."""
    found = [dataset]
    for element in dataset:
        if element.VR == "SQ":
            found += list(element.value)
    return random.choice(found) if random.random() < 0.3 else dataset


def _change(dataset: pydicom.Dataset, tag: pydicom.tag.BaseTag, random: Random) -> None:
    kind = random.choice(["gone", "value", "value", "value", "numbers", "VR", "bytes"])
    if kind == "gone":
        dataset.pop(tag, None)
        return
    try:
        vr = dataset[tag].VR if tag in dataset else dictionary_VR(tag)
    except KeyError:
        vr = "LO"
    vr = vr[:2] if vr != "SQ" else "LO"
    if kind == "VR":
        vr = random.choice(["DS", "IS", "US", "SS", "UL", "FD", "LO", "UN", "OB", "CS", "UI"])
    if kind == "numbers":
        parts = [_number(random) for _ in range(random.choice([1, 2, 3, 6, 6, 7]))]
        value = "\\".join(parts).encode("utf-8")
    elif kind == "bytes" or vr in ("US", "SS", "UL", "FD"):
        value = random.randbytes(random.choice([0, 1, 2, 2, 4, 8]))
        if vr == "US" and random.random() < 0.7:
            value = struct.pack("<H", random.choice([0, 1, 2, 3, 7, 8, 12, 16, 32, 255, 65535]))
    else:
        value = _number(random).encode("utf-8")
    value += b" " * (len(value) % 2)
    dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def _number(random: Random) -> str:
    return random.choice(NUMBERS) if random.random() < 0.6 else f"{random.uniform(-300, 300):.4f}"


NIFTI_FIELDS = [  # offset, format, of nifti1.h
    (0, "i"), (39, "B"), *[(40 + 2 * k, "h") for k in range(8)], (70, "h"), (72, "h"), (74, "h"),
    *[(76 + 4 * k, "f") for k in range(8)], (108, "f"), (112, "f"), (116, "f"), (123, "B"),
    (252, "h"), (254, "h"), *[(256 + 4 * k, "f") for k in range(18)], (344, "4s"), (348, "4s"),
]  # fmt: skip


def nifti_fields(data: bytes, random: Random) -> bytes:
    """One to three fields of the header; of a gzip, which is then packed again."""
    import gzip

    packed = data[:2] == b"\x1f\x8b"
    raw = bytearray(gzip.decompress(data) if packed else data)
    order = "<" if raw[0] in (92, 28) else ">"
    for _ in range(random.choice([1, 1, 2, 3])):
        at, kind = random.choice(NIFTI_FIELDS)
        if at + struct.calcsize(kind) > len(raw):
            continue
        struct.pack_into(f"{order}{kind}", raw, at, _field(kind, random))
    return gzip.compress(bytes(raw), mtime=0) if packed else bytes(raw)


def _field(kind: str, random: Random) -> object:
    if kind == "f":
        awkward = [0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), 1e30, 1e-30, 352.0, 348.0]
        return random.choice([*awkward, random.uniform(-3, 3), random.uniform(-200, 200)])
    if kind == "4s":
        return random.choice([b"ni1\0", b"n+1\0", b"n+2\0", b"\1\0\0\0", random.randbytes(4)])
    lowest, highest = {"h": (-(2**15), 2**15 - 1), "i": (-(2**31), 2**31 - 1), "B": (0, 255)}[kind]
    small = [0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 2304]
    return min(highest, max(lowest, random.choice([*small, -1, lowest, highest])))


def text_fields(data: bytes, random: Random) -> bytes:
    """A number, a word or a line of a text header (NRRD, MetaImage, JSON, CSV)."""
    end = _text_end(data)
    text, rest = data[:end].decode("latin-1"), data[end:]
    for _ in range(random.choice([1, 1, 2])):
        kind = random.choice(["number", "number", "number", "line gone", "line twice", "word"])
        pattern = {"number": r"[-+]?\d[\d.eE+-]*", "word": r"[A-Za-z-]{2,}"}.get(kind, r"[^\n]*\n")
        found = list(re.finditer(pattern, text))
        if not found:
            continue
        match = random.choice(found)
        words = ["raw", "gzip", "double", "float", "uchar", "none", "true", "False", "null", "big"]
        new = {
            "number": lambda: random.choice(NUMBERS),
            "word": lambda words=words: random.choice(words),
            "line gone": lambda: "",
            "line twice": lambda match=match: 2 * match[0],
        }[kind]()
        text = text[: match.start()] + new + text[match.end() :]
    return text.encode("latin-1", "replace") + rest


def _text_end(data: bytes) -> int:
    for mark in (b"\n\n", b"ElementDataFile"):
        if mark in data[:4096]:
            return data.index(mark) + (1 if mark == b"\n\n" else 0)
    return len(data)


ANYWHERE: list[Mutation] = [flip_bits, overwrite, truncate, insert, remove, swap_blocks]
BY_FIELD: dict[str, Mutation] = {
    "DICOM": dicom_values,
    "DICOM series": dicom_values,
    "SEG": dicom_values,
    "RTSTRUCT": dicom_values,
    "NIfTI": nifti_fields,
    "NRRD": text_fields,
    "MetaImage": text_fields,
    "dataset.json": text_fields,
    "index.csv": text_fields,
}


def mutate(data: bytes, kind: str, random: Random) -> tuple[bytes, str]:
    """A damaged copy of a file of one kind, and the name of what was done to it."""
    mutation = random.choice(ANYWHERE)
    if kind in BY_FIELD and random.random() < 0.6:
        mutation = BY_FIELD[kind]
    try:
        return mutation(data, random), mutation.__name__
    except Exception:  # pydicom refuses to write some of what it is asked for
        return overwrite(data, random), "overwrite"
