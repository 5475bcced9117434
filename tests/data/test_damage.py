"""Headers that put an image elsewhere or change its values, and damage that ends the process."""

import gzip
import importlib
import logging
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement
from pydicom.pixels import apply_color_lut
from pydicom.tag import Tag
from pydicom.uid import RLELossless

from alignflow.data.datalist import build_datalist
from alignflow.data.formats import load
from alignflow.errors import InputError

VOLUME = np.random.default_rng(0).integers(0, 900, (7, 6, 5)).astype(np.int16)


def change(path, old, new):
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


def test_checksum_of_a_packed_nifti(tmp_path, refuse):
    path = tmp_path / "a.nii.gz"
    content = gzip.compress(nib.Nifti1Image(VOLUME, np.eye(4)).to_bytes())
    path.write_bytes(content[:-6] + bytes([content[-6] ^ 1]) + content[-5:])
    refuse(path, "CRC")
    path.write_bytes(content[:-8])  # all values are there, the checksum is not
    refuse(path, "end-of-stream")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b"NDims = 3", b"NDims = 65535", "'NDims' is '65535'"),  # MetaIO has 10 places
        (b"Offset = 0 0 0", b"Offset = 0 1e 0", "'Offset' is '0 1e 0'"),
        (b"Offset = 0 0 0", b"Offset = 0 0", "'Offset' is '0 0', not 3 numbers"),
        (b"Offset = 0 0 0", b"Offset = 0 0 0\nOffset = 0 0 1", "two different 'Offset'"),
        (b"Offset = 0 0 0", b"Offset = 0 0 0\nOrigin = 0 0 1", "both Offset and Origin"),
        # MetaIO takes the numbers that are missing from the next line
        (b"CenterOfRotation = 0 0 0", b"CenterOfRotation = 0 0", "'CenterOfRotation' is '0 0'"),
        (b"ElementType = MET_SHORT", b"DistanceUnits = cm\nElementType = MET_SHORT", "in mm"),
        (b"= LOCAL", b"= LOC", "ElementDataFile is 'LOC', no such file"),
        # MetaIO writes beyond its array and ends the process
        (b"= LOCAL\n", b"= LOCA\xc1" + b"\xe0" * 900 + b"\n", "ElementDataFile is"),
        (b"= LOCAL", b"= LIST", "ElementDataFile is 'LIST'"),
    ],
)
def test_headers_of_metaimage(tmp_path, old, new, match, refuse):
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(VOLUME), str(path), False)
    change(path, old, new)
    refuse(path, match)


def test_packed_data_of_metaimage(tmp_path, refuse):
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(VOLUME), str(path), True)
    np.testing.assert_array_equal(load(path)[0].numpy().T, VOLUME)
    content = path.read_bytes()  # ITK gives what is in memory for each of these
    path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    refuse(path, "incorrect data check")
    path.write_bytes(content.replace(b"DimSize = 5 6 7", b"DimSize = 5 6 9"))
    refuse(path, "420 bytes of data where 540 are needed")


