"""Fixtures of the data layer: a DICOM series written by pydicom, as a scanner would."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from alignflow.data.formats import load
from alignflow.errors import InputError

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


@pytest.fixture
def write_enhanced(write_series):
    """Write one multi-frame file of (X, Y, Z), frames in `order`, each at its height in mm."""

    def write(path: Path, volume: np.ndarray, order, heights) -> Path:
        slices = [pydicom.dcmread(f) for f in write_series(path.parent / "single", volume)]
        made, shared = slices[0], pydicom.Dataset()
        made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
        measures, plane = pydicom.Dataset(), pydicom.Dataset()
        measures.PixelSpacing, measures.SliceThickness = made.PixelSpacing, 2.5
        plane.ImageOrientationPatient = made.ImageOrientationPatient
        shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
        made.SharedFunctionalGroupsSequence = [shared]
        made.PerFrameFunctionalGroupsSequence = []
        origin = np.array(made.ImagePositionPatient, dtype=float)
        for k in order:
            frame, place = pydicom.Dataset(), pydicom.Dataset()
            place.ImagePositionPatient = (origin + heights[k] * OBLIQUE[:, 2]).round(6).tolist()
            frame.PlanePositionSequence = [place]
            made.PerFrameFunctionalGroupsSequence.append(frame)
        made.NumberOfFrames = len(order)
        made.PixelData = b"".join(slices[k].PixelData for k in order)
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            delattr(made, name)
        made.save_as(path, enforce_file_format=True)
        shutil.rmtree(path.parent / "single")
        return path

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


@pytest.fixture
def refuse():
    """`refuse(path, match)`: `load` refuses a file in one line with its name."""

    def call(path, match):
        with pytest.raises(InputError, match=match) as caught:
            load(path)
        assert path.name in str(caught.value) and "\n" not in str(caught.value)

    return call
