"""Compressed DICOM pixels, decoded twice: of a damaged stream each decoder makes its own ones."""

from __future__ import annotations

import numpy as np
import pydicom
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, get_decoder, pixel_array
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from alignflow.data.dicom import of_first_frame
from alignflow.data.integrity import (
    BLOCK_TOLERANCE,
    GRAY_TOLERANCE,
    block_means,
    require_whole_jpeg,
)
from alignflow.errors import InputError

# Decoders that pydicom has beside ITK's, and the package that each needs.
DECODERS = {
    JPEGBaseline8Bit: ("pillow", "pillow"),
    JPEGExtended12Bit: ("pylibjpeg", "pylibjpeg pylibjpeg-libjpeg"),
    JPEGLossless: ("pylibjpeg", "pylibjpeg pylibjpeg-libjpeg"),
    JPEGLosslessSV1: ("pylibjpeg", "pylibjpeg pylibjpeg-libjpeg"),
    JPEG2000: ("pillow", "pillow"),
    JPEG2000Lossless: ("pillow", "pillow"),
    JPEGLSLossless: ("pyjpegls", "pyjpegls"),
    JPEGLSNearLossless: ("pyjpegls", "pyjpegls"),
    RLELossless: ("pydicom", "pydicom"),
}
LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit)  # decoders round; those of JPEG 2000 for colour alone


def require_same_pixels(dataset: pydicom.Dataset, values: np.ndarray) -> None:
    """Compare compressed pixels with those of another decoder than ITK's.

    Frames of enhanced images are compared without compression too: GDCM rescales those of the
    classes that it knows, and no others.

    Args:
        dataset: as `require_sound` gives it.
        values: (C, X, Y, Z) as ITK gives them, rescaled.

    Raises:
        InputError: pixels differ, the other decoder refuses them, or there is none.
    """
    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    is_plain = not syntax.is_encapsulated
    if is_plain and not dataset.get("PerFrameFunctionalGroupsSequence"):
        return
    plugin = "" if is_plain else _second_decoder(dataset, syntax)
    what = f"image '{dataset.filename}': its compressed pixels are damaged"
    try:
        if syntax == JPEGBaseline8Bit:
            frames = int(dataset.get("NumberOfFrames") or 1)
            for stream in generate_frames(dataset.PixelData, number_of_frames=frames):
                require_whole_jpeg(stream, f"image '{dataset.filename}'")
        other = _decoded(dataset, plugin)
    except InputError:
        raise
    except Exception as error:  # each decoder has exceptions of its own
        reason = (str(error).splitlines() or [""])[-1].strip()[:100]
        raise InputError(f"{what} ({reason}); export it again") from error
    channels, x, y, z = values.shape
    if other.size != values.size:
        raise InputError(f"{what}; export it again")
    other = other.reshape(z, y, x, channels).transpose(3, 0, 2, 1).reshape(-1, x, y)
    values = values.transpose(0, 3, 1, 2).reshape(-1, x, y)
    same = _are_same(values, other, dataset, syntax)
    if not same and is_plain:
        raise InputError(
            f"image '{dataset.filename}': pydicom and ITK rescale it differently; correct "
            "SOPClassUID"
        )
    if not same:
        raise InputError(f"{what}: two decoders make different ones of them; export it again")


def _second_decoder(dataset: pydicom.Dataset, syntax: UID) -> str:
    what = f"image '{dataset.filename}': its compression, {syntax.name},"
    if syntax not in DECODERS:
        raise InputError(f"{what} has no second decoder to check it; save it uncompressed")
    plugin, packages = DECODERS[syntax]
    if plugin not in get_decoder(syntax).available_plugins:
        raise InputError(
            f"{what} needs a second decoder to check it: pip install {packages}, or save it "
            "uncompressed"
        )
    return plugin


def _decoded(dataset: pydicom.Dataset, plugin: str) -> np.ndarray:
    """As pydicom has them, colours for those of a palette, and rescaled."""
    values = pixel_array(dataset, decoding_plugin=plugin)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(values, dataset)
        return colours >> 8 if colours.dtype == np.uint16 else colours  # ITK gives 8 bits
    slope, intercept = _rescale(dataset) if dataset.SamplesPerPixel == 1 else (1, 0)
    return values.astype(np.float64) * slope + intercept


def _are_same(values: np.ndarray, other: np.ndarray, dataset: pydicom.Dataset, syntax: UID) -> bool:
    is_colour_model = str(dataset.PhotometricInterpretation).startswith("YBR_FULL")
    if syntax not in (*LOSSY, JPEG2000) and not is_colour_model:
        return np.allclose(values, other, rtol=1e-5, atol=1e-5)
    is_gray = dataset.SamplesPerPixel == 1 and syntax in LOSSY
    allowed = (GRAY_TOLERANCE if is_gray else BLOCK_TOLERANCE) * abs(_rescale(dataset)[0])
    pair = (values, other) if is_gray else (block_means(values), block_means(other))
    return bool(np.abs(pair[0] - pair[1]).max() <= allowed)


def _rescale(dataset: pydicom.Dataset) -> tuple[float, float]:
    """Slope and intercept, of an enhanced image those of its first frame."""
    item = of_first_frame(dataset, "PixelValueTransformationSequence")
    place = item if "RescaleSlope" in item else dataset
    return float(place.get("RescaleSlope", 1)), float(place.get("RescaleIntercept", 0))
