"""Fixtures of the data layer: a DICOM series written by pydicom, as a scanner would."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

OBLIQUE = np.array(  # columns: direction of rows' index, of columns' index; orthonormal
    [[0.8, 0.36, -0.48], [0.0, 0.8, 0.6], [0.6, -0.48, 0.64]]
)


@pytest.fixture
def write_series():
    """Write (X, Y, Z) int16 slices with LPS geometry in a shuffled file order."""

    def write(
        folder: Path,
        volume: np.ndarray,
        spacing=(0.7, 0.9, 2.5),
        origin=(-31.5, 12.25, 77.0),
        direction=OBLIQUE,
        modality="MR",
        series_uid=None,
        **tags,
    ) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        series_uid = series_uid or generate_uid()
        files = []
        for k in range(volume.shape[2]):
            # names run against the spatial order, as they may in an export
            path = folder / f"IM{volume.shape[2] - k:04d}-{series_uid[-4:]}.dcm"
            position = np.array(origin) + k * spacing[2] * direction[:, 2]
            _slice(
                volume[:, :, k], spacing, position, direction, modality, series_uid, tags
            ).save_as(path, enforce_file_format=True)
            files.append(path)
        return files

    return write


def _slice(pixels, spacing, position, direction, modality, series_uid, tags):
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality = modality
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = series_uid
    dataset.Columns, dataset.Rows = pixels.shape
    dataset.PixelSpacing = [spacing[1], spacing[0]]  # between rows, then between columns
    dataset.SliceThickness = spacing[2]
    dataset.ImagePositionPatient = [round(float(x), 6) for x in position]
    dataset.ImageOrientationPatient = [*direction[:, 0].tolist(), *direction[:, 1].tolist()]
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored = 1, 16, 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.PixelData = np.ascontiguousarray(pixels.T.astype("<i2")).tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


@pytest.fixture
def ras_affine():
    """(4, 4) RAS affine of a grid with LPS origin, spacing and direction."""

    def build(origin, spacing, direction) -> np.ndarray:
        lps = np.eye(4)
        lps[:3, :3] = np.asarray(direction) * np.asarray(spacing)
        lps[:3, 3] = origin
        return np.diag([-1, -1, 1, 1]) @ lps

    return build
