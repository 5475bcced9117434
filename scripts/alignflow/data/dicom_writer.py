"""Generated images as DICOM: CT, MR or Secondary Capture, without anything of the source's files.

PS3.3: General (C.7), CT (A.3), MR (A.4), Secondary Capture (A.8); SOP Common with Synthetic Data
(0008,001C) and the contributing equipment (C.12.1).
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import DSfloat

from alignflow import __version__
from alignflow.data.spec import SourceSpec
from alignflow.errors import InputError
from alignflow.files import replacing

MANUFACTURER = "AlignFlow"
ORTHOGONAL = 1e-4  # cosine that the axes of a slice may have

# Attributes that only this kind of image must have.
CT_ATTRIBUTES: dict[str, str | None] = {
    "PatientPosition": "",
    "KVP": None,
    "AcquisitionNumber": None,
}
MR_ATTRIBUTES: dict[str, str | None] = {
    "PatientPosition": "",
    "ScanningSequence": "RM",  # "research mode": no sequence was run
    "SequenceVariant": "NONE",
    "ScanOptions": "",
    "MRAcquisitionType": "2D",
    "RepetitionTime": None,
    "EchoTime": None,
    "EchoTrainLength": None,
}
SC_ATTRIBUTES: dict[str, str | None] = {"ConversionType": "SYN"}


def synthetic_uid(*parts: object) -> UID:
    """A UID under 2.25 that the parts alone decide: equal commands give equal files."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, repr(parts)).int}")


def dicom_series(
    volume: np.ndarray,
    affine: np.ndarray | None,
    spec: SourceSpec,
    run: str,
    index: int,
    date: str = "",
) -> list[Dataset]:
    """One generated image or volume as a series of its own, one data set for each slice.

    CT and MR of known geometry become CT and MR Image Storage, everything else Secondary Capture.
    Of the source there are the kind of its images, the grid and the window of its intensities. All
    slices share series, frame of reference, orientation and spacing.

    Args:
        volume: (C, X, Y, Z) in native units, C of 1 or, in 8 bits, 3; Z is 1 for an image.
        affine: (4, 4), RAS in mm, of the volume; None where nothing is known of it.
        spec: of the source.
        run: what tells this run from others; goes into the UIDs, with the pixels.
        index: number of the pair.
        date: when the run wrote its first pair, YYYYMMDD.

    Raises:
        InputError: an image or a grid that DICOM has no place for.
    """
    slices = [Dataset() for _ in range(volume.shape[3])]
    for k, dataset in enumerate(slices):
        _set_pixels(dataset, volume[..., k], spec)
    digest = hashlib.sha256(b"".join(dataset.PixelData for dataset in slices)).hexdigest()
    content = synthetic_uid(run, index, digest)
    for k, dataset in enumerate(slices):
        _set_identity(dataset, run, index, content, k)
        dataset.StudyDate = date
        _set_kind(dataset, spec.modality, affine is not None)
        if dataset.SOPClassUID == SecondaryCaptureImageStorage:  # asks for no place in space
            dataset.PatientOrientation = ""
        if affine is not None:
            _set_plane(dataset, affine, k, len(slices), content)
    return slices


def mark_synthetic(dataset: Dataset) -> None:
    """Say in a data set that it shows nobody, and what made it (PS3.16, CID 7005)."""
    code = codes.DCM.SynthesizingEquipment
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = code.value, code.scheme_designator
    purpose.CodeMeaning = code.meaning
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [purpose]
    equipment.Manufacturer = equipment.ManufacturerModelName = MANUFACTURER
    equipment.SoftwareVersions = __version__
    dataset.SyntheticData = "YES"
    dataset.ContributingEquipmentSequence = [equipment]


def save_dicom(dataset: Dataset, path: Path) -> Path:
    """Write a data set as a DICOM file; equal data sets give equal bytes."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    with replacing(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return path


def _set_kind(dataset: Dataset, modality: str, has_place: bool) -> None:
    """SOP class, and what images of it alone must have."""
    dataset.Modality = modality if re.fullmatch("[A-Z]{2,16}", modality) else "OT"
    is_tomographic = has_place and dataset.SamplesPerPixel == 1
    if is_tomographic and modality == "CT":
        dataset.SOPClassUID, kind, attributes = CTImageStorage, "AXIAL", CT_ATTRIBUTES
    elif is_tomographic and modality == "MR":
        dataset.SOPClassUID, kind, attributes = MRImageStorage, "OTHER", MR_ATTRIBUTES
    else:
        dataset.SOPClassUID, kind, attributes = SecondaryCaptureImageStorage, "", SC_ATTRIBUTES
    dataset.ImageType = ["DERIVED", "SECONDARY", *([kind] if kind else [])]
    for name, value in attributes.items():
        setattr(dataset, name, value)


def _set_identity(dataset: Dataset, run: str, index: int, content: UID, k: int) -> None:
    """Patient, study, series and equipment: one study for a run, one series for a pair."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for name in ("PatientBirthDate", "PatientSex", "StudyTime"):
        setattr(dataset, name, "")
    for name in ("AccessionNumber", "ReferringPhysicianName", "Laterality"):
        setattr(dataset, name, "")
    dataset.StudyInstanceUID = synthetic_uid(run, "study")
    dataset.StudyID = hashlib.sha256(run.encode()).hexdigest()[:8].upper()
    dataset.PatientName = f"Synthetic^{dataset.StudyID}"  # of one run alone
    dataset.PatientID = f"SYNTHETIC-{dataset.StudyID}"
    dataset.StudyDescription = "Synthetic images"
    dataset.SeriesInstanceUID = synthetic_uid(content, "series")
    dataset.SeriesNumber = 2 * index + 1
    dataset.SeriesDescription = f"Synthetic image {index}"
    dataset.SOPInstanceUID = synthetic_uid(content, "instance", k)
    dataset.InstanceNumber = k + 1
    dataset.Manufacturer = dataset.ManufacturerModelName = MANUFACTURER
    dataset.SoftwareVersions = __version__
    dataset.BurnedInAnnotation = "NO"
    mark_synthetic(dataset)


