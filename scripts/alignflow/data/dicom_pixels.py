"""Pixel values of a DICOM file (PS3.3, C.7.6.3 and C.11.1), decoded by pydicom."""

from __future__ import annotations

import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, pixel_array
from pydicom.uid import (
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from alignflow.data.dicom_header import functional
from alignflow.errors import InputError

DECODERS = {  # by transfer syntax: plugin, and package; others are those of JPEG 2000
    JPEGBaseline8Bit: ("pillow", "pillow"),
    JPEGExtended12Bit: ("pillow", "pillow"),
    JPEGLossless: ("gdcm", "python-gdcm"),
    JPEGLosslessSV1: ("gdcm", "python-gdcm"),
    JPEGLSLossless: ("pyjpegls", "pyjpegls"),
    JPEGLSNearLossless: ("pyjpegls", "pyjpegls"),
    RLELossless: ("pydicom", "pydicom"),
}
QUANTITIES = ("CT", "PT")  # their values are HU and Bq/ml, whatever the photometric interpretation


def native_values(dataset: pydicom.Dataset) -> np.ndarray:
    """(C, X, Y, frames) after modality LUT or rescale, bright being high; RGB of colours.

    Args:
        dataset: as `dicom_header.read_file` gives it.

    Raises:
        InputError: a compression that needs a package which is not installed; more frames than
            are stated.
        Exception: whatever pydicom and its decoders raise on damaged pixels.
    """
    stored = pixel_array(dataset, decoding_plugin=_decoder(dataset))
    frames = int(dataset.get("NumberOfFrames") or 1)
    if stored.size != frames * dataset.Rows * dataset.Columns * dataset.SamplesPerPixel:
        raise InputError(
            f"image '{dataset.filename}': more pixels than Rows, Columns and NumberOfFrames state; "
            "export it again"
        )
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(stored, dataset)
        stored = (colours >> 8).astype(np.uint8) if colours.dtype == np.uint16 else colours
    elif dataset.SamplesPerPixel == 1:
        stored = _without_unused_bits(stored, dataset)
        _unpack_lut(dataset)
    values = stored.reshape(frames, dataset.Rows, dataset.Columns, -1).transpose(3, 2, 1, 0)
    if len(values) == 1:
        parts = [_rescaled(values[..., k], dataset, k) for k in range(frames)]
        values = np.stack(parts, axis=-1)
    return _in_fitting_type(values)


def _decoder(dataset: pydicom.Dataset) -> str:
    """The plugin of pydicom that decodes a file; "" for uncompressed pixels.

    GDCM, which pydicom asks first, ends the process at some damaged streams.

    Raises:
        InputError: its package is not installed.
    """
    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    if not syntax.is_encapsulated:
        return ""
    plugin, packages = DECODERS.get(syntax, ("pylibjpeg", "pylibjpeg pylibjpeg-openjpeg"))
    if syntax == JPEGExtended12Bit and dataset.BitsStored > 8:  # PS3.5, 8.2.1
        plugin, packages = "pylibjpeg", "pylibjpeg pylibjpeg-libjpeg (GPL-3)"
    if plugin not in get_decoder(syntax).available_plugins:
        raise InputError(
            f"image '{dataset.filename}': its compression, {syntax.name}, needs pip install "
            f"{packages}; or save it uncompressed"
        )
    return plugin


def _without_unused_bits(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Old files keep an overlay in the bits above the stored ones (PS3.5, 8.1.2).

    Raises:
        InputError: the stored bits are not the lowest ones.
    """
    if stored.dtype.kind not in "iu" or dataset.BitsAllocated == 1:
        return stored
    if dataset.get("HighBit") in range(dataset.BitsStored, dataset.BitsAllocated):
        raise InputError(
            f"image '{dataset.filename}': HighBit is {dataset.HighBit} with BitsStored "
            f"{dataset.BitsStored}; export it again"
        )
    unused = dataset.BitsAllocated - dataset.BitsStored
    return (stored << unused) >> unused


def _unpack_lut(dataset: pydicom.Dataset) -> None:
    """Entries of 8 bits of a modality LUT as words, as pydicom takes them (PS3.3, C.11.1.1.1)."""
    for lut in dataset.get("ModalityLUTSequence") or []:
        count, data = lut.LUTDescriptor[0] or 2**16, lut.LUTData
        packed = data if isinstance(data, bytes) else np.array(data, "<u2").tobytes()
        if lut.LUTDescriptor[2] == 8 and len(packed) == count + count % 2:
            lut.add_new("LUTData", "US", list(packed[:count]))


def _rescaled(stored: np.ndarray, dataset: pydicom.Dataset, frame: int) -> np.ndarray:
    """Values of one frame; MONOCHROME1, in which low is bright, is turned over."""
    of_frame = functional(dataset, "PixelValueTransformationSequence", frame)
    rule = dataset if of_frame.get("RescaleSlope") is None else of_frame
    values = apply_modality_lut(stored, rule)
    if dataset.PhotometricInterpretation != "MONOCHROME1" or dataset.get("Modality") in QUANTITIES:
        return values
    half = 2 ** (dataset.BitsStored - 1)
    ends = (-half, half - 1) if dataset.PixelRepresentation else (0, 2 * half - 1)
    return apply_modality_lut(np.array(ends), rule).sum() - values


def _in_fitting_type(values: np.ndarray) -> np.ndarray:
    """Whole numbers as integers: a rescale gives float64, also of -1024 to 3071."""
    if values.dtype.kind in "iu" and values.dtype.itemsize < 4:
        return values
    if not (values == np.rint(values)).all():
        return values.astype(np.float32)
    low, high = values.min(), values.max()
    fitting = (t for t in ("int16", "uint16", "int32") if np.iinfo(t).min <= low)
    return values.astype(next((t for t in fitting if high <= np.iinfo(t).max), "float64"))