@pytest.fixture
def ct(tmp_path):
    """A function that writes a CT slice with one attribute replaced: (name, VR, bytes)."""

    def write(name, vr, value):
        path = tmp_path / "ct.dcm"
        dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
        tag = Tag(name)
        dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
        dataset.save_as(path)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "vr", "value", "match"),
    [
        ("BitsStored", "US", b"\x0c\x00", "HighBit is 15 with BitsStored 12"),
        ("Rows", "US", b"\xff\x00", "pixel data is less than expected"),
        ("PixelSpacing", "DS", b"nan\\1 ", "PixelSpacing is"),
        ("PixelSpacing", "DS", b"0.5 ", "PixelSpacing is"),
        ("ImageOrientationPatient", "DS", b"1\\0\\0\\1\\0\\0 ", "ImageOrientationPatient is"),
        ("ImagePositionPatient", "DS", b"1\\2\\inf ", "ImagePositionPatient is"),
        ("SpacingBetweenSlices", "DS", b"1e308 ", "no place in space"),
        ("RescaleSlope", "DS", b"0 ", "RescaleSlope is"),
        ("RescaleIntercept", "DS", b"1\\2 ", "RescaleIntercept is"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_headers_of_dicom(ct, name, vr, value, match, refuse):
    refuse(ct(name, vr, value), match)


@pytest.mark.filterwarnings("ignore")
def swap(items, i, j):
    items[i], items[j] = items[j], items[i]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h: None, None),
        (lambda h: setattr(h, "SOPClassUID", "1.2.3"), None),
        (lambda h: swap(h.PerFrameFunctionalGroupsSequence, 1, 2), None),
        (lambda h: h.PerFrameFunctionalGroupsSequence.pop(), "but 3 are described"),
        (
            lambda h: delattr(h, "SharedFunctionalGroupsSequence"),
            "Orientation.* of frame 1",
        ),
        (lambda h: delattr(h, "PerFrameFunctionalGroupsSequence"), "PerFrame.*Sequence is missing"),
        (
            lambda h: h.PerFrameFunctionalGroupsSequence.clear(),
            "PerFrame.*Sequence is missing",
        ),
        (
            lambda h: delattr(h.PerFrameFunctionalGroupsSequence[2], "PlanePositionSequence"),
            "ImagePositionPatient of frame 3 is missing",
        ),
        (
            lambda h: delattr(h.SharedFunctionalGroupsSequence[0], "PixelMeasuresSequence"),
            "PixelSpacing of frame 1 is missing",
        ),
    ],
)
def test_frames_of_an_enhanced_image(tmp_path, monkeypatch, change, match, refuse):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    path = importlib.import_module("fuzzing.corpus").enhanced(tmp_path / "a.dcm")
    header = pydicom.dcmread(path)
    places = [f.PlanePositionSequence[0] for f in header.PerFrameFunctionalGroupsSequence]
    last = -np.array(places[-1].ImagePositionPatient, float) * [1, 1, -1]
    change(header)
    header.save_as(path)
    if match is not None:
        refuse(path, match)
    else:
        image = load(path)
        np.testing.assert_allclose(image.affine.numpy() @ [0, 0, 3, 1], [*last, 1], atol=1e-4)
        np.testing.assert_allclose(image[0, ..., 0].T, 2 * header.pixel_array[0] - 5.0)


def test_place_of_a_single_frame(write_enhanced, tmp_path):
    path = write_enhanced(tmp_path / "a.dcm", VOLUME, [0], [0.0])
    affine = load(path).affine.numpy()
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :2], axis=0), [0.7, 0.9], rtol=1e-5)
    np.testing.assert_allclose(affine[:3, 3], [31.5, -12.25, 77.0], atol=1e-4)


def test_a_segmentation_with_other_frames_than_it_states(tmp_path):
    dataset = pydicom.dcmread(get_testdata_file("liver_1frame.dcm", download=False))
    dataset.NumberOfFrames = 1
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="a.dcm': NumberOfFrames is 1, but 3 frames"):
        load(tmp_path / "a.dcm", is_mask=True)


@pytest.mark.filterwarnings("ignore")
def test_size_of_pixels_without_a_plane(ct):
    dataset = pydicom.dcmread(ct("SOPClassUID", "UI", b"1.2.3\0"))
    del dataset.ImagePositionPatient
    dataset.PixelSpacing = [0.25, 0.5]
    dataset.save_as(dataset.filename)
    np.testing.assert_allclose(np.diag(load(dataset.filename).affine)[:2], [-0.5, -0.25])


def test_a_slice_that_is_no_longer_one(tmp_path, write_series):
    files = write_series(tmp_path / "case1", VOLUME)
    content = files[0].read_bytes()  # the last ones of the series; without them it looks whole
    files[0].write_bytes(content[128:])
    shutil.move(files[0], tmp_path / "case1" / "a.dcm")
    with pytest.raises(InputError, match="a.dcm': not a DICOM file"):
        load(tmp_path / "case1")
    dataset = pydicom.dcmread(files[4])
    del dataset.Rows
    (tmp_path / "case1" / "a.dcm").unlink()
    dataset.save_as(files[4])
    with pytest.raises(InputError, match="Rows is missing"):
        load(tmp_path / "case1")


