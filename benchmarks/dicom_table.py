"""How DICOM files are read: each against pydicom and its own decoders, or the line of refusal.

    python benchmarks/dicom_table.py [--folder DIR ...] [--output TABLE.md]

Without a folder: every file of pydicom's own tests (they come with its wheel), and the folder
`dicom_samples` of ALIGNFLOW_DATA where that is set. They are decoded
by another plugin of pydicom than the package takes, where there is one. Nothing may end in a
traceback; if something does, or differs, the exit code is 1.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
from common import command_line
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, pixel_array
from pydicom.uid import UID

from alignflow.data.dicom_pixels import DECODERS, QUANTITIES
from alignflow.data.formats import load, split_suffix
from alignflow.errors import InputError

LOSSY = 3.0  # gray levels that two decoders of lossy JPEG or two colour conversions may differ by


@dataclass
class Row:
    """One file: what it is, and how it was read."""

    name: str
    what: str
    result: str
    detail: str


def main() -> None:
    """Print the table, and fail where a file was misread."""
    parser = command_line(__doc__)
    parser.add_argument("--folder", type=Path, action="append", help="search these instead")
    parser.add_argument("--output", type=Path, help="write the table there (Markdown)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    files = sorted(_files(options.folder))
    rows = [row for file in files if (row := read(file)) is not None]
    text = table(rows)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    sys.exit(any(row.result in ("differs", "traceback") for row in rows))


def _files(folders: list[Path] | None) -> list[Path]:
    if folders is None:
        folders = [Path(pydicom.data.__file__).parent / "test_files"]
        if os.environ.get("ALIGNFLOW_DATA"):
            folders.append(Path(os.environ["ALIGNFLOW_DATA"]) / "dicom_samples")
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def read(path: Path) -> Row | None:
    """None for a file that is no DICOM and does not call itself so."""
    what = describe(path)
    if what is None:
        return None
    name = "/".join(path.parts[-2:])
    is_mask = what.startswith(("SEG", "RTSTRUCT"))
    with tempfile.TemporaryDirectory() as folder:
        named = path
        if not split_suffix(path)[1]:  # `run collect` gives files the suffix that they lack
            named = Path(folder) / f"{path.name}.dcm"
            named.symlink_to(path)
        return compare(named, name, what, is_mask)


def compare(path: Path, name: str, what: str, is_mask: bool) -> Row:
    """Read one file, and by pydicom again."""
    try:
        image = load(path, is_mask=is_mask).numpy()
    except InputError as error:
        return Row(name, what, "refused", str(error).replace(str(path), path.name))
    except Exception as error:
        return Row(name, what, "traceback", repr(error)[:200])
    if is_mask:
        return Row(name, what, "read", f"{image.shape}, values {np.unique(image).tolist()}")
    try:
        expected = reference(path)
    except Exception as error:
        return Row(name, what, "not compared", f"pydicom: {str(error).splitlines()[0][:150]}")
    if image.shape != expected.shape:
        return Row(name, what, "differs", f"shape {image.shape}, pydicom has {expected.shape}")
    largest = float(np.abs(image - expected).max())
    allowed = LOSSY if is_inexact(path) else 1e-5 * max(1.0, np.abs(expected).max())
    return Row(name, what, "read" if largest <= allowed else "differs", f"by at most {largest:.3g}")


def describe(path: Path) -> str | None:
    """Modality, colour, frames and transfer syntax of a file."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except Exception:
        return "no DICOM header" if path.suffix == ".dcm" else None
    syntax = UID(str(header.file_meta.get("TransferSyntaxUID", "")))
    parts = [
        str(header.get("Modality") or "no modality"),
        str(header.get("PhotometricInterpretation", "no pixels")),
        f"{header.get('BitsStored', '?')} bits",
        f"{header.get('NumberOfFrames') or 1} frames",
        syntax.name if syntax else "no syntax",
    ]
    return ", ".join(parts)


def is_inexact(path: Path) -> bool:
    """Lossy JPEG (but not JPEG 2000, whose decoding is exact enough) and colour differences."""
    header = pydicom.dcmread(path, stop_before_pixels=True)
    syntax = header.file_meta.get("TransferSyntaxUID", "")
    lossy = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.91")
    return str(syntax) in lossy or str(header.get("PhotometricInterpretation")).startswith("YBR")


def other_plugin(header: pydicom.Dataset) -> str:
    """A decoder that the package does not take, where there is one; "" for uncompressed pixels."""
    syntax = UID(str(header.file_meta.TransferSyntaxUID))
    if not syntax.is_encapsulated:
        return ""
    found = get_decoder(syntax).available_plugins
    ours = DECODERS.get(syntax, ("pylibjpeg", ""))[0]
    return next((plugin for plugin in found if plugin != ours), "")


def reference(path: Path) -> np.ndarray:
    """(C, X, Y, Z) as pydicom decodes it, by the rules that `formats.load` states."""
    header = pydicom.dcmread(path)
    values = pixel_array(header, decoding_plugin=other_plugin(header))
    photometric = header.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        values = apply_color_lut(values, header)
        values = values >> 8 if values.dtype == np.uint16 else values
    if header.SamplesPerPixel == 1:
        values = apply_modality_lut(values, header)
    values = values.astype(np.float64)
    if photometric == "MONOCHROME1" and header.get("Modality") not in QUANTITIES:
        ends = (
            (-(2 ** (header.BitsStored - 1)), 2 ** (header.BitsStored - 1) - 1)
            if header.PixelRepresentation
            else (0, 2**header.BitsStored - 1)
        )
        values = apply_modality_lut(np.array(ends), header).sum() - values
    frames = int(header.get("NumberOfFrames") or 1)
    channels = values.shape[-1] if values.ndim > 2 + (frames > 1) else 1
    volume = values.reshape(frames, header.Rows, header.Columns, channels)
    return volume.transpose(3, 2, 1, 0)


def table(rows: list[Row]) -> str:
    """Markdown; files that have everything but the name in common share a line."""
    count = Counter(row.result for row in rows)
    lines = [", ".join(f"{n} {result}" for result, n in count.most_common()), ""]
    lines += ["| file | what it is | result | detail |", "|---|---|---|---|"]
    shared: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        detail = row.detail.replace(row.name.split("/")[-1], "FILE")
        shared.setdefault((row.what, row.result, detail), []).append(row.name)
    for (what, result, detail), names in shared.items():
        name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} like it"
        lines.append(f"| {name} | {what} | {result} | {detail.replace('|', '/')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
