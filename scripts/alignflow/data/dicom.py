"""Which files of a DICOM folder are one image series, and in which order."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, RLELossless
from pydicom.uid import MediaStorageDirectoryStorage as DICOMDIR

from alignflow.data.content import is_system, require_here
from alignflow.data.dicom_planes import ONE_PLACE, Planes, irregularity, planes_of
from alignflow.errors import InputError

logger = logging.getLogger(__name__)

SUFFIXES = (".dcm", ".dicom", ".ima")

# Modalities (DICOM PS3.3, C.7.3.1.1.1) of objects that stand beside images and are none themselves.
NON_IMAGES = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO", "REG", "FID")
QUANTITIES = ("CT", "PT")  # their values are HU and Bq/ml, whatever the photometric interpretation

ORIENTATION_TOLERANCE = 1e-3  # of a direction's components, and of a pixel's size in mm
PLANE = (  # of a frame (PS3.3, C.7.6.16.2): functional groups, and what matters in them
    ("PlanePosition", "ImagePositionPatient"),
    ("PlaneOrientation", "ImageOrientationPatient"),
    ("PixelMeasures", "PixelSpacing"),
)
TAGS = [
    "Modality",
    "SeriesInstanceUID",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "BitsAllocated",
    "BitsStored",
    "SamplesPerPixel",
    "RescaleSlope",
    "RescaleIntercept",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]


@dataclass(frozen=True)
class Series:
    """Files of one image series in spatial order.

    Attributes:
        files: one path per slice, along the normal of the slices.
        modality: (0008,0060).
        needs_copies: whether ITK would misread the files, see `readable_files`.
        inversion: None, or the number to subtract values from so that high is bright.
        planes: where the slices lie, or the frames of an enhanced file; None for a single one.
        frames: of an enhanced file, their numbers in spatial order; else None.
    """

    files: list[str]
    modality: str
    needs_copies: bool
    inversion: float | None
    planes: Planes | None
    frames: list[int] | None


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
    is_monochrome1 = first.get("PhotometricInterpretation") == "MONOCHROME1"
    return Series(
        files=[str(file) for file in headers],
        modality=str(first.get("Modality", "")),
        needs_copies=is_monochrome1 or _is_deep_colour_in_rle(first),
        inversion=_inversion(first) if is_monochrome1 else None,
        planes=planes,
        frames=frames,
    )


@contextmanager
def readable_files(series: Series) -> Iterator[list[str]]:
    """The files as ITK can read them without touching their values.

    ITK inverts MONOCHROME1 (low is bright; PS3.3, C.7.6.3.1.2) by itself, quantities such as HU
    too, and fails where 12 bits are stored, as in most radiographs. So it gets copies that call
    themselves MONOCHROME2. Colour of 16 bits in RLE it reads with its bytes mixed up, so it gets
    copies without compression.
    """
    if not series.needs_copies:
        yield series.files
        return
    with tempfile.TemporaryDirectory() as folder:
        copies = [f"{folder}/{k:06d}.dcm" for k in range(len(series.files))]
        for file, copy in zip(series.files, copies, strict=True):
            dataset = pydicom.dcmread(file)
            if dataset.PhotometricInterpretation == "MONOCHROME1":
                dataset.PhotometricInterpretation = "MONOCHROME2"
            else:
                dataset.decompress(decoding_plugin="pydicom")
            dataset.save_as(copy)
        yield copies


def _is_deep_colour_in_rle(header: pydicom.Dataset) -> bool:
    is_deep = header.get("SamplesPerPixel") == 3 and int(header.get("BitsAllocated") or 8) > 8
    return is_deep and header.file_meta.get("TransferSyntaxUID") == RLELossless


def _image_headers(path: Path) -> dict[Path, pydicom.Dataset]:
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.is_file() or not f.exists())
        files = [f for f in files if not is_system(f)]
        for file in files:  # a slice that is elsewhere would be missing in silence
            require_here(file, "image")
    headers = dict(_read_headers(files))
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
    series = Counter(str(h.get("SeriesInstanceUID", "")) for h in images.values())
    if len(series) > 1:
        # Told apart by a file of each: UIDs lead to persons, and messages end up in logs.
        first = {str(h.get("SeriesInstanceUID", "")): f.name for f, h in reversed(images.items())}
        listed = ", ".join(f"'{first[uid]}' ({count} files)" for uid, count in series.items())
        raise InputError(
            f"image '{path}': {len(series)} image series beginning with {listed}; "
            "leave one series in the folder"
        )
    return images


def _require_all_images(
    headers: dict[Path, pydicom.Dataset], images: dict[Path, pydicom.Dataset]
) -> None:
    """A file of the images' series without Rows is a slice that would be missing in silence.

    So is one that calls itself an image, even of another series: its UID may have been cut off.
    """
    series = {h.get("SeriesInstanceUID") for h in images.values()}
    for file, header in headers.items():
        is_image = header.get("Modality") not in NON_IMAGES
        kind = UID(str(header.file_meta.get("MediaStorageSOPClassUID", "")))
        if file in images or not is_image or kind == DICOMDIR or not images:
            continue
        if header.get("SeriesInstanceUID") in (*series, None) or "Image Storage" in kind.name:
            raise InputError(f"image '{file}': Rows is missing; repair or remove it")


def _read_headers(files: list[Path]) -> Iterable[tuple[Path, pydicom.Dataset]]:
    for file in files:
        try:
            yield file, pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
        except InvalidDicomError as error:  # a stray text or picture file
            if file.suffix.lower() in SUFFIXES and len(files) > 1:
                raise InputError(f"image '{file}': no DICOM file; repair or remove it") from error


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
    shared = (header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    stated = [[functional(g, shared, f"{n}Sequence").get(a) for n, a in PLANE] for g in groups]
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


def functional(frame: pydicom.Dataset, shared: pydicom.Dataset, group: str) -> pydicom.Dataset:
    """The one item of a functional group, of a frame or of all."""
    return (frame.get(group) or shared.get(group) or [pydicom.Dataset()])[0]


def of_first_frame(dataset: pydicom.Dataset, group: str) -> pydicom.Dataset:
    """The item of a functional group of the first frame, empty for an image without frames."""
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or [pydicom.Dataset()]
    shared = dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    return functional(frames[0], shared[0], group)


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
        orientation = _numbers(header, "ImageOrientationPatient", 6)
        spacing = _numbers(header, "PixelSpacing", 2)
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
    if any(_numbers(header, name, count) is None for name, count in needed.items()):
        raise InputError(
            f"image '{path}': '{file.name}' has no (valid) ImagePositionPatient or "
            "ImageOrientationPatient; give such files one by one, not as a series"
        )


def _numbers(header: pydicom.Dataset, name: str, count: int) -> np.ndarray | None:
    """So many finite numbers of an attribute, None where it is missing or holds anything else."""
    try:
        numbers = np.array(header.get(name), dtype=float).ravel()
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _require_repetition(file: Path, other: Path, path: Path) -> None:
    """Two files at one place must hold the same pixels: one of them is a copy then."""
    first, second = (_stored_pixels(f) for f in sorted((file, other)))
    if first != second:
        names = " and ".join(f"'{f.name}'" for f in sorted((file, other)))
        raise InputError(
            f"image '{path}': different slices at one place, {names}; keep one of them, or of "
            "several phases or echoes one"
        )
    logger.warning("image '%s': '%s' repeats '%s'; counted once", path, file.name, other.name)


def _stored_pixels(file: Path) -> tuple[object, ...]:
    dataset = pydicom.dcmread(file)
    scale = (dataset.get("RescaleSlope"), dataset.get("RescaleIntercept"))
    return (dataset.file_meta.get("TransferSyntaxUID"), dataset.get("PixelData"), *scale)


def _inversion(header: pydicom.Dataset) -> float | None:
    if header.get("Modality") in QUANTITIES:
        return None
    # Stored values run from 0 to 2^n - 1, or from -2^(n-1) to 2^(n-1) - 1 where signed (1).
    low_plus_high = (
        -1 if header.get("PixelRepresentation") == 1 else 2 ** int(header.BitsStored) - 1
    )
    slope = float(header.get("RescaleSlope") or 1)
    return slope * low_plus_high + 2 * float(header.get("RescaleIntercept") or 0)
