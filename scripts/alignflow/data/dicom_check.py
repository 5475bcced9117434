"""DICOM files that contradict themselves, refused before and after ITK reads them.

GDCM, ITK's DICOM reader, ends the process at some broken headers, and at others goes on with a
value of its own, such as pixels of 1 mm. pydicom reads the header a second time and tells.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import UID, RLELossless

from alignflow.data.dicom import PLANE, functional, of_first_frame
from alignflow.errors import InputError

# Attributes of an image (PS3.3, C.7.6.3 and C.11.1): how many numbers, which ones, needed or not.
WHOLE = {
    "Rows": range(1, 2**16),
    "Columns": range(1, 2**16),
    "SamplesPerPixel": (1, 3),
    "BitsAllocated": (8, 16, 32, 64),
    "BitsStored": range(1, 65),
    "HighBit": range(64),
    "PixelRepresentation": (0, 1),
}
REAL = {
    "RescaleSlope": 1,
    "RescaleIntercept": 1,
    "PixelSpacing": 2,
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
    "SliceThickness": 1,
    "SpacingBetweenSlices": 1,
}
PHOTOMETRIC = {
    1: ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"),
    3: ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420"),
}
ORTHONORMAL = 1e-2  # directions are often given to three digits
PLACE_TOLERANCE = 0.05  # of a voxel, as `check_pair` has it
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def require_sound(file: str | Path) -> pydicom.Dataset:
    """The header of one image file.

    Raises:
        InputError: an attribute that pixels or their place depend on is missing, has a value that
            none of its kind can have, or contradicts another one; too few pixels.
    """
    dataset = pydicom.dcmread(file)
    for name, allowed in WHOLE.items():
        value = dataset.get(name)
        if not isinstance(value, int) or value not in allowed:
            raise _broken(file, name, value)
    for name, count in REAL.items():
        _require_reals(dataset, name, count, file)
    for group in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for functional_groups in dataset.get(group) or []:
            for element in functional_groups:
                for item in element.value if element.VR == "SQ" else []:
                    for name, count in REAL.items():
                        _require_reals(item, name, count, file)
    if dataset.SamplesPerPixel == 3 and dataset.get("PlanarConfiguration") not in (0, 1):
        raise _broken(file, "PlanarConfiguration", dataset.get("PlanarConfiguration"))
    if dataset.BitsStored > dataset.BitsAllocated or dataset.HighBit != dataset.BitsStored - 1:
        raise _broken(file, "HighBit", dataset.HighBit)
    if dataset.get("PhotometricInterpretation") not in PHOTOMETRIC[dataset.SamplesPerPixel]:
        name = "PhotometricInterpretation"
        raise _broken(file, name, dataset.get(name))
    if ("RescaleSlope" in dataset) != ("RescaleIntercept" in dataset) or dataset.get(
        "RescaleSlope", 1
    ) == 0:
        raise _broken(file, "RescaleSlope", dataset.get("RescaleSlope"))
    _require_frames(dataset, file)
    _require_pixels(dataset, file)
    return dataset


def _broken(file: str | Path, name: str, value: object) -> InputError:
    shown = "missing" if value is None else f"{str(value)[:60]!r}"
    return InputError(f"image '{file}': {name} is {shown}; correct the header, or export it again")


def _require_reals(dataset: pydicom.Dataset, name: str, count: int, file: str | Path) -> None:
    if name not in dataset:
        return
    value = dataset.get(name)
    if value is None and name in ("SliceThickness", "SpacingBetweenSlices"):  # may be empty
        return
    try:
        numbers = [float(x) for x in np.atleast_1d(np.array(value, dtype=object))]
    except (TypeError, ValueError) as error:
        raise _broken(file, name, value) from error
    positive = name in ("PixelSpacing", "SpacingBetweenSlices")
    if (
        len(numbers) != count
        or not all(map(math.isfinite, numbers))
        or (positive and min(numbers) <= 0)
        or (name == "SliceThickness" and numbers[0] < 0)
    ):
        raise _broken(file, name, value)
    if name == "ImageOrientationPatient":
        axes = np.reshape(numbers, (2, 3))
        if np.abs(axes @ axes.T - np.eye(2)).max() > ORTHONORMAL:
            raise _broken(file, name, value)


def _require_frames(dataset: pydicom.Dataset, file: str | Path) -> None:
    frames = dataset.get("NumberOfFrames", 1) or 1
    if not isinstance(frames, int) or frames < 1:
        raise _broken(file, "NumberOfFrames", frames)
    listed = dataset.get("PerFrameFunctionalGroupsSequence")
    groups = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    missing = [name for name in groups if not dataset.get(name)]  # an empty one is none
    if len(missing) == 1:  # both are of type 1: PS3.3, C.7.6.16
        raise _broken(file, missing[0], None)
    if listed and len(listed) != frames:
        raise _broken(file, "NumberOfFrames", f"{frames}, but {len(listed)} are described")


def _require_pixels(dataset: pydicom.Dataset, file: str | Path) -> None:
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID", "")))
    data = dataset.get("PixelData")
    if not data:
        raise InputError(f"image '{file}': no pixel data; export it again")
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise _broken(file, "TransferSyntaxUID", syntax)
    if syntax.is_encapsulated and syntax != RLELossless and dataset.get("PlanarConfiguration"):
        raise _broken(file, "PlanarConfiguration", dataset.PlanarConfiguration)
    expected = get_expected_length(dataset)
    # Some writers fill up with zeros behind the pixels.
    if not syntax.is_encapsulated and (len(data) < expected or any(data[expected:][1:])):
        raise InputError(
            f"image '{file}': {len(data)} bytes of pixels where {expected} are needed; export it "
            "again"
        )


def place_of(header: pydicom.Dataset, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The affine by ITK, where the header of the first slice agrees (PS3.3, C.7.6.2.1.1).

    Where the header states a size of pixels and no plane, as radiographs do, ITK takes other
    attributes for some SOP classes; then the size is the stated one.

    Args:
        header: as `require_sound` gives it.
        affine: RAS, as ITK gives it.
        shape: (X, Y, Z) of the volume.

    Raises:
        InputError: ITK finds another size, or puts the slice elsewhere.
    """
    if shape[:2] != (header.Columns, header.Rows):
        raise InputError(
            f"image '{header.filename}': {shape[0]} x {shape[1]} pixels, but its header states "
            f"{header.Columns} x {header.Rows}; export it again"
        )
    if header.get("PerFrameFunctionalGroupsSequence"):
        _require_one_rescale(header)
    position, orientation, spacing = (_of_image(header, *names) for names in PLANE)
    if not spacing:
        return affine
    row, column = (float(x) for x in spacing)
    if not position or not orientation:
        sized = affine.copy()
        sized[:3, :2] *= [column, row] / np.linalg.norm(affine[:3, :2], axis=0)
        return sized
    if header.get("PerFrameFunctionalGroupsSequence") and shape[2] > 1:
        return affine  # the frames are not in order yet; `Series.planes` has their place
    across, down = np.reshape(orientation, (2, 3)).astype(float)
    corner = np.array(position, dtype=float)
    stated = LPS[:3, :3] @ np.c_[across * column, down * row, corner]
    shift = (stated - affine[:3, [0, 1, 3]]) * [shape[0] - 1, shape[1] - 1, 1]
    normal = LPS[:3, :3] @ np.cross(across, down)
    is_turned = shape[2] == 1 and normal @ affine[:3, 2] < 0
    if np.abs(shift).max() > PLACE_TOLERANCE * min(row, column) or is_turned:
        raise InputError(
            f"image '{header.filename}': pydicom and ITK put it in different places; correct "
            "SOPClassUID, PixelSpacing, SpacingBetweenSlices and the attributes of its plane"
        )
    return affine


def _require_one_rescale(header: pydicom.Dataset) -> None:
    """ITK scales all frames of an enhanced image as it scales one."""
    shared = header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    scales = set()
    for frame in header.PerFrameFunctionalGroupsSequence:
        item = functional(frame, shared[0], "PixelValueTransformationSequence")
        scales.add((item.get("RescaleSlope"), item.get("RescaleIntercept")))
    if len(scales) > 1:
        raise InputError(
            f"image '{header.filename}': frames of different rescale; save it frame by frame"
        )


def _of_image(header: pydicom.Dataset, group: str, name: str) -> Any:
    """An attribute of an image, or of the first frame of an enhanced one."""
    return header.get(name) or of_first_frame(header, f"{group}Sequence").get(name)
