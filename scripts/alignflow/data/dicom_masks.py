"""Masks read from DICOM: segmentations (PS3.3, A.51) and structure sets (PS3.3, A.19).

Both name regions of another series by their place in space, so they are laid on its grid.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from skimage.draw import polygon2mask

from alignflow.data.dicom_header import read_file
from alignflow.data.dicom_planes import LPS, Planes
from alignflow.errors import InputError

logger = logging.getLogger(__name__)

# Our own coding scheme, of classes: the code of one is its value in native masks.
SCHEME = "99ALIGNFLOW"
KINDS = ("SEG", "RTSTRUCT")
ON_GRID = 0.05  # of a voxel, as `check_pair` has it


@dataclass(frozen=True)
class Region:
    """One segment or structure: `inside` is bool (X, Y, Z)."""

    name: str
    value: float
    inside: np.ndarray


def is_dicom_mask(path: Path) -> bool:
    """Whether a file is a segmentation or a structure set."""
    header = read_file(path, stop_before_pixels=True, specific_tags=["Modality", "SOPClassUID"])
    return header.get("Modality") in KINDS


def require_highdicom() -> Any:
    """The package highdicom.

    Raises:
        InputError: it is not installed.
    """
    try:
        import highdicom
        import highdicom.seg
    except ImportError as error:
        raise InputError("DICOM segmentations need pip install highdicom") from error
    return highdicom


def read_mask(
    path: Path,
    shape: tuple[int, ...] | None,
    affine: np.ndarray | None,
    overlap: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[float, str]]:
    """One array of label values from all regions of a file.

    Segments have the values that `dicom_seg` wrote them with, else their numbers; structures have
    the numbers of their ROIs.

    Args:
        path: the file.
        shape: (X, Y, Z) of the image that the mask belongs to; None for the file's own grid.
        affine: of that image, RAS in mm.
        overlap: as `combine` has it.

    Returns:
        (1, X, Y, Z), its affine, and the names of its values (labels of segments, structures).

    Raises:
        InputError: highdicom is missing, regions that overlap, that lie beside the image or on
            another grid, contours that are not closed in a plane; a structure set without an image.
    """
    header = read_file(path, stop_before_pixels=True)
    if header.Modality == "SEG":
        _require_frames(header, path)
        found, affine = _segments(path, shape, affine)
    elif shape is None or affine is None:
        raise InputError(f"mask '{path}': a structure set has no grid of its own; give its image")
    else:
        found = list(_structures(header, path, shape[:2], Planes.of_grid(affine, shape[2])))
    names = {region.value: region.name for region in found if region.inside.any()}
    return combine(found, path, overlap)[None], affine, names


def read_mask_on_planes(
    path: Path, shape: tuple[int, int], planes: Planes, files: Sequence[str]
) -> np.ndarray:
    """As `read_mask`, for a series whose slices are no regular grid.

    A segmentation must name the slice that each of its frames was drawn on.

    Args:
        path: the file.
        shape: (X, Y) of the slices.
        planes: where they lie.
        files: of the slices, in the same order.

    Returns:
        (1, X, Y, Z).

    Raises:
        InputError: as for `read_mask`; a segmentation that names no slices, or others.
    """
    header = read_file(path, stop_before_pixels=True)
    if header.Modality != "SEG":
        return combine(list(_structures(header, path, shape, planes)), path)[None]
    _require_frames(header, path)
    segmentation, numbers = _open(path)
    uids = [str(pydicom.dcmread(f, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for f in files]
    try:
        array = segmentation.get_pixels_by_source_instance(
            uids, segment_numbers=numbers, assert_missing_frames_are_empty=True
        )
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(
            f"mask '{path}': does not say which slice each of its frames belongs to "
            f"({str(error).splitlines()[0][:100]}); save it anew, or remove it"
        ) from error
    if array.shape[2:0:-1] != shape:
        raise InputError(f"mask '{path}': of another size than its slices; remove it")
    return combine(_regions(segmentation, numbers, array.transpose(2, 1, 0, 3)), path)[None]


def _require_frames(header: pydicom.Dataset, path: Path) -> None:
    described = len(header.get("PerFrameFunctionalGroupsSequence") or [])
    if header.get("NumberOfFrames") != described:
        raise InputError(
            f"mask '{path}': NumberOfFrames is {header.get('NumberOfFrames')}, but {described} "
            "frames are described; export it again"
        )
    shared = (header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    if "PlaneOrientationSequence" in shared and "FrameOfReferenceUID" not in header:
        raise InputError(f"mask '{path}': FrameOfReferenceUID is missing; export it again")
    listed = {segment.get("SegmentNumber") for segment in header.get("SegmentSequence") or []}
    for frame in header.PerFrameFunctionalGroupsSequence:
        for item in frame.get("SegmentIdentificationSequence") or []:
            if item.get("ReferencedSegmentNumber") not in listed:
                raise InputError(
                    f"mask '{path}': a frame of segment {item.get('ReferencedSegmentNumber')}, "
                    "which SegmentSequence does not list; export it again"
                )


def combine(
    regions: list[Region], path: Path, overlap: Sequence[float] | None = None
) -> np.ndarray:
    """Label values (X, Y, Z) of regions, 0 where there is none.

    Args:
        regions: of one file.
        path: of it, for messages.
        overlap: None to refuse regions that overlap; else class values, each of which lies on top
            of those before it. Values that are not listed lie below, larger ones on top.

    Raises:
        InputError: no region, or an overlap that is not allowed.
    """
    if not regions:
        raise InputError(f"mask '{path}': no region in it; remove it")
    if overlap is not None:
        rank = {value: k for k, value in enumerate(overlap)}
        regions = sorted(regions, key=lambda r: (rank.get(r.value, -1), r.value))
    values = np.zeros(regions[0].inside.shape, np.float32)
    for k, region in enumerate(regions):
        for other in regions[:k]:
            both = int((region.inside & other.inside).sum())
            if both and overlap is None:
                raise InputError(
                    f"mask '{path}': '{region.name}' and '{other.name}' overlap, and a pixel has "
                    'one class; save them apart, or train with "mask_scheme" nested, where the '
                    "class that comes later in labels lies on top"
                )
            if both:
                logger.info(
                    "mask '%s': '%s' lies on '%s' in %d pixels", path, region.name, other.name, both
                )
        values[region.inside] = region.value
    return values


def _segments(
    path: Path, shape: tuple[int, ...] | None, affine: np.ndarray | None
) -> tuple[list[Region], np.ndarray]:
    segmentation, numbers = _open(path)
    array, own = _segment_array(segmentation, numbers)
    if shape is not None and affine is not None:
        own = affine if own is None else own
        array, own = _on_grid(array, own, shape, affine, path), affine
    return _regions(segmentation, numbers, array), LPS if own is None else own


def _open(path: Path) -> tuple[Any, list[int]]:
    """A binary segmentation and the numbers of its segments."""
    segmentation = require_highdicom().seg.segread(path)
    if str(segmentation.segmentation_type.value) == "FRACTIONAL":
        raise InputError(f"mask '{path}': a fractional segmentation; save it as a binary one")
    return segmentation, [n for n in segmentation.segment_numbers if n > 0]


def _regions(segmentation: Any, numbers: list[int], array: np.ndarray) -> list[Region]:
    values = _values(segmentation, numbers)
    names = [str(segmentation.get_segment_description(n).segment_label) for n in numbers]
    return [
        Region(name, value, array[..., k].astype(bool))
        for k, (name, value) in enumerate(zip(names, values, strict=True))
    ]


def _segment_array(segmentation: Any, numbers: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
    """(X, Y, Z, segments) and the RAS affine; None where the images have no place in space."""
    if "FrameOfReferenceUID" not in segmentation:
        source = [uids[2] for uids in segmentation.get_source_image_uids()]
        array = segmentation.get_pixels_by_source_instance(source, segment_numbers=numbers)
        return array.transpose(2, 1, 0, 3), None
    volume = segmentation.get_volume(segment_numbers=numbers)
    affine = LPS @ volume.affine[:, [2, 1, 0, 3]]
    return volume.array.transpose(2, 1, 0, 3), affine


def _values(segmentation: Any, numbers: list[int]) -> list[float]:
    types = [segmentation.get_segment_description(n).segmented_property_type for n in numbers]
    if all(kind.scheme_designator == SCHEME for kind in types):
        return [float(kind.value) for kind in types]
    return [float(number) for number in numbers]


def _on_grid(
    array: np.ndarray, own: np.ndarray, shape: tuple[int, ...], affine: np.ndarray, path: Path
) -> np.ndarray:
    """`array` (x, y, z, segments) moved to the grid of the image, which has the same voxels."""
    place = np.linalg.inv(affine) @ own
    inside = np.argwhere(array.any(axis=-1))
    target = inside @ place[:3, :3].T + place[:3, 3]
    nearest = np.rint(target).astype(int)
    if np.abs(target - nearest).max(initial=0) > ON_GRID:
        raise InputError(
            f"mask '{path}': its voxels are not those of its image; "
            "resample the segmentation to the image"
        )
    if ((nearest < 0) | (nearest >= shape)).any():
        raise InputError(f"mask '{path}': segments beyond the image; give the image it belongs to")
    moved = np.zeros((*shape, array.shape[-1]), bool)
    moved[tuple(nearest.T)] = array[tuple(inside.T)]
    return moved


def _structures(
    header: pydicom.Dataset, path: Path, shape: tuple[int, ...], planes: Planes
) -> Iterator[Region]:
    names = {int(r.ROINumber): str(r.get("ROIName", "")) for r in header.StructureSetROISequence}
    for roi in header.get("ROIContourSequence", []):
        number = int(roi.ReferencedROINumber)
        inside = np.zeros((*shape, len(planes.positions)), bool)
        for contour in roi.get("ContourSequence", []):
            _draw(contour, inside, planes, f"mask '{path}': structure '{names.get(number)}'")
        yield Region(names.get(number, ""), float(number), inside)


def _draw(contour: pydicom.Dataset, inside: np.ndarray, planes: Planes, what: str) -> None:
    """Turn over the pixels within one contour: a contour within another is a hole."""
    if contour.ContourGeometricType not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
        raise InputError(f"{what}: {contour.ContourGeometricType} contour; save closed ones")
    points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
    k, pixels, heights = planes.locate(points)
    if np.ptp(heights) > 1:
        raise InputError(f"{what}: a contour that lies across the slices; save it slice by slice")
    if np.abs(heights).max() > 0.5:
        raise InputError(
            f"{what}: contours beyond the image or between its slices; give the image of the mask"
        )
    inside[..., k] ^= polygon2mask(inside.shape[:2], pixels)