def test_a_slice_that_is_cut_off_within_its_series(tmp_path, write_series):
    files = write_series(tmp_path / "case1", VOLUME)
    content = files[0].read_bytes()
    uid = pydicom.dcmread(files[0]).SeriesInstanceUID.encode()
    files[0].write_bytes(content[: content.index(uid) + 7])
    with pytest.raises(InputError, match=f"{files[0].name}': Rows is missing"):
        load(tmp_path / "case1")


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "SC_rgb_jpeg_gdcm.dcm"])
def test_whole_compressed_pixels_are_read(name):
    path = get_testdata_file(name, download=False)
    pixels = pydicom.dcmread(path).pixel_array
    image = load(path)[..., 0].numpy()
    np.testing.assert_array_equal(image, pixels.reshape(*pixels.shape[:2], -1).transpose(2, 1, 0))


def nifti(path, **fields):
    """A file with some fields of its header replaced, not mended."""
    content = bytearray(nib.Nifti1Image(VOLUME, np.diag([1.5, 2, 3, 1])).to_bytes())
    header = nib.Nifti1Header(bytes(content[:348]))
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + bytes(content[348:]))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"sform_code": 7}, "sform_code 7"),
        ({"xyzt_units": 5}, "spatial unit 5"),
        ({"srow_x": [1.5, 0.3, 0, 0]}, "right angles"),
        ({"srow_x": [1.7, 0, 0, 0]}, "voxels of 1.7 x 2 x 3 by sform, of 1.5 x 2 x 3 by pixdim"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "sform"),
        ({"datatype": 32, "bitpix": 64}, "complex64 values"),
        ({"dim": [3, 7, 0, 5, 1, 1, 1, 1]}, "pixels"),
        ({"dim": [1, 7, 1, 1, 1, 1, 1, 1]}, "1 axes"),
        ({"sform_code": 0, "pixdim": [1, 1.5, 2, -3, 1, 1, 1, 1]}, "pixdim 1.5 x 2 x -3"),
        ({"srow_x": [1.5, 0, 0, 1e30]}, "no place in space"),
        ({"scl_slope": 0, "scl_inter": 15}, "scl_slope 0 with scl_inter 15"),
        ({"scl_slope": 1e-30, "scl_inter": 0}, "scl_slope 1e-30 with"),
        ({"vox_offset": 0}, "vox_offset 0"),
    ],
)
def test_headers_of_nifti(tmp_path, fields, match, refuse):
    nifti(tmp_path / "a.nii", **fields)
    refuse(tmp_path / "a.nii", match)


def test_two_places_of_a_nifti(tmp_path, caplog):
    nifti(tmp_path / "a.nii", srow_x=[1.5, 0, 0, 40], qform_code=1)
    with caplog.at_level(logging.WARNING):
        image = load(tmp_path / "a.nii")
    assert "qform lies 40 away from sform; sform is taken" in caplog.text
    assert image.affine[0, 3] == 40


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"stem,centre\na,\xff\n", "not readable as CSV in UTF-8"),
        (b"stem,centre\na,1,5\n", "row 1 has 3 cells for 2 columns"),
        (b"stem,centre,centre\na,1,2\n", "two columns 'centre'"),
    ],
)
def test_tables(png_dataset, content, match):
    (png_dataset / "index.csv").write_bytes(content)
    with pytest.raises(InputError, match=match):
        build_datalist(png_dataset, group_column="centre")


def test_packed_palette(tmp_path):
    dataset = pydicom.dcmread(get_testdata_file("examples_palette.dcm", download=False))
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    dataset.save_as(tmp_path / "a.dcm")
    expected = apply_color_lut(dataset.pixel_array, dataset) >> 8
    np.testing.assert_array_equal(load(tmp_path / "a.dcm")[..., 0].T, expected)
