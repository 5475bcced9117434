"""Generated pairs as DICOM: geometry, values and identity, seen by readers of others."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from pydicom.uid import (
    CTImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from alignflow.data.dicom_planes import LPS
from alignflow.data.formats import load
from alignflow.data.slices import slice_geometry
from alignflow.data.spec import SourceSpec
from alignflow.data.writer import write_dicom_pair
from alignflow.errors import InputError

highdicom = pytest.importorskip("highdicom")

SHAPE = (24, 35)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = np.array([[0.8, 0.36, -0.48], [0.0, 0.8, 0.6], [0.6, -0.48, 0.64]])
OBLIQUE[:3, :3] *= [0.7, 1 / 3, 2.5]
OBLIQUE[:3, 3] = [31.5, -12.25, 77.123456]
CT = SourceSpec(
    channels=1,
    labels={"background": 0.0, "ring": 85.0, "core": 170.0},
    modality="CT",
    window=(-200.0, 300.0),
    image_suffix=".nii.gz",
    label_suffix=".nii.gz",
    image_dtype="int16",
    label_dtype="uint8",
    geometries=[],
)
MR = replace(CT, modality="MR", window=(0.0, 1000.0))
SOURCES = {
    "CT": CT,
    "CT of real numbers": replace(CT, image_dtype="float32"),
    "MR": MR,
    "MR of large real numbers": replace(MR, image_dtype="float32", window=(0.0, 1.7e6)),
    "MR of small real numbers": replace(MR, image_dtype="float32", window=(0.0, 1e-3)),
    "US": replace(CT, modality="US", image_dtype="uint8", window=(0.0, 255.0)),
    "DX": replace(CT, modality="DX", image_dtype="uint16", window=(0.0, 65535.0)),
    "RGB8": replace(CT, modality="RGB8", image_dtype="uint8", window=(0.0, 255.0), channels=3),
}
FLAT = ("US", "DX", "RGB8")  # without a place in space
INDEX = torch.zeros(SHAPE, dtype=torch.uint8)
INDEX[4:18, 6:30] = 1
INDEX[8:14, 10:20] = 2


def grid(affine=OBLIQUE):
    return {"shape": list(SHAPE), "affine": None if affine is None else affine.tolist()}


def noise(spec):
    low, high = spec.window
    generator = torch.Generator().manual_seed(0)
    return low + (high - low) * torch.rand(spec.channels, *SHAPE, generator=generator)


@pytest.fixture
def write(tmp_path):
    def call(spec=CT, affine=OBLIQUE, image=None, index=INDEX, run="run", number=3, **options):
        image = noise(spec) if image is None else image
        folders = (tmp_path / "images", tmp_path / "labels")
        return write_dicom_pair(image, index, folders, spec, grid(affine), run, number, **options)

    return call


def plane_of(name):
    return None if name in FLAT else OBLIQUE


@pytest.mark.parametrize("name", SOURCES)
def test_values_and_masks_come_back(write, name):
    spec = SOURCES[name]
    image_path, mask_path = write(spec, plane_of(name))
    image = load(image_path)
    step = (spec.window[1] - spec.window[0]) / 65000 if "real" in name else 1
    assert np.abs(image[..., 0].numpy() - noise(spec).numpy()).max() <= 0.51 * step
    mask = load(mask_path, is_mask=True, image=image)
    np.testing.assert_array_equal(mask[0, ..., 0], 85 * INDEX)
    np.testing.assert_array_equal(load(mask_path, is_mask=True)[0, ..., 0], 85 * INDEX)


@pytest.mark.parametrize("name", SOURCES)
def test_pixels_as_pydicom_and_simpleitk_see_them(write, name):
    spec = SOURCES[name]
    path, _ = write(spec, plane_of(name))
    header = pydicom.dcmread(path)
    pixels = header.pixel_array.astype(float)
    if name != "RGB8":
        pixels = pixels * float(header.get("RescaleSlope", 1))
        pixels += float(header.get("RescaleIntercept", 0))
    other = sitk.GetArrayFromImage(sitk.ReadImage(path))[0]
    expected = noise(spec).numpy().squeeze(0) if spec.channels == 1 else noise(spec).numpy()
    step = (spec.window[1] - spec.window[0]) / 65000 if "real" in name else 1
    for read in (pixels, other):
        assert np.abs(read.T - expected.reshape(read.T.shape)).max() <= 0.51 * step


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_geometry_as_simpleitk_and_highdicom_see_it(write, axis):
    geometry = np.array(slice_geometry(OBLIQUE, SHAPE, axis, 3)["affine"])
    image_path, mask_path = write(CT, geometry)
    read = sitk.ReadImage(image_path)
    volume = highdicom.seg.segread(mask_path).get_volume(combine_segments=True)
    x, y = 17, 29
    world = (np.diag([-1, -1, 1, 1]) @ geometry @ [x, y, 0, 1])[:3]
    np.testing.assert_allclose(read.TransformIndexToPhysicalPoint((x, y, 0)), world, atol=1e-6)
    found = volume.map_indices_to_reference(np.array([[0, y, x]]))[0]
    np.testing.assert_allclose(found, world, atol=1e-6)
    assert read.GetSpacing() == pytest.approx(np.linalg.norm(geometry[:3, :3], axis=0))
    np.testing.assert_array_equal(volume.array[0].T, INDEX)


@pytest.mark.parametrize(
    ("name", "sop_class"),
    [
        ("CT", CTImageStorage),
        ("MR", MRImageStorage),
        ("RGB8", SecondaryCaptureImageStorage),
        ("DX", SecondaryCaptureImageStorage),
    ],
)
def test_kind_and_marks(write, name, sop_class):
    paths = write(SOURCES[name], plane_of(name), date="20260131")
    image, mask = (pydicom.dcmread(path) for path in paths)
    other = pydicom.dcmread(write(SOURCES[name], plane_of(name), run="another")[0])
    assert other.PatientName != image.PatientName
    assert (image.SOPClassUID, mask.SOPClassUID) == (sop_class, SegmentationStorage)
    for dataset in (image, mask):
        assert dataset.SyntheticData == "YES"
        (equipment,) = dataset.ContributingEquipmentSequence
        (purpose,) = equipment.PurposeOfReferenceCodeSequence
        assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109100", "DCM")
        assert dataset.PatientID == f"SYNTHETIC-{image.StudyID}" and not dataset.PatientBirthDate
        assert dataset.StudyDate == "20260131" and "DERIVED" in dataset.ImageType
        assert dataset.StudyID and str(dataset.PatientName) == f"Synthetic^{image.StudyID}"
    reference = mask.ReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == image.SeriesInstanceUID
    instance = reference.ReferencedInstanceSequence[0]
    assert instance.ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert mask.StudyInstanceUID == image.StudyInstanceUID
    assert mask.get("FrameOfReferenceUID") == image.get("FrameOfReferenceUID")
    labels = [(s.SegmentNumber, s.SegmentLabel) for s in mask.SegmentSequence]
    assert labels == [(1, "ring"), (2, "core")]


TEXTS = ("AE", "AS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UN", "UR", "UT")
OWN = re.compile(
    r"(Synthetic\^|SYNTHETIC-)?[\dA-F]{8}|Synthetic images|(Mask of s|S)ynthetic image 3|AlignFlow|"
    r"ring|core|85|170|20000101|000000|HU|US|\d{16}|[\d.]+\w*|PYDICOM [\d.]+"
)
CODED = ("CodeValue", "CodeMeaning", "CodingSchemeDesignator", "DimensionDescriptionLabel")


@pytest.mark.parametrize("name", SOURCES)
def test_every_text_and_uid_is_the_writers_own(write, name):
    """The Basic Profile of PS3.15, annex E, and more: no private attribute, nothing of a person."""
    own_uids = ("2.25.", "1.2.840.10008.", "1.2.826.0.1.3680043.8.498.")  # the last is pydicom
    for dataset in map(pydicom.dcmread, write(SOURCES[name], plane_of(name))):
        for element in (*dataset.file_meta.iterall(), *dataset.iterall()):
            values = [] if element.is_empty else [element.value]
            values = map(str, element.value if element.VM > 1 else values)
            assert not element.tag.is_private
            if element.VR == "UI":
                assert all(value.startswith(own_uids) for value in values), element
            elif element.VR in TEXTS and element.keyword not in CODED:
                assert all(OWN.fullmatch(value) for value in values), element
            elif element.VR != "SQ":
                assert element.tag.group != 0x0010 or element.is_empty, element


DEPTH = 5
LEFT_HANDED = OBLIQUE @ np.diag([1, 1, -1, 1])


def volume(spec, size=SHAPE):
    """(image (C, X, Y, Z), index (1, X, Y, Z)), slices 0 and 3 without foreground."""
    low, high = spec.window
    image = torch.rand(spec.channels, *size, DEPTH, generator=torch.Generator().manual_seed(0))
    index = INDEX[None, ..., None].repeat(1, 1, 1, DEPTH)
    index[..., 2] = index[..., 2].flip(1)
    index[..., [0, 3]] = 0
    return low + (high - low) * image, index


def corners(shape):
    return list(itertools.product(*[(0, n - 1) for n in shape]))


@pytest.mark.parametrize("affine", [OBLIQUE, LEFT_HANDED], ids=["right-handed", "left-handed"])
@pytest.mark.parametrize("name", ["CT", "MR", "RGB8"])
def test_a_volume_is_one_series_on_the_grid_of_its_mask(write, tmp_path, name, affine):
    spec = SOURCES[name]
    image, index = volume(spec)
    *paths, mask_path = write(spec, affine, image=image, index=index)
    folder = tmp_path / "images/pair_00003"
    assert paths == [folder / f"{k:06d}.dcm" for k in range(1, DEPTH + 1)]
    slices = [pydicom.dcmread(path) for path in paths]
    for shared in ("SeriesInstanceUID", "FrameOfReferenceUID", "ImageOrientationPatient"):
        assert len({str(s[shared].value) for s in slices}) == 1
    assert len({s.SOPInstanceUID for s in slices}) == DEPTH
    assert [s.InstanceNumber for s in slices] == [1, 2, 3, 4, 5]
    assert all(s.SyntheticData == "YES" for s in slices)
    np.testing.assert_allclose(np.diff([s.SliceLocation for s in slices]), 2.5, atol=1e-6)

    # every voxel where the grid has it: as pydicom, SimpleITK, highdicom and we read it
    shape = (*SHAPE, DEPTH)
    places = np.array([(LPS @ affine @ [*c, 1])[:3] for c in corners(shape)])
    order = range(DEPTH) if np.linalg.det(affine) > 0 else range(DEPTH)[::-1]
    stored = {k: s for k, s in zip(order, slices, strict=True)}
    found = []
    for i, j, k in corners(shape):
        s = stored[k]
        row, column = np.reshape(s.ImageOrientationPatient, (2, 3)).astype(float)
        between_rows, between_columns = map(float, s.PixelSpacing)
        origin = np.array(s.ImagePositionPatient, dtype=float)
        found.append(origin + i * between_columns * row + j * between_rows * column)
    np.testing.assert_allclose(found, places, atol=1e-4)

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    other = reader.Execute()
    index_of = {k: n for n, k in enumerate(order)}
    found = [other.TransformIndexToPhysicalPoint((i, j, index_of[k])) for i, j, k in corners(shape)]
    np.testing.assert_allclose(found, places, atol=1e-4)
    values = np.stack([image[..., k] for k in order], axis=-1)
    pixels = sitk.GetArrayFromImage(other)
    pixels = pixels if spec.channels == 3 else pixels[..., None]
    np.testing.assert_allclose(pixels.transpose(3, 2, 1, 0), values, atol=0.51)

    masks = highdicom.seg.segread(mask_path)
    reference = masks.ReferencedSeriesSequence[0]
    referenced = [i.ReferencedSOPInstanceUID for i in reference.ReferencedInstanceSequence]
    assert sorted(referenced) == sorted(s.SOPInstanceUID for s in slices)
    assert reference.SeriesInstanceUID == slices[0].SeriesInstanceUID
    assert masks.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    read = masks.get_volume(combine_segments=True)
    assert read.spatial_shape == (DEPTH, *SHAPE[::-1])
    expected = np.stack([index[0, ..., k] for k in order], axis=-1)
    back = read.map_reference_to_indices(places).round().astype(int)
    np.testing.assert_allclose(read.map_indices_to_reference(back), places, atol=1e-4)
    for (i, j, k), place in zip(corners(shape), back, strict=True):
        assert read.array[tuple(place)] == index[0, i, j, k]

    loaded = load(folder)
    np.testing.assert_allclose(loaded, values, atol=0.51)
    mask = load(mask_path, is_mask=True, image=loaded)
    np.testing.assert_array_equal(mask[0], 85 * expected)


def read_by_dcmqi(path, folder):
    """(image, label of its segment) for each file that dcmqi makes of a segmentation."""
    program = Path(sys.executable).with_name("segimage2itkimage")
    folder.mkdir()
    options = ["--inputDICOM", path, "--outputDirectory", folder, "-t", "nrrd"]
    done = subprocess.run([program, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    meta = json.loads((folder / "meta.json").read_text())
    labels = [one["SegmentLabel"] for (one,) in meta["segmentAttributes"]]
    return [
        (sitk.ReadImage(folder / f"{number}.nrrd"), label) for number, label in enumerate(labels, 1)
    ]


@pytest.mark.parametrize("name", ["CT", "MR"])
@pytest.mark.parametrize("is_volume", [False, True], ids=["image", "volume"])
def test_segments_as_dcmqi_sees_them(write, tmp_path, name, is_volume):
    pytest.importorskip("dcmqi")
    image, index = volume(SOURCES[name]) if is_volume else (None, INDEX)
    *_, path = write(SOURCES[name], OBLIQUE, image=image, index=index)
    segments = read_by_dcmqi(path, tmp_path / "dcmqi")
    assert [label for _, label in segments] == ["ring", "core"]
    for number, (segment, _) in enumerate(segments, 1):
        voxels = index[0] if is_volume else index[..., None]
        for place in (voxels == number).nonzero().tolist():
            world = (LPS @ OBLIQUE @ [*place, 1])[:3]
            found = segment.TransformPhysicalPointToContinuousIndex(world)
            np.testing.assert_allclose(found, np.round(found), atol=1e-4)
            assert segment[[round(i) for i in found]] == number
        assert (sitk.GetArrayFromImage(segment) > 0).sum() == (voxels == number).sum()


def test_a_volume_on_the_generators_grid(write):
    image, index = (part[:, ::2, ::5] for part in volume(CT))
    *paths, mask_path = write(image=image, index=index, native_size=False)
    read = load(paths[0].parent)
    assert read.shape == (1, 12, 7, DEPTH)
    mask = load(mask_path, is_mask=True, image=read)
    np.testing.assert_array_equal(mask[0], 85 * index[0])
    edge = (OBLIQUE @ [-0.5, -0.5, 4, 1])[:3]  # outer edge of the last slice's first voxel
    np.testing.assert_allclose((read.affine.numpy() @ [-0.5, -0.5, 4, 1])[:3], edge, atol=1e-4)


def test_volumes_repeat_their_bytes(write):
    image, index = volume(CT)
    first = [path.read_bytes() for path in write(image=image, index=index)]
    assert [path.read_bytes() for path in write(image=image, index=index)] == first


def test_a_sheared_volume_is_refused(write):
    image, index = volume(CT)
    sheared = OBLIQUE.copy()
    sheared[:3, 2] += 0.2 * sheared[:3, 1]
    with pytest.raises(InputError, match="sheared grid.*set null"):
        write(affine=sheared, image=image, index=index)
    write(affine=sheared)  # a slice alone has no such way


def test_patient_less_uids_are_under_2_25(write):
    for path in write():
        dataset = pydicom.dcmread(path)
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            assert dataset[name].value.startswith("2.25.") and dataset[name].value.is_valid


def test_repetition_gives_equal_bytes_and_other_pixels_other_uids(write):
    first = [path.read_bytes() for path in write()]
    assert [path.read_bytes() for path in write()] == first
    uids = []
    for options in ({}, {"run": "other"}, {"number": 4}, {"image": noise(CT) - 1}):
        uids += [pydicom.dcmread(path).SOPInstanceUID for path in write(**options)]
    assert len(set(uids)) == 8


def test_generators_grid_covers_the_field_of_view(write):
    image, index = noise(CT)[:, ::2, ::5], INDEX[::2, ::5]
    image_path, mask_path = write(image=image, index=index, native_size=False)
    read, mask = load(image_path), load(mask_path, is_mask=True)
    assert read.shape == mask.shape == (1, 12, 7, 1)
    for column in (0, 1, 3):  # which way a single slice is counted along its normal says nothing
        np.testing.assert_allclose(read.affine[:, column], mask.affine[:, column], atol=1e-6)
    edge = (OBLIQUE @ [-0.5, -0.5, 0, 1])[:3]  # outer edge of the first voxel, in both grids
    np.testing.assert_allclose((read.affine.numpy() @ [-0.5, -0.5, 0, 1])[:3], edge, atol=1e-4)


def test_an_empty_mask(write):
    _, path = write(index=torch.zeros_like(INDEX))
    assert not load(path, is_mask=True).any()


def test_what_dicom_cannot_hold_is_refused(write, tmp_path):
    two = replace(CT, channels=2)
    with pytest.raises(InputError, match='"dicom" holds 1 channel.*source has 2.*set null'):
        write(two)
    sheared = OBLIQUE.copy()
    sheared[:3, 1] += 0.1 * sheared[:3, 0]
    with pytest.raises(InputError, match="sheared grid.*set null"):
        write(affine=sheared)
    assert not list(tmp_path.rglob("*.dcm"))


# Debian 12's dciodvfy is of 2022 and does not know the attribute that the standard got since.
UNKNOWN = "</(0008,001c)> - Attribute with an even group number is not a recognized standard"


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("is_volume", [False, True], ids=["image", "volume"])
def test_dciodvfy_finds_no_error(write, name, is_volume):
    options = {}
    if is_volume:
        options = dict(zip(("image", "index"), volume(SOURCES[name]), strict=True))
    plane = OBLIQUE if is_volume else plane_of(name)
    for path in write(SOURCES[name], plane, **options):
        done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True)
        lines = done.stderr.splitlines()
        assert any(line in ("CTImage", "MRImage", "SCImage", "Segmentation") for line in lines)
        errors = [line for line in lines if line.startswith("Error") and UNKNOWN not in line]
        assert errors == []
