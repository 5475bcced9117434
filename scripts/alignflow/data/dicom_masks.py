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

from alignflow.data.dicom_header import read_file, reals
from alignflow.data.dicom_planes import LPS, Planes
from alignflow.data.grid import SAME
from alignflow.data.structures import Structures
from alignflow.errors import InputError

logger = logging.getLogger(__name__)

# Our own coding scheme, of classes: the code of one is its value in native masks.
SCHEME = "99ALIGNFLOW"
KINDS = ("SEG", "RTSTRUCT")
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")  # contours that enclose an area (C.8.8.6.3)


@dataclass(frozen=True)
class Region:
    """A segment or structure.

    Attributes:
        name: segment label or ROI Name.
        number: within its file.
        code: class value, where the file was written by `dicom_seg`; else None.
        inside: bool (X, Y, Z).
    """

    name: str
    number: int
    code: float | None
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
    structures: Structures | None = None,
    frame_of_reference: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """One array of class values from the regions of a file.

    Args:
        path: the file.
        shape: (X, Y, Z) of the image that the mask belongs to; None for the file's own grid.
        affine: of that image, RAS in mm.
        structures: as `combine` has it.
        frame_of_reference: (0020,0052) of that image; a warning tells where the mask has another.

    Returns:
        (1, X, Y, Z) and its affine.

    Raises:
        InputError: highdicom is missing, regions that overlap, that lie beside the image or on
            another grid, contours that are not closed in a plane; a structure set without an image.
    """
    header = read_file(path, stop_before_pixels=True)
    _warn_of_another_frame(header, frame_of_reference, path)
    if header.Modality == "SEG":
        _require_frames(header, path)
        found, affine = _segments(path, shape, affine)
    elif shape is None or affine is None:
        raise InputError(f"mask '{path}': a structure set has no grid of its own; give its image")
    else:
        planes = Planes.of_grid(affine, shape[2])
        wanted = structures if structures and structures.values else None
        found = list(_structures(header, path, shape[:2], planes, wanted))
        if not found and wanted is not None:
            return np.zeros((1, *shape), np.float32), affine
    return combine(found, path, structures)[None], affine


def _warn_of_another_frame(header: pydicom.Dataset, frame: str, path: Path) -> None:
    """Places of two frames of reference cannot be compared (PS3.3, C.7.4.1)."""
    listed = header.get("ReferencedFrameOfReferenceSequence") or [header]
    own = {str(item.get("FrameOfReferenceUID", "")) for item in listed} - {""}
    if frame and own and frame not in own:
        logger.warning("mask '%s': its frame of reference is not that of its image", path)


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


def combine(regions: list[Region], path: Path, structures: Structures | None = None) -> np.ndarray:
    """Class values (X, Y, Z) of regions, 0 where there is none.

    Args:
        regions: of one file.
        path: of it, for messages.
        structures: which of them are classes; the others are left out. None: each region has its
            code or number as value.

    Raises:
        InputError: no region, or classes that overlap and are not nested.
    """
    if not regions:
        raise InputError(f"mask '{path}': no region in it; remove it")
    rules = structures or Structures()
    given = [(_value(region, structures), region) for region in regions]
    wanted = [(value, region) for value, region in given if value is not None]
    if rules.nested:
        wanted.sort(key=lambda pair: (rules.rank(pair[0]), pair[0]))
    values = np.zeros(regions[0].inside.shape, np.float32)
    for k, (value, region) in enumerate(wanted):
        for below, other in wanted[:k]:
            both = int((region.inside & other.inside).sum()) if below != value else 0
            if both and not rules.nested:
                raise InputError(
                    f"mask '{path}': '{region.name}' and '{other.name}' overlap, and a pixel has "
                    'one class; name those to keep in "labels", as {"liver": "Liver"}, or train '
                    'with "mask_scheme" nested, where the class that comes later in labels lies on '
                    "top"
                )
            if both:
                logger.info(
                    "mask '%s': '%s' lies on '%s' in %d pixels", path, region.name, other.name, both
                )
        values[region.inside] = value
    return values


def _value(region: Region, structures: Structures | None) -> float | None:
    if structures is None or not structures.values:
        return float(region.number) if region.code is None else region.code
    return structures.value_of(region.name, region.code)


@dataclass(frozen=True)
class RegionName:
    """What a file calls a segment or structure; `code` as of `Region`, `kind` its property type."""

    name: str
    code: float | None = None
    kind: str = ""


def region_names(path: Path) -> list[RegionName]:
    """Of each segment or structure with an area, none of an image; no pixels are read.

    Raises:
        InputError: one without a name, or one number for two.
    """
    header = read_file(path, stop_before_pixels=True)
    if header.get("Modality") not in KINDS:
        return []
    if header.Modality == "SEG":
        segments = [s for s in header.get("SegmentSequence") or [] if s.get("SegmentNumber")]
        found = [RegionName(str(s.get("SegmentLabel", "")), _code(s), _kind(s)) for s in segments]
    else:
        kept, names = _with_area(header), _roi_names(header, path)
        found = [RegionName(name) for number, name in names.items() if number in kept]
    if any(not region.name.strip() for region in found):
        raise InputError(f"mask '{path}': a structure without a name; name it, or remove it")
    return found