def _set_pixels(dataset: Dataset, image: np.ndarray, spec: SourceSpec) -> None:
    channels = len(image)
    if channels == 3 and spec.image_dtype == "uint8":
        stored, dataset.PhotometricInterpretation = image.clip(0, 255), "RGB"
        dataset.PlanarConfiguration = 0
    elif channels == 1:
        stored, dataset.PhotometricInterpretation = image, "MONOCHROME2"
    else:
        raise InputError(
            'output_format: "dicom" holds 1 channel, or 3 of 8 bits, and the source has '
            f"{channels} of {spec.image_dtype}; set null"
        )
    dtype = _stored_dtype(spec)
    if dtype.itemsize > 1:
        stored = _set_rescale(dataset, image, spec)
    limits = np.iinfo(dtype)
    pixels = np.rint(stored.astype(np.float64)).clip(limits.min, limits.max).astype(dtype)
    dataset.SamplesPerPixel = channels
    dataset.Columns, dataset.Rows = image.shape[1:]
    dataset.BitsAllocated = dataset.BitsStored = 8 * dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(dtype.kind == "i")
    data = np.ascontiguousarray(pixels.transpose(2, 1, 0)).tobytes()  # rows, columns, samples
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if dtype.itemsize == 1 else "OW"


def _stored_dtype(spec: SourceSpec) -> np.dtype:
    """8 bits where the source has them (CT and MR may not), else 16, with a sign if possible."""
    if spec.image_dtype == "uint8" and spec.modality not in ("CT", "MR"):
        return np.dtype("u1")
    return np.dtype("<u2" if _is_whole(spec) and spec.window[1] > 2**15 - 1 else "<i2")


def _is_whole(spec: SourceSpec) -> bool:
    """Whether native values are whole numbers of 16 bits, with or without a sign."""
    low, high = spec.window
    fits = (low >= 0 and high < 2**16) or (low >= -(2**15) and high < 2**15)
    return np.dtype(spec.image_dtype).kind in "iu" and fits


def _set_rescale(dataset: Dataset, image: np.ndarray, spec: SourceSpec) -> np.ndarray:
    """State how stored numbers become native units, and return the stored ones of `image`."""
    low, high = spec.window
    real = [(high - low) / (2**16 - 4), (low + high) / 2]  # all of the 16 bits, less rounding
    written = _decimals([1, 0] if _is_whole(spec) else real)
    if spec.modality != "MR" or not _is_whole(spec):  # MR Image Storage has no place for them
        dataset.RescaleSlope, dataset.RescaleIntercept = written
        dataset.RescaleType = "HU" if spec.modality == "CT" else "US"
    dataset.WindowCenter, dataset.WindowWidth = _decimals([(low + high) / 2, high - low])
    dataset.VOILUTFunction = "LINEAR_EXACT"  # LINEAR forbids widths below 1
    slope, intercept = (float(str(value)) for value in written)
    return (image - intercept) / slope


def _set_plane(dataset: Dataset, affine: np.ndarray, k: int, count: int, content: UID) -> None:
    """Grid of slice `k` of `count`: RAS in `affine`, LPS in DICOM (PS3.3, C.7.6.2)."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    along_row, along_column, across = (lps[:3, i] / spacing[i] for i in range(3))
    cosines = [along_row @ along_column]
    if count > 1:
        cosines += [along_row @ across, along_column @ across]
    if np.abs(cosines).max() > ORTHOGONAL:
        raise InputError(
            'output_format: the source has a sheared grid, which "dicom" cannot hold; set null'
        )
    position = lps[:3, 3] + k * lps[:3, 2]
    dataset.FrameOfReferenceUID = synthetic_uid(content, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.PixelSpacing = _decimals([spacing[1], spacing[0]])
    dataset.SliceThickness = dataset.SpacingBetweenSlices = _decimals([spacing[2]])[0]
    dataset.ImagePositionPatient = _decimals(position)
    dataset.ImageOrientationPatient = _decimals([*along_row, *along_column])
    dataset.SliceLocation = _decimals([position @ np.cross(along_row, along_column)])[0]


def _decimals(values: Sequence[float] | np.ndarray) -> list[DSfloat]:
    """Numbers in the 16 characters that DICOM has for them."""
    return [DSfloat(float(value) + 0.0, auto_format=True) for value in values]
