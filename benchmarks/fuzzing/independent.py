"""Readers that share no code with the package's own reader of a format.

| format | the package reads with | compared with |
|---|---|---|
| DICOM | pydicom | SimpleITK (GDCM); the place by PS3.3 here |
| DICOM SEG | highdicom | frames unpacked here, header by pydicom |
| RTSTRUCT | scikit-image's polygons | matplotlib's polygons |
| NIfTI | nibabel | SimpleITK; the header taken apart here |
| NRRD | pynrrd | SimpleITK |
| MetaImage | ITK | the header taken apart here |
| PNG, JPEG, BMP | Pillow | SimpleITK |
| TIFF | tifffile | SimpleITK, Pillow |
| dataset.json, index.csv | json, csv | pandas |

Each takes a path and gives a `Reading`, or raises whatever it likes.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import highdicom
import nibabel
import nrrd
import numpy as np
import pydicom
import SimpleITK as sitk
import tifffile
from dicom_table import is_inexact, reference
from matplotlib.path import Path as Outline
from PIL import Image

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass
class Reading:
    """What a reader made of a file.

    Attributes:
        values: (C, X, Y[, Z]).
        affine: (4, 4) RAS in mm; None where the format has none. NaN: this entry is not stated.
        tolerance: gray levels that lossy decoders or colour conversions may differ by.
    """

    values: np.ndarray
    affine: np.ndarray | None = None
    tolerance: float = 0.0


def from_simpleitk(path: Path) -> Reading:
    """NIfTI and NRRD by ITK."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image).astype(np.float64)
    size = image.GetDimension()
    if image.GetNumberOfComponentsPerPixel() > 1:
        values = np.moveaxis(array, -1, 0)
        values = values.transpose(0, *range(size, 0, -1))
    else:
        values = array.T[None]
    if size == 4:
        values = np.moveaxis(values[0], -1, 0)
    affine = np.eye(4)
    dims = min(size, 3)
    direction = np.reshape(image.GetDirection(), (size, size))[:dims, :dims]
    affine[:dims, :dims] = direction * np.array(image.GetSpacing())[:dims]
    affine[:dims, 3] = image.GetOrigin()[:dims]
    if values.ndim == 3:
        values = values[..., None]
    return Reading(values, LPS @ affine)


NIFTI_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8",
    1280: "u8",
}  # fmt: skip
MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


