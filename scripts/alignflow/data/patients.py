"""Patients of DICOM images, which their headers name: training and validation must share none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydicom.errors import InvalidDicomError

from alignflow.data.content import is_system
from alignflow.data.dicom import SUFFIXES
from alignflow.data.dicom_header import read_file
from alignflow.data.formats import split_suffix
from alignflow.errors import InputError


def patients(images: Iterable[str]) -> dict[str, str]:
    """Image -> patient as a number, of the DICOM images whose header names one."""
    found = {image: patient for image in images if (patient := _patient_of(Path(image)))}
    number = {patient: k for k, patient in enumerate(dict.fromkeys(found.values()), start=1)}
    return {image: f"dicom_{number[patient]:03d}" for image, patient in found.items()}


def require_no_leak(training: Iterable[str], validation: Iterable[str]) -> None:
    """Refuse images of one patient on both sides of a split.

    Raises:
        InputError: the headers of two images have one PatientID.
    """
    training, validation = list(training), list(validation)
    found = patients([*training, *validation])
    seen = {found[image]: image for image in training if image in found}
    for image in validation:
        other = seen.get(found.get(image, ""))
        if other is not None and image not in training:
            raise InputError(
                f"image '{image}': of one patient with '{other}', by their headers, but they are "
                "in validation and in training; give both one group (group_column, or the split)"
            )


def _patient_of(path: Path) -> str:
    if split_suffix(path)[1] not in SUFFIXES:
        return ""
    files = sorted(f for f in path.iterdir() if not is_system(f)) if path.is_dir() else [path]
    for file in files:
        try:
            header = read_file(
                file, stop_before_pixels=True, specific_tags=["SOPClassUID", "PatientID"]
            )
        except (InvalidDicomError, OSError):
            continue
        return str(header.get("PatientID", ""))
    return ""
