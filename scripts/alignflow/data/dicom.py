"""Which files of a DICOM folder are one image series, and in which order."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pydicom.uid import MediaStorageDirectoryStorage as DICOMDIR

from alignflow.data.content import is_system, require_here
from alignflow.data.dicom_header import (
    functional,
    pixel_spacing,
    place_of,
    read_file,
    reals,
    require_sound,
)
from alignflow.data.dicom_pixels import native_values
from alignflow.data.dicom_planes import LPS, ONE_PLACE, Planes, irregularity, planes_of
from alignflow.errors import InputError

logger = logging.getLogger(__name__)

SUFFIXES = (".dcm", ".dicom", ".ima")

# Modalities (DICOM PS3.3, C.7.3.1.1.1) of objects that stand beside images and are none themselves.
NON_IMAGES = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO", "REG", "FID")
ORIENTATION_TOLERANCE = 1e-3  # of a direction's components, and of a pixel's size in mm
PLANE = (  # of a frame (PS3.3, C.7.6.16.2): functional groups, and what matters in them
    ("PlanePosition", "ImagePositionPatient"),
    ("PlaneOrientation", "ImageOrientationPatient"),
    ("PixelMeasures", "PixelSpacing"),
)
TAGS = [
    "SOPClassUID",
    "Modality",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "SequenceOfUltrasoundRegions",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]


@dataclass(frozen=True)
class Series:
    """Files of one image series in spatial order.

    Attributes:
        files: one path per slice, along the normal of the slices.
        modality: (0008,0060).
        planes: where the slices lie, or the frames of an enhanced file; None for a single one.
        frames: of an enhanced file, their numbers in spatial order; else None.
        whole: the file of a series of one, where it was read to its end already.
    """

    files: list[str]
    modality: str
    planes: Planes | None
    frames: list[int] | None
    whole: pydicom.Dataset | None = None


def find_series(path: Path, regular: bool = True) -> Series:
    """The image series of a folder, or of a single file.

    Segmentations, structure sets, reports and files that are not DICOM are passed over in a folder;
    of two files with the same pixels at one place the second is left out with a warning.

    Args:
        path: the folder or file.
        regular: refuse missing slices, uneven steps and a tilted gantry.

    Raises:
        InputError: no image, several image series, slices that are no regular grid, different
            slices at one place, or a file that is a segmentation or another non-image object.
    """
    headers = _image_headers(path)
    planes, frames = None, None
    if len(headers) > 1:
        headers, planes = _in_spatial_order(headers, path)
    elif "PerFrameFunctionalGroupsSequence" in (header := next(iter(headers.values()))):
        planes, frames = _frames_in_spatial_order(header, path)
    reason = irregularity(planes) if planes is not None and regular else None
    if reason is not None:
        raise InputError(
            f"image '{path}': {reason}; complete the series, or let `run collect` resample it"
        )
    first = next(iter(headers.values()))
    return Series(
        files=[str(file) for file in headers],
        modality=str(first.get("Modality", "")),
        planes=planes,
        frames=frames,
        whole=None if path.is_dir() else first,
    )


def read_series(series: Series) -> tuple[np.ndarray, dict[str, Any]]:
    """Values (C, X, Y, Z) of a DICOM series in native units, and what its meta is to hold.

    Where the slices are not a regular grid, the affine has no meaning: see `series.planes`.

    Raises:
        InputError: see `require_sound`.
        Exception: whatever pydicom and its decoders raise on damaged pixels.
    """
    parts: list[np.ndarray] = []
    affine, is_sized, frame = np.eye(4), False, ""
    for file in series.files:
        dataset = read_file(file) if series.whole is None else series.whole
        require_sound(dataset, file)
        if not parts and dataset.get("BurnedInAnnotation") == "YES":
            logger.warning("image '%s': text is burned into its pixels (BurnedInAnnotation)", file)
        parts.append(native_values(dataset))
        if len(parts) == 1:
            affine, is_sized = place_of(dataset)
            frame = str(dataset.get("FrameOfReferenceUID", ""))
    array = np.concatenate(parts, axis=3)
    if series.frames is not None:
        array = array[..., series.frames]
    meta = {
        "affine": series.planes.affine if series.planes is not None else LPS @ affine,
        "native_dtype": array.dtype.name,
        "has_place": is_sized,
        "frame_of_reference": frame,
        "modality": "" if series.modality == "OT" else series.modality,  # "other" states nothing
    }
    return array, meta


def _image_headers(path: Path) -> dict[Path, pydicom.Dataset]:
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.is_file() or not f.exists())
        files = [f for f in files if not is_system(f)]
        for file in files:  # a slice that is elsewhere would be missing in silence
            require_here(file, "image")
    headers = dict(_read_headers(files, whole=not path.is_dir()))
    images = {
        f: h for f, h in headers.items() if h.get("Modality") not in NON_IMAGES and "Rows" in h
    }
    _require_all_images(headers, images)
    if not images:
        found = ", ".join(sorted({str(h.get("Modality", "?"))[:16] for h in headers.values()}))
        raise InputError(
            f"image '{path}': no DICOM image in it (found: {found or 'no DICOM file'}); "
            "give the image series; SEG and RTSTRUCT serve as masks"
        )
    series = Counter(map(series_of, images.values()))
    if len(series) > 1:
        # Told apart by a file of each: UIDs lead to persons, and messages end up in logs.
        first = {series_of(h): f.name for f, h in reversed(images.items())}
        listed = ", ".join(f"'{first[key]}' ({count} files)" for key, count in series.items())
        raise InputError(
            f"image '{path}': {len(series)} image series beginning with {listed}; "
            "leave one series in the folder"
        )
    return images


def series_of(header: pydicom.Dataset) -> tuple[str, ...]:
    """What slices of one volume share: anonymisers give several patients one SeriesInstanceUID."""
    names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
    return tuple(str(header.get(name, "")) for name in names)


def _require_all_images(
    headers: dict[Path, pydicom.Dataset], images: dict[Path, pydicom.Dataset]
) -> None:
    """A file of the images' series without Rows is a slice that would be missing in silence.

    So is one that calls itself an image, even of another series: its UID may have been cut off.
    """
    series = {str(h.get("SeriesInstanceUID")) for h in images.values()}
    for file, header in headers.items():
        is_image = header.get("Modality") not in NON_IMAGES
        kind = UID(str(header.file_meta.get("MediaStorageSOPClassUID", "")))
        if file in images or not is_image or kind == DICOMDIR or not images:
            continue
        own = str(header.get("SeriesInstanceUID"))
        if own in (*series, "None") or "Image Storage" in kind.name:
            raise InputError(f"image '{file}': Rows is missing; repair or remove it")


def _read_headers(files: list[Path], whole: bool) -> Iterable[tuple[Path, pydicom.Dataset]]:
    options: dict[str, Any] = {} if whole else {"stop_before_pixels": True, "specific_tags": TAGS}
    for file in files:
        try:
            yield file, read_file(file, **options)
        except InvalidDicomError as error:  # a stray text or picture file
            if file.suffix.lower() in SUFFIXES and len(files) > 1:
                raise InputError(
                    f"image '{file}': not a DICOM file; replace or remove it"
                ) from error


def _in_spatial_order(
    headers: dict[Path, pydicom.Dataset], path: Path
) -> tuple[dict[Path, pydicom.Dataset], Planes | None]:
    """Sort by position along the normal, each place once; None for a single place."""
    axes = _common_axes(headers, path)
    places = {file: np.array(h.ImagePositionPatient, dtype=float) for file, h in headers.items()}
    normal = np.cross(axes[0], axes[1])
    order = sorted(places, key=lambda file: float(places[file] @ normal))
    kept: list[Path] = []
    for file in order:
        # A series lies in one line, so a repetition follows what it repeats.
        if kept and np.linalg.norm(places[file] - places[kept[-1]]) < ONE_PLACE:
            _require_repetition(file, kept[-1], path)
        else:
            kept.append(file)
    if len(kept) == 1:
        return {kept[0]: headers[kept[0]]}, None
    planes = planes_of(np.array([places[file] for file in kept]), axes)
    if planes.step < ONE_PLACE or np.diff(planes.along).min() < ONE_PLACE:
        raise InputError(
            f"image '{path}': slices lie side by side in one plane; give each stack its own folder"
        )
    return {file: headers[file] for file in kept}, planes


def _frames_in_spatial_order(
    header: pydicom.Dataset, path: Path
) -> tuple[Planes | None, list[int] | None]:
    """Frames of an enhanced file (PS3.3, C.7.6.16): ITK takes their places as they come.

    None, None for a single frame, or frames that state no place.

    Raises:
        InputError: a frame does not state all of its place, frames are of several grids, or lie at
            one place.
    """
    groups = list(header.PerFrameFunctionalGroupsSequence)
    stated = [
        [functional(header, f"{group}Sequence", k).get(name) for group, name in PLANE]
        for k in range(len(groups))
    ]
    if not any(value for position, turned, _ in stated for value in (position, turned)):
        return None, None
    for number, values in enumerate(stated):
        missing = [name for (_, name), value in zip(PLANE, values, strict=True) if not value]
        if missing:
            raise InputError(
                f"image '{path}': {missing[0]} of frame {number + 1} is missing; export it again"
            )
    if len(groups) < 2:
        return None, None
    places = [np.array(position, dtype=float) for position, _, _ in stated]
    grids = [np.array([*turned, *spacing], float) for _, turned, spacing in stated]
    if np.ptp(grids, axis=0).max() > ORIENTATION_TOLERANCE:
        raise InputError(
            f"image '{path}': frames of different orientation or pixel size; save each by itself"
        )
    axes = np.array([grids[0][:3] * grids[0][7], grids[0][3:6] * grids[0][6]])
    order = np.argsort(places @ np.cross(axes[0], axes[1]), kind="stable")
    planes = planes_of(np.array(places)[order], axes)
    if np.diff(planes.along).min() < ONE_PLACE:
        raise InputError(
            f"image '{path}': several frames at one place; save one phase or echo by itself"
        )
    return planes, order.tolist()


def _common_axes(headers: dict[Path, pydicom.Dataset], path: Path) -> np.ndarray:
    """(2, 3) from pixel to pixel along a row and along a column, mm; all slices must share them."""
    for file, header in headers.items():
        _require_place(file, header, path)
    found = stacks(headers.items())
    if len(found) > 1:
        raise InputError(
            f"image '{path}': slices of different orientation, pixel size or shape: "
            + "; ".join(_describe(grid, group) for grid, group in found)
            + "; remove all but one, or let `run collect` take them apart"
        )
    grid = found[0][0]
    return np.array([grid[:3] * grid[7], grid[3:6] * grid[6]])


def stacks(
    files: Iterable[tuple[Path, pydicom.Dataset]],
) -> list[tuple[np.ndarray, list[tuple[Path, pydicom.Dataset]]]]:
    """Groups of one orientation, pixel size and shape, in the order of their first files.

    Returns:
        For each (10,) numbers, the directions of row and column (0 where unknown), mm between rows
        and columns (1 where unknown), numbers of rows and columns; and its (file, header).
    """
    found: list[tuple[np.ndarray, list[tuple[Path, pydicom.Dataset]]]] = []
    for file, header in files:
        orientation = reals(header, "ImageOrientationPatient", 6)
        spacing = pixel_spacing(header)
        shape = [header.get("Rows") or 0, header.get("Columns") or 0]
        grid = np.zeros(10)
        grid[:6] = 0 if orientation is None else orientation
        grid[6:] = [*(np.ones(2) if spacing is None else spacing), *shape]
        fits = (g for like, g in found if np.abs(like - grid).max() <= ORIENTATION_TOLERANCE)
        group = next(fits, None)
        if group is None:
            found.append((grid, [(file, header)]))
        else:
            group.append((file, header))
    return found


def _describe(grid: np.ndarray, group: list[tuple[Path, pydicom.Dataset]]) -> str:
    turned = ", ".join(f"{x:.3g}" for x in grid[:6])
    return f"{len(group)} like '{group[0][0].name}' ({grid[9]:g} x {grid[8]:g} pixels, [{turned}])"


def _require_place(file: Path, header: pydicom.Dataset, path: Path) -> None:
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise InputError(f"image '{path}': '{file.name}' has several frames; give it by itself")
    needed = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6}
    if any(reals(header, name, count) is None for name, count in needed.items()):
        raise InputError(
            f"image '{path}': '{file.name}' has no (valid) ImagePositionPatient or "
            "ImageOrientationPatient; give such files one by one, not as a series"
        )


def _require_repetition(file: Path, other: Path, path: Path) -> None:
    if not is_repetition(file, other):
        names = " and ".join(f"'{f.name}'" for f in sorted((file, other)))
        raise InputError(
            f"image '{path}': different slices at one place, {names}; keep one of them, or of "
            "several phases or echoes one"
        )
    logger.warning("image '%s': '%s' repeats '%s'; counted once", path, file.name, other.name)


def is_repetition(file: Path, other: Path) -> bool:
    """Whether two files hold the same pixels at one place: an export may give all one UID."""
    first, second = (_content(f) for f in (file, other))
    return first == second


def _content(file: Path) -> list[object]:
    dataset = read_file(file)
    names = ("ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "PixelData")
    syntax = dataset.file_meta.TransferSyntaxUID
    return [syntax, *series_of(dataset), *(dataset.get(name) for name in names)]