def _kind(segment: pydicom.Dataset) -> str:
    kinds = segment.get("SegmentedPropertyTypeCodeSequence") or [pydicom.Dataset()]
    return str(kinds[0].get("CodeMeaning", ""))


def _code(segment: pydicom.Dataset) -> float | None:
    kinds = segment.get("SegmentedPropertyTypeCodeSequence") or [pydicom.Dataset()]
    if kinds[0].get("CodingSchemeDesignator") != SCHEME:
        return None
    return float(kinds[0].CodeValue)


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
    found = [segmentation.get_segment_description(n) for n in numbers]
    return [
        Region(str(one.segment_label), n, _code(one), array[..., k].astype(bool))
        for k, (n, one) in enumerate(zip(numbers, found, strict=True))
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


def _on_grid(
    array: np.ndarray, own: np.ndarray, shape: tuple[int, ...], affine: np.ndarray, path: Path
) -> np.ndarray:
    """`array` (x, y, z, segments) moved to the grid of the image, which has the same voxels."""
    place = np.linalg.inv(affine) @ own
    inside = np.argwhere(array.any(axis=-1))
    target = inside @ place[:3, :3].T + place[:3, 3]
    nearest = np.rint(target).astype(int)
    if np.abs(target - nearest).max(initial=0) > SAME:
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
    header: pydicom.Dataset,
    path: Path,
    shape: tuple[int, ...],
    planes: Planes,
    structures: Structures | None = None,
) -> Iterator[Region]:
    names, kept = _roi_names(header, path), _with_area(header)
    for roi in header.get("ROIContourSequence", []):
        number = int(roi.ReferencedROINumber)
        name = names.get(number)
        if number not in kept:
            continue
        if name is None:
            raise InputError(
                f"mask '{path}': contours of ROI {number}, which StructureSetROISequence does not "
                "list; export it again"
            )
        if structures is None or structures.value_of(name, None) is not None:
            what = f"mask '{path}': structure '{name}'"
            yield Region(name, number, None, _filled(roi, shape, planes, what))


def _roi_names(header: pydicom.Dataset, path: Path) -> dict[int, str]:
    listed = [(int(r.ROINumber), str(r.get("ROIName", ""))) for r in header.StructureSetROISequence]
    names = dict(listed)
    if len(names) < len(listed):
        raise InputError(f"mask '{path}': one ROINumber for two structures; export it again")
    return names


def _with_area(header: pydicom.Dataset) -> set[int]:
    """ROI Numbers without those that are points or open lines alone: isocentres, markers."""
    return {
        int(roi.ReferencedROINumber)
        for roi in header.get("ROIContourSequence", [])
        if any(c.get("ContourGeometricType") in CLOSED for c in roi.get("ContourSequence") or [])
    }


def _filled(roi: pydicom.Dataset, shape: tuple[int, ...], planes: Planes, what: str) -> np.ndarray:
    """Pixels (X, Y, Z) within the closed contours of a structure; points and lines are left out.

    Of contours at several heights above one slice the nearest count. A contour within another is a
    hole; contours that overlap or touch add up (PS3.3, C.8.8.6.3).
    """
    on_slice: dict[int, dict[float, dict[bytes, tuple[str, np.ndarray]]]] = {}
    for contour in roi.get("ContourSequence") or []:
        kind = contour.get("ContourGeometricType")
        if kind in CLOSED:
            k, height, pixels = _located(contour, planes, what)
            found = on_slice.setdefault(k, {}).setdefault(round(height, 2), {})
            found[pixels.round(3).tobytes()] = kind, pixels  # the same contour twice counts once
    inside = np.zeros((*shape[:2], len(planes.positions)), bool)
    for k, heights in on_slice.items():
        nearest = heights[min(heights, key=abs)]
        drawn = [
            (kind, polygon2mask(inside.shape[:2], pixels)) for kind, pixels in nearest.values()
        ]
        for kind, mask in sorted(drawn, key=lambda pair: -pair[1].sum()):
            within = (mask <= inside[..., k]).all()
            if kind == "CLOSEDPLANAR_XOR" or within:
                inside[..., k] ^= mask
            else:
                inside[..., k] |= mask
    return inside


def _located(contour: pydicom.Dataset, planes: Planes, what: str) -> tuple[int, float, np.ndarray]:
    """Slice of a contour, its height above it in steps, and its points in pixels."""
    numbers = reals(contour, "ContourData", len(contour.get("ContourData") or []))
    if numbers is None or not len(numbers) or len(numbers) % 3:
        raise InputError(f"{what}: a contour whose ContourData are not points; export it again")
    k, pixels, heights = planes.locate(numbers.reshape(-1, 3))
    if np.ptp(heights) > 1:
        raise InputError(f"{what}: a contour that lies across the slices; save it slice by slice")
    if np.abs(heights).max() > 0.5:
        raise InputError(
            f"{what}: contours beyond the image or between its slices; give the image of the mask"
        )
    return k, float(heights.mean()), pixels
