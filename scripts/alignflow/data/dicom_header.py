"""Headers of DICOM images: read as pydicom reads them, refused where they contradict themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from alignflow.errors import InputError

REAL = {  # attributes, and how many numbers they have
    "RescaleSlope": 1,
    "RescaleIntercept": 1,
    "PixelSpacing": 2,
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
}
ORTHONORMAL = 1e-2  # directions are often given to three digits
CENTIMETRES = 3  # PhysicalUnits of an ultrasound region (PS3.3, C.8.5.5.1.15)
PIXELS = 0x7FE0  # group of PixelData, which may begin with spaces
SYNTAXES: dict[Any, UID] = {  # by (implicit VR, little endian)
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def read_file(path: str | Path, **options: Any) -> pydicom.Dataset:
    """A DICOM file, also one without preamble, as old scanners and planning systems write them.

    An attribute without value is as if it were missing: de-identifiers leave them so.

    Args:
        path: the file.
        options: of `pydicom.dcmread`.

    Raises:
        InvalidDicomError: not a DICOM file.
    """
    try:
        dataset: pydicom.Dataset = pydicom.dcmread(path, **options)
    except InvalidDicomError as error:
        dataset = _without_preamble(path, error, **options)
    if "TransferSyntaxUID" not in dataset.file_meta:
        found = SYNTAXES.get(dataset.original_encoding, ImplicitVRLittleEndian)
        dataset.file_meta.TransferSyntaxUID = found
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag)  # not yet converted: a value that is wrong may not matter
        if raw.VR != "SQ" and tag.group != PIXELS and _is_blank(raw.value):
            del dataset[tag]
    return dataset


def _without_preamble(path: str | Path, error: Exception, **options: Any) -> pydicom.Dataset:
    """Any file at all can be read so: one that names no class of objects is not DICOM."""
    try:
        dataset = pydicom.dcmread(path, force=True, **options)
    except Exception:
        raise error from None
    if "SOPClassUID" not in dataset:
        raise error from None
    return dataset


def _is_blank(value: object) -> bool:
    return value is None or isinstance(value, bytes | str) and not value[:64].strip()


def require_sound(dataset: pydicom.Dataset, file: str | Path) -> None:
    """Refuse an image whose place or scale would be a guess; pydicom checks what its pixels need.

    Raises:
        InputError: an attribute is missing, has a value that none of its kind can have, or
            contradicts another one.
    """
    _require_reals(dataset, file)
    for group in GROUPS:
        for functional_groups in dataset.get(group) or []:
            for element in functional_groups:
                for item in element.value if element.VR == "SQ" else []:
                    _require_reals(item, file)
    rescale = {name: dataset.get(name) for name in ("RescaleSlope", "RescaleIntercept")}
    for name, value in rescale.items():
        if value is None and any(other is not None for other in rescale.values()):
            raise _broken(file, name, None)
    if rescale["RescaleSlope"] == 0:
        raise _broken(file, "RescaleSlope", 0)
    _require_frames(dataset, file)


def _broken(file: str | Path, name: str, value: object) -> InputError:
    shown = "missing" if value is None else f"{str(value)[:60]!r}"
    return InputError(f"image '{file}': {name} is {shown}; correct the header, or export it again")


def _require_reals(dataset: pydicom.Dataset, file: str | Path) -> None:
    for name, count in REAL.items():
        if dataset.get(name) is None:
            continue
        numbers = reals(dataset, name, count)
        if numbers is None or (name == "PixelSpacing" and numbers.min() <= 0):
            raise _broken(file, name, dataset[name].value)
        if name == "ImageOrientationPatient":
            axes = numbers.reshape(2, 3)
            if np.abs(axes @ axes.T - np.eye(2)).max() > ORTHONORMAL:
                raise _broken(file, name, dataset[name].value)


def reals(dataset: pydicom.Dataset, name: str, count: int) -> np.ndarray | None:
    """So many finite numbers of an attribute; None where it is missing or holds anything else."""
    try:
        numbers = np.array(dataset.get(name), dtype=float).ravel()
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _require_frames(dataset: pydicom.Dataset, file: str | Path) -> None:
    frames = dataset.get("NumberOfFrames") or 1
    listed = dataset.get("PerFrameFunctionalGroupsSequence")
    missing = [name for name in GROUPS if not dataset.get(name)]  # an empty one is none
    if len(missing) == 1:  # both are of type 1: PS3.3, C.7.6.16
        raise _broken(file, missing[0], None)
    if listed and len(listed) != frames:
        raise _broken(file, "NumberOfFrames", f"{frames}, but {len(listed)} are described")


def functional(dataset: pydicom.Dataset, group: str, frame: int = 0) -> pydicom.Dataset:
    """The item of a functional group of a frame, or of all frames (PS3.3, C.7.6.16.1)."""
    shared = (dataset.get(GROUPS[0]) or [pydicom.Dataset()])[0]
    frames = dataset.get(GROUPS[1]) or [shared] * (frame + 1)
    return (frames[frame].get(group) or shared.get(group) or [pydicom.Dataset()])[0]


def pixel_spacing(dataset: pydicom.Dataset) -> np.ndarray | None:
    """(2,) mm between rows and between columns; None where the file does not state it.

    Of a radiograph that states no other it is that of the detector, of an ultrasound image that of
    its regions, where all agree.
    """
    measures = functional(dataset, "PixelMeasuresSequence")
    for place, name in (
        (dataset, "PixelSpacing"),
        (measures, "PixelSpacing"),
        (dataset, "ImagerPixelSpacing"),
        (dataset, "NominalScannedPixelSpacing"),
    ):
        numbers = reals(place, name, 2)
        if numbers is not None and numbers.min() > 0:
            return numbers
    regions = {_region_spacing(r) for r in dataset.get("SequenceOfUltrasoundRegions") or []}
    only = regions.pop() if len(regions) == 1 else None
    return None if only is None else np.array(only)


def _region_spacing(region: pydicom.Dataset) -> tuple[float, float] | None:
    """None for a region with other axes than lengths (PS3.3, C.8.5.5): M-mode, Doppler."""
    units = {region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")}
    deltas = [reals(region, f"PhysicalDelta{axis}", 1) for axis in "YX"]
    if units != {CENTIMETRES} or any(delta is None or not delta[0] for delta in deltas):
        return None
    row, column = (10 * abs(float(delta[0])) for delta in deltas if delta is not None)
    return row, column


def slice_thickness(dataset: pydicom.Dataset) -> float:
    """mm from slice to slice where no positions tell: 1 where the header does not either.

    A spacing is negative where frames run against the normal (PS3.3, C.8.4.15).
    """
    measures = functional(dataset, "PixelMeasuresSequence")
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        for place in (dataset, measures):
            numbers = reals(place, name, 1)
            if numbers is not None and numbers[0]:
                return abs(float(numbers[0]))
    return 1.0


def place_of(dataset: pydicom.Dataset) -> tuple[np.ndarray, bool]:
    """Affine (4, 4), LPS, of a single image or frame, and whether the file states its pixel size.

    What of its plane is not stated is 0, and along the axes of the patient.
    """
    position = reals(dataset, "ImagePositionPatient", 3)
    plane = functional(dataset, "PlanePositionSequence")
    position = reals(plane, "ImagePositionPatient", 3) if position is None else position
    turned = reals(dataset, "ImageOrientationPatient", 6)
    group = functional(dataset, "PlaneOrientationSequence")
    turned = reals(group, "ImageOrientationPatient", 6) if turned is None else turned
    spacing = pixel_spacing(dataset)
    affine = np.eye(4)
    if turned is not None:
        axes = turned.reshape(2, 3)
        affine[:3, :3] = np.c_[axes.T, np.cross(*axes)]
    if position is not None:
        affine[:3, 3] = position
    row, column = (1.0, 1.0) if spacing is None else map(float, spacing)
    affine[:3, :3] *= [column, row, slice_thickness(dataset)]
    return affine, spacing is not None
