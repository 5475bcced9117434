"""Which files of a DICOM folder are one image series, and in which order."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import MediaStorageDirectoryStorage as DICOMDIR
from pydicom.uid import RLELossless

from alignflow.errors import InputError

SUFFIXES = (".dcm", ".dicom", ".ima")

# Modalities (DICOM PS3.3, C.7.3.1.1.1) of objects that stand beside images and are none themselves.
NON_IMAGES = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO", "REG", "FID")
QUANTITIES = ("CT", "PT")  # their values are HU and Bq/ml, whatever the photometric interpretation

SPACING_TOLERANCE = 0.05  # share of the slice spacing that a gap may differ by
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
]


@dataclass(frozen=True)
class Series:
    """Files of one image series in spatial order.

    Attributes:
        files: one path per slice, along the normal of the slices.
        modality: (0008,0060).
        needs_copies: whether ITK would misread the files, see `readable_files`.
        inversion: None, or the number to subtract values from so that high is bright.
    """

    files: list[str]
    modality: str
    needs_copies: bool
    inversion: float | None


def find_series(path: Path) -> Series:
    """The image series of a folder, or of a single file.

    Segmentations, structure sets, reports and files that are not DICOM are passed over in a folder.

    Raises:
        InputError: no image, several image series, missing or repeated slices, a tilted gantry, or
            a file that is a segmentation or another non-image object.
    """
    headers = _image_headers(path)
    if len(headers) > 1:
        headers = _in_spatial_order(headers, path)
    first = next(iter(headers.values()))
    is_monochrome1 = first.get("PhotometricInterpretation") == "MONOCHROME1"
    return Series(
        files=[str(file) for file in headers],
        modality=str(first.get("Modality", "")),
        needs_copies=is_monochrome1 or _is_deep_colour_in_rle(first),
        inversion=_inversion(first) if is_monochrome1 else None,
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
    files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
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
        listed = ", ".join(f"{uid} ({count} files)" for uid, count in sorted(series.items()))
        raise InputError(
            f"image '{path}': {len(series)} image series ({listed}); leave one series in the folder"
        )
    return images


def _require_all_images(
    headers: dict[Path, pydicom.Dataset], images: dict[Path, pydicom.Dataset]
) -> None:
    """A file of the images' series without Rows is a slice that would be missing in silence."""
    series = {h.get("SeriesInstanceUID") for h in images.values()}
    for file, header in headers.items():
        is_image = header.get("Modality") not in NON_IMAGES
        is_catalogue = header.file_meta.get("MediaStorageSOPClassUID") == DICOMDIR
        if file in images or not is_image or is_catalogue or not images:
            continue
        if header.get("SeriesInstanceUID") in (*series, None):
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
) -> dict[Path, pydicom.Dataset]:
    """Sort by position along the normal; refuse what is no regular grid (PS3.3, C.7.6.2.1.1)."""
    orientation = _common_orientation(headers, path)
    positions = np.array([h.ImagePositionPatient for h in headers.values()], dtype=float)
    along = positions @ np.cross(orientation[:3], orientation[3:])
    order = np.argsort(along)
    _require_even_steps(positions[order], along[order], path)
    files = list(headers)
    return {files[i]: headers[files[i]] for i in order}


def _common_orientation(headers: dict[Path, pydicom.Dataset], path: Path) -> np.ndarray:
    orientations = []
    for file, header in headers.items():
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise InputError(f"image '{path}': '{file.name}' has several frames; give it by itself")
        if "ImagePositionPatient" not in header or "ImageOrientationPatient" not in header:
            raise InputError(
                f"image '{path}': '{file.name}' has no ImagePositionPatient or "
                "ImageOrientationPatient; give such files one by one, not as a series"
            )
        orientations.append(np.array(header.ImageOrientationPatient, dtype=float))
    if (
        np.ptp(orientations, axis=0).max() > 1e-3
        or len({(h.Rows, h.Columns) for h in headers.values()}) > 1
    ):
        raise InputError(
            f"image '{path}': slices of different orientation or size; remove the localizers"
        )
    return orientations[0]


def _require_even_steps(positions: np.ndarray, along: np.ndarray, path: Path) -> None:
    steps = np.diff(along)
    spacing = float(np.median(steps))
    if steps.min() < 1e-3:
        raise InputError(f"image '{path}': two slices at one position; remove the copies")
    if np.abs(steps - spacing).max() > SPACING_TOLERANCE * spacing:
        raise InputError(
            f"image '{path}': slices are {steps.min():g} to {steps.max():g} mm apart, so slices "
            "are missing; complete the series or resample it"
        )
    travel = positions[-1] - positions[0]
    sideways = np.sqrt(max(travel @ travel - (along[-1] - along[0]) ** 2, 0.0))
    if sideways > SPACING_TOLERANCE * spacing * len(steps):
        raise InputError(
            f"image '{path}': slices shift sideways (tilted gantry); resample it to a regular grid"
        )


def _inversion(header: pydicom.Dataset) -> float | None:
    if header.get("Modality") in QUANTITIES:
        return None
    # Stored values run from 0 to 2^n - 1, or from -2^(n-1) to 2^(n-1) - 1 where signed (1).
    low_plus_high = (
        -1 if header.get("PixelRepresentation") == 1 else 2 ** int(header.BitsStored) - 1
    )
    slope = float(header.get("RescaleSlope") or 1)
    return slope * low_plus_high + 2 * float(header.get("RescaleIntercept") or 0)