def from_nifti_header(path: Path) -> Reading:
    """NIfTI-1 and -2 by the fields of nifti1.h and nifti2.h."""
    raw = path.read_bytes()
    if path.name.endswith(".gz"):
        raw = gzip.decompress(raw)
    order = next(o for o in "<>" if struct.unpack(f"{o}i", raw[:4])[0] in (348, 540))
    if raw[:4] in (struct.pack("<i", 348), struct.pack(">i", 348)):
        kind, bits = struct.unpack_from(f"{order}hh", raw, 70)
        dim = struct.unpack_from(f"{order}8h", raw, 40)
        pixdim = struct.unpack_from(f"{order}8f", raw, 76)
        offset, slope, intercept = struct.unpack_from(f"{order}3f", raw, 108)
        units = raw[123]
        qcode, scode = struct.unpack_from(f"{order}2h", raw, 252)
        quaternion = struct.unpack_from(f"{order}6f", raw, 256)
        rows = struct.unpack_from(f"{order}12f", raw, 280)
        assert raw[344:348] == b"n+1\0", "magic"
    else:
        assert raw[4:8] == b"n+2\0", "magic"
        kind, bits = struct.unpack_from(f"{order}hh", raw, 12)
        dim = struct.unpack_from(f"{order}8q", raw, 16)
        pixdim = struct.unpack_from(f"{order}8d", raw, 104)
        (offset,) = struct.unpack_from(f"{order}q", raw, 168)
        slope, intercept = struct.unpack_from(f"{order}2d", raw, 176)
        qcode, scode = struct.unpack_from(f"{order}2i", raw, 344)
        quaternion = struct.unpack_from(f"{order}6d", raw, 352)
        rows = struct.unpack_from(f"{order}12d", raw, 400)
        (units,) = struct.unpack_from(f"{order}i", raw, 500)
    shape = list(dim[1 : 1 + dim[0]])
    assert 1 <= dim[0] <= 7 and min(shape) > 0, "dim"
    dtype = np.dtype(order + NIFTI_TYPES[kind])
    assert bits == 8 * dtype.itemsize, "bitpix"
    count = math.prod(shape)
    assert offset >= 348 and offset + count * dtype.itemsize <= len(raw), "data"
    values = np.frombuffer(raw, dtype, count, int(offset)).reshape(shape, order="F")
    if math.isfinite(slope) and slope != 0:
        values = values.astype(np.float64) * slope + (intercept if math.isfinite(intercept) else 0)
    while values.ndim > 4 and values.shape[-1] == 1:
        values = values[..., 0]
    assert values.ndim <= 4, "axes"
    values = np.moveaxis(values, -1, 0) if values.ndim == 4 else values[None]
    values = values.reshape(*values.shape, *[1] * (4 - values.ndim))
    if scode > 0:
        affine = np.vstack([np.reshape(rows, (3, 4)), [0, 0, 0, 1]])
    elif qcode > 0:
        affine = _quaternion_affine(quaternion, pixdim)
    else:
        affine = np.full((4, 4), np.nan)  # voxel sizes alone
        affine[3] = [0, 0, 0, 1]
    affine = np.diag([*[MILLIMETRES[units & 7]] * 3, 1]) @ affine
    return Reading(values, affine)


def _quaternion_affine(quaternion: tuple[float, ...], pixdim: tuple[float, ...]) -> np.ndarray:
    b, c, d, *origin = quaternion
    rest = 1 - (b * b + c * c + d * d)
    assert rest > -1e-5, "quaternion longer than 1"
    a = math.sqrt(max(rest, 0))
    norm = math.sqrt(a * a + b * b + c * c + d * d)
    a, b, c, d = (part / norm for part in (a, b, c, d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * [pixdim[1], pixdim[2], pixdim[3] * (-1 if pixdim[0] < 0 else 1)]
    affine[:3, 3] = origin
    return affine


META_TYPES = {
    "MET_UCHAR": "u1", "MET_CHAR": "i1", "MET_USHORT": "u2", "MET_SHORT": "i2", "MET_UINT": "u4",
    "MET_INT": "i4", "MET_ULONG": "u8", "MET_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_LONG_LONG": "i8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def from_meta_header(path: Path) -> Reading:
    """MetaImage with its data in the same file, by the lines of its header."""
    raw = path.read_bytes()
    fields: dict[str, str] = {}
    start = 0
    while "ElementDataFile" not in fields:
        end = raw.index(b"\n", start)
        name, _, value = raw[start:end].decode("ascii").partition("=")
        fields[name.strip()] = value.strip()
        start = end + 1
    assert fields["ElementDataFile"] == "LOCAL", "data elsewhere"
    assert fields.get("BinaryData", "True") == "True", "kind"
    size = [int(n) for n in fields["DimSize"].split()]
    dims = int(fields["NDims"])
    assert len(size) == dims and min(size) > 0, "DimSize"
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    is_big = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))
    dtype = np.dtype((">" if is_big[0] in "Tt1" else "<") + META_TYPES[fields["ElementType"]])
    body = raw[start:]
    if fields.get("CompressedData", "False")[0] in "Tt1":
        body = zlib.decompress(body)
    count = channels * math.prod(size)
    values = np.frombuffer(body, dtype, count).reshape(channels, *size, order="F")
    matrix = fields.get("TransformMatrix", fields.get("Orientation", fields.get("Rotation")))
    offset = fields.get("Offset", fields.get("Position", fields.get("Origin", "0 0 0")))
    spacing = fields.get("ElementSpacing", fields.get("ElementSize", "1 1 1"))
    affine = np.eye(4)
    direction = np.eye(dims)
    if matrix is not None:
        direction = np.reshape([float(x) for x in matrix.split()], (dims, dims)).T
    affine[:dims, :dims] = direction * [float(x) for x in spacing.split()][:dims]
    affine[:dims, 3] = [float(x) for x in offset.split()][:dims]
    return Reading(values.reshape(*values.shape, *[1] * (4 - values.ndim)), LPS @ affine)


WHITE_IS_ZERO = 0  # PhotometricInterpretation of TIFF


def picture_from_simpleitk(path: Path) -> Reading:
    """PNG, JPEG, BMP and TIFF by ITK: without alpha, as the package has them."""
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            # "0 is imaged as white" (TIFF 6.0, page 37), but ITK gives the stored values.
            assert int(file.pages[0].photometric) != WHITE_IS_ZERO, "white is 0"
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    channels = array if image.GetNumberOfComponentsPerPixel() > 1 else array[..., None]
    return _picture(channels, path)


def picture_from_pillow(path: Path) -> Reading:
    """TIFF by Pillow (libtiff), one page of gray or RGB."""
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 1, "pages"
        is_gray = image.mode in ("1", "L", "LA")
        array = np.asarray(
            image.convert("L" if is_gray else "RGB") if image.mode[0] not in "IF" else image
        )
    return _picture(array if array.ndim == 3 else array[..., None], path)


def _picture(array: np.ndarray, path: Path) -> Reading:
    assert array.ndim == 3, "axes"
    count = {1: 1, 2: 1, 3: 3, 4: 3}[array.shape[-1]]
    # a TIFF may hold JPEG as well, and Pillow alone says so
    lossy = 3.0 if path.suffix in (".jpg", ".jpeg") or b"jpeg" in path.name.encode() else 0.0
    return Reading(array[..., :count].transpose(2, 1, 0), np.eye(4), lossy)


def from_header(path: Path) -> Reading:
    """A DICOM file, or a folder with the slices of one series, all of which must be in order."""
    if path.is_dir():
        return _series(sorted(path.iterdir()))
    header = pydicom.dcmread(path)
    values = _rescaled(_by_gdcm(path, header), header)
    affine = _frames_affine(header) if values.shape[-1] > 1 else _plane_affine(header)
    return Reading(values, affine, 3.0 if is_inexact(path) else 0.0)


def _by_gdcm(path: Path, header: pydicom.Dataset) -> np.ndarray:
    """(C, X, Y, Z); by pydicom where ITK has rules of its own.

    It turns MONOCHROME1 over, rescales enhanced images, gives palettes of 16 bits in 8, and mixes
    up the bytes of deep colour in RLE.
    """
    is_own = header.get("PhotometricInterpretation") in ("MONOCHROME1", "PALETTE COLOR")
    is_deep = header.get("SamplesPerPixel") == 3 and header.get("BitsAllocated") != 8
    if is_own or is_deep or header.get("PerFrameFunctionalGroupsSequence"):
        return reference(path)
    return from_simpleitk(path).values


def _rescaled(values: np.ndarray, header: pydicom.Dataset) -> np.ndarray:
    """Of an enhanced image: slope and intercept stand in its functional groups."""
    shared = header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    frames = header.get("PerFrameFunctionalGroupsSequence") or [pydicom.Dataset()]
    rescaled = values.astype(np.float64)
    for k, frame in enumerate(frames):
        for groups in (frame, shared[0]):
            if groups.get("PixelValueTransformationSequence"):
                item = groups.PixelValueTransformationSequence[0]
                slope, intercept = float(item.RescaleSlope), float(item.RescaleIntercept)
                rescaled[..., k] = rescaled[..., k] * slope + intercept
                break
    return rescaled


def _series(files: list[Path]) -> Reading:
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    assert len({h.SeriesInstanceUID for h in headers}) == 1, "series"
    planes = [_plane_affine(h) for h in headers]
    normal = planes[0][:3, 2] / np.linalg.norm(planes[0][:3, 2])
    along = [float(plane[:3, 3] @ normal) for plane in planes]
    order = np.argsort(along)
    steps = np.diff(np.sort(along))
    assert steps.min() > 1e-3 and np.ptp(steps) <= 0.1 * np.median(steps), "positions"
    for plane in planes:
        assert np.abs(plane[:3, :2] - planes[0][:3, :2]).max() < 1e-2, "orientations"
    values = np.concatenate([_by_gdcm(files[k], headers[k]) for k in order], axis=-1)
    affine = planes[order[0]].copy()
    affine[:3, 2] = (planes[order[-1]][:3, 3] - affine[:3, 3]) / (len(files) - 1)
    inexact = any(is_inexact(file) for file in files)
    return Reading(values, affine, 3.0 if inexact else 0.0)


def _plane_affine(header: pydicom.Dataset) -> np.ndarray:
    """PS3.3, C.7.6.2.1.1; the length of the third column is the thickness that is stated."""
    shared = header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    frames = header.get("PerFrameFunctionalGroupsSequence") or [pydicom.Dataset()]
    return _place(header, shared[0], frames[0])


def _frames_affine(header: pydicom.Dataset) -> np.ndarray:
    """Of a multi-frame image; without functional groups no place of its frames is stated."""
    frames = header.get("PerFrameFunctionalGroupsSequence")
    affine = _plane_affine(header)
    if not frames:
        affine[:3, 2] = np.nan
        return affine
    shared = header.SharedFunctionalGroupsSequence[0]
    places = [_place(header, shared, frame) for frame in frames]
    steps = np.diff([place[:3, 3] for place in places], axis=0)
    assert np.abs(steps - steps[0]).max() < 1e-2, "frames not in even steps"
    affine[:3, 2] = (places[-1][:3, 3] - places[0][:3, 3]) / (len(places) - 1)
    return affine


def _place(header: pydicom.Dataset, shared: pydicom.Dataset, frame: pydicom.Dataset) -> np.ndarray:
    def stated(group: str, name: str) -> list[float] | None:
        for place in (frame, shared):
            if place.get(group) and place[group][0].get(name) is not None:
                return place[group][0].get(name)
        return header.get(name)

    position = stated("PlanePositionSequence", "ImagePositionPatient")
    orientation = stated("PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = stated("PixelMeasuresSequence", "PixelSpacing")
    affine = np.eye(4)
    x, y = (
        np.eye(3)[:2] if orientation is None else np.reshape([*orientation], (2, 3)).astype(float)
    )
    assert abs(x @ x - 1) < 1e-2 and abs(y @ y - 1) < 1e-2 and abs(x @ y) < 1e-2, "orientation"
    # Other attributes than PixelSpacing give a size on the detector, which readers take or leave.
    down, across = [np.nan] * 2 if spacing is None else [float(s) for s in spacing]
    assert not (down <= 0 or across <= 0 or math.isinf(down + across)), "spacing"
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = x * across, y * down, np.cross(x, y)
    if position is not None:
        affine[:3, 3] = [float(p) for p in position]
        assert np.isfinite(affine[:3, 3]).all(), "position"
    return LPS @ affine


def segments_from_pydicom(path: Path) -> Reading:
    """A binary segmentation whose segments do not overlap: values are the segments' numbers."""
    header = pydicom.dcmread(path)
    assert header.Modality == "SEG" and header.SegmentationType == "BINARY", "kind"
    assert header.BitsAllocated == 1 and header.SamplesPerPixel == 1, "bits"
    frames = header.PerFrameFunctionalGroupsSequence
    count = header.Rows * header.Columns
    assert len(frames) == int(header.NumberOfFrames), "frames"
    bits = np.unpackbits(np.frombuffer(header.PixelData, np.uint8), bitorder="little")
    pixels = bits[: count * len(frames)].reshape(len(frames), header.Rows, header.Columns)
    shared = header.SharedFunctionalGroupsSequence[0]
    places = [_place(pydicom.Dataset(), shared, frame) for frame in frames]
    normal = places[0][:3, 2]
    # highdicom counts the slices of a volume against their normal
    along = -np.array([place[:3, 3] @ normal for place in places])
    steps = np.unique(along.round(3))
    step = np.diff(steps).min() if len(steps) > 1 else 1.0
    index = np.rint((along - along.min()) / step).astype(int)
    values = np.zeros((header.Columns, header.Rows, index.max() + 1))
    for frame, plane, k in zip(frames, pixels, index, strict=True):
        identification = frame.get("SegmentIdentificationSequence")
        identification = identification or shared.SegmentIdentificationSequence
        number = identification[0].ReferencedSegmentNumber
        below = values[..., k][plane.T > 0]
        assert np.isin(below, (0, number)).all(), "segments overlap"
        values[..., k][plane.T > 0] = number
    affine = places[int(along.argmin())].copy()
    affine[:3, 2] = -affine[:3, 2] * step if len(steps) > 1 else np.nan
    return Reading(values[None], affine)


def structures_from_pydicom(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> Reading:
    """Contours of a structure set on the grid of its image, drawn by matplotlib."""
    header = pydicom.dcmread(path)
    assert header.Modality == "RTSTRUCT", "kind"
    values = np.zeros(shape)
    centres = np.argwhere(np.ones(shape[:2], bool))
    to_voxel = np.linalg.inv(affine) @ LPS
    for roi in header.ROIContourSequence:
        inside = np.zeros(shape, bool)
        for contour in roi.get("ContourSequence", []):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            voxel = np.c_[points, np.ones(len(points))] @ to_voxel.T
            plane = Outline(voxel[:, :2]).contains_points(centres).reshape(shape[:2])
            inside[..., round(float(voxel[:, 2].mean()))] ^= plane
        values[inside] = int(roi.ReferencedROINumber)
    return Reading(values[None], affine)


READERS: dict[str, list[Callable[..., Reading]]] = {
    "DICOM": [from_header],
    "DICOM series": [from_header],
    "SEG": [segments_from_pydicom],
    "RTSTRUCT": [structures_from_pydicom],
    "NIfTI": [from_nifti_header, from_simpleitk],
    "NRRD": [from_simpleitk],
    "MetaImage": [from_meta_header],
    "PNG": [picture_from_simpleitk],
    "JPEG": [picture_from_simpleitk],
    "BMP": [picture_from_simpleitk],
    "TIFF": [picture_from_simpleitk, picture_from_pillow],
}


def _dicom_by_pydicom(path: Path) -> None:
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        pydicom.dcmread(file).pixel_array  # noqa: B018


def _read_by_pillow(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


PLAIN: dict[str, Callable[[Path], object]] = {
    "DICOM": _dicom_by_pydicom,
    "DICOM series": _dicom_by_pydicom,
    "SEG": lambda path: highdicom.seg.segread(path).get_volume(combine_segments=True),
    "RTSTRUCT": pydicom.dcmread,
    "NIfTI": lambda path: nibabel.load(path).get_fdata(),
    "NRRD": lambda path: nrrd.read(str(path)),
    "MetaImage": lambda path: sitk.ReadImage(str(path)),
    "PNG": _read_by_pillow,
    "JPEG": _read_by_pillow,
    "BMP": _read_by_pillow,
    "TIFF": tifffile.imread,
}
"""The library that the package reads a kind with, as anybody uses it."""
