"""DICOM series that pydicom wrote, oblique and out of order."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file

from alignflow.data.formats import has_geometry, load
from alignflow.errors import InputError

VOLUME = np.random.default_rng(0).integers(-500, 900, (6, 5, 4)).astype(np.int16)


def test_oblique_series(tmp_path, write_series, ras_affine):
    from_conftest = np.array([[0.8, 0.36, -0.48], [0.0, 0.8, 0.6], [0.6, -0.48, 0.64]])
    write_series(tmp_path / "case1", VOLUME)
    image = load(tmp_path / "case1")
    np.testing.assert_array_equal(image[0], VOLUME)
    expected = ras_affine((-31.5, 12.25, 77.0), (0.7, 0.9, 2.5), from_conftest)
    np.testing.assert_allclose(image.affine, expected, atol=1e-4)
    assert (image.meta["modality"], image.meta["suffix"]) == ("MR", ".dcm")


def test_series_against_simpleitk(tmp_path, write_series, ras_affine):
    write_series(tmp_path / "case1", VOLUME)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "case1")))
    other = reader.Execute()
    image = load(tmp_path / "case1")
    np.testing.assert_array_equal(image[0], sitk.GetArrayFromImage(other).transpose(2, 1, 0))
    direction = np.reshape(other.GetDirection(), (3, 3))
    expected = ras_affine(other.GetOrigin(), other.GetSpacing(), direction)
    np.testing.assert_allclose(image.affine, expected, atol=1e-5)


def test_strays_are_passed_over(tmp_path, write_series):
    write_series(tmp_path / "case1", VOLUME)
    write_series(tmp_path / "case1", VOLUME[..., :2], modality="SEG")
    (tmp_path / "case1" / "notes.txt").write_text("hello")
    np.testing.assert_array_equal(load(tmp_path / "case1")[0], VOLUME)


def test_two_series_are_refused(tmp_path, write_series):
    write_series(tmp_path / "case1", VOLUME)
    write_series(tmp_path / "case1", VOLUME[..., :2])
    with pytest.raises(InputError, match=r"case1': 2 image series .*\(2 files\)"):
        load(tmp_path / "case1")


def test_only_a_segmentation(tmp_path, write_series):
    files = write_series(tmp_path / "case1", VOLUME[..., :1], modality="SEG")
    for path in (tmp_path / "case1", files[0]):
        with pytest.raises(InputError, match="no DICOM image in it \\(found: SEG\\)"):
            load(path)


def test_folder_without_dicom(tmp_path):
    (tmp_path / "case1").mkdir()
    (tmp_path / "case1" / "a.txt").write_text("x")
    with pytest.raises(InputError, match="found: no DICOM file"):
        load(tmp_path / "case1")


def test_missing_slice(tmp_path, write_series):
    files = write_series(tmp_path / "case1", VOLUME)
    files[2].unlink()
    with pytest.raises(InputError, match="slices are 2.5 to 5 mm apart"):
        load(tmp_path / "case1")


def test_repeated_slice(tmp_path, write_series, caplog):
    files = write_series(tmp_path / "case1", VOLUME)
    copy = tmp_path / "case1" / "copy.dcm"
    copy.write_bytes(files[1].read_bytes())
    with caplog.at_level("WARNING"):
        np.testing.assert_array_equal(load(tmp_path / "case1")[0], VOLUME)
    assert f"'copy.dcm' repeats '{files[1].name}'; counted once" in caplog.text
    other = pydicom.dcmread(copy)
    other.PixelData = other.PixelData[::-1]
    other.save_as(copy)
    expected = f"different slices at one place, '{files[1].name}' and 'copy.dcm'; keep one"
    with pytest.raises(InputError, match=expected):
        load(tmp_path / "case1")


def test_tilted_gantry(tmp_path, write_series):
    tilted = np.eye(3)
    tilted[:, 2] = [0, 0.3, 1]
    write_series(tmp_path / "case1", VOLUME, direction=tilted)
    with pytest.raises(InputError, match="tilted gantry"):
        load(tmp_path / "case1")


def test_localizer_in_the_series(tmp_path, write_series):
    write_series(tmp_path / "case1", VOLUME, series_uid="1.2.3.4")
    turned = np.eye(3)[:, [1, 2, 0]]
    files = write_series(
        tmp_path / "other", VOLUME[..., :1], series_uid="1.2.3.4", direction=turned
    )
    files[0].rename(tmp_path / "case1" / "localizer.dcm")
    with pytest.raises(InputError, match="4 like 'IM.*; 1 like 'localizer.dcm'.*; remove all but"):
        load(tmp_path / "case1")


def test_series_without_positions(tmp_path, write_series):
    files = write_series(tmp_path / "case1", VOLUME[..., :2])
    header = pydicom.dcmread(files[0])
    del header.ImagePositionPatient
    header.save_as(files[0])
    with pytest.raises(InputError, match="has no .valid. ImagePositionPatient"):
        load(tmp_path / "case1")


def test_positions_that_are_no_place(tmp_path, write_series):
    files = write_series(tmp_path / "case1", VOLUME[..., :3])
    header = pydicom.dcmread(files[1])
    header.ImagePositionPatient = [1.0, 2.0]
    header.save_as(files[1])
    with pytest.raises(InputError, match=f"'{files[1].name}' has no .valid. ImagePosition"):
        load(tmp_path / "case1")


@pytest.mark.parametrize("representation", [0, 1])
def test_monochrome1_becomes_bright_is_high(tmp_path, write_series, representation):
    pixels = np.abs(VOLUME[..., :1]) % 2048
    tags = {
        "PhotometricInterpretation": "MONOCHROME1",
        "PixelRepresentation": representation,
        "BitsStored": 12,
        "HighBit": 11,
        "RescaleSlope": 2,
        "RescaleIntercept": -10,
    }
    files = write_series(tmp_path, pixels, modality="DX", **tags)
    total = 4095 if representation == 0 else -1
    np.testing.assert_allclose(load(files[0])[0], (total - pixels) * 2.0 - 10)


def test_hounsfield_units_are_never_inverted(tmp_path, write_series):
    tags = {"PhotometricInterpretation": "MONOCHROME1", "modality": "CT"}
    files = write_series(tmp_path, VOLUME[..., :1], **tags)
    np.testing.assert_array_equal(load(files[0])[0], VOLUME[..., :1])


def test_compressed_file():
    path = get_testdata_file("MR_small_RLE.dcm", download=False)
    pixels = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False)).pixel_array
    np.testing.assert_array_equal(load(path)[0, ..., 0], pixels.T)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_frames_of_an_enhanced_file_lie_where_they_say(
    tmp_path, write_series, write_enhanced, order
):
    path = write_enhanced(tmp_path / "frames.dcm", VOLUME, order, 2.5 * np.arange(4))
    write_series(tmp_path / "case1", VOLUME)
    image, series = load(path), load(tmp_path / "case1")
    np.testing.assert_array_equal(image, series)
    np.testing.assert_allclose(image.affine, series.affine, atol=1e-4)


def test_irregular_frames_are_refused(tmp_path, write_enhanced):
    path = write_enhanced(tmp_path / "gap.dcm", VOLUME, range(4), [0, 2.5, 5, 10])
    with pytest.raises(InputError, match="gap.dcm': slices are 2.5 to 5 mm apart"):
        load(path)
    path = write_enhanced(tmp_path / "phases.dcm", VOLUME, range(4), [0, 0, 2.5, 2.5])
    with pytest.raises(InputError, match="phases.dcm': several frames at one place; save one"):
        load(path)


def test_a_series_of_colour_slices(tmp_path, write_series):
    rgb = np.random.default_rng(1).integers(0, 255, (3, 6, 5, 4)).astype(np.uint8)
    files = write_series(tmp_path / "case1", VOLUME)
    for k, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation, dataset.PlanarConfiguration = 7, 0, 0
        dataset.PixelData = rgb[..., k].transpose(2, 1, 0).tobytes()
        dataset["PixelData"].VR = "OB"
        dataset.save_as(path)
    image = load(tmp_path / "case1")
    np.testing.assert_array_equal(image, rgb)
    write_series(tmp_path / "gray", VOLUME)
    np.testing.assert_allclose(image.affine, load(tmp_path / "gray").affine, atol=1e-5)


@pytest.mark.parametrize("value", [0, -2.5, ""])
def test_spacing_between_slices_is_that_of_their_places(tmp_path, write_series, value):
    write_series(tmp_path / "case1", VOLUME, SpacingBetweenSlices=value)
    image = load(tmp_path / "case1")
    np.testing.assert_allclose(np.linalg.norm(image.affine[:3, 2]), 2.5, rtol=1e-6)
    single = write_series(tmp_path / "single", VOLUME[..., :1], SpacingBetweenSlices=value)
    np.testing.assert_allclose(np.linalg.norm(load(single[0]).affine[:3, 2]), 2.5, rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "Modality"],
)
def test_an_empty_attribute_is_as_if_it_were_missing(tmp_path, write_series, name):
    emptied = {name: "", "RescaleIntercept": ""}
    [first] = write_series(tmp_path / "a", VOLUME[..., :1], **emptied)
    [second] = write_series(tmp_path / "b", VOLUME[..., :1])
    header = pydicom.dcmread(second)
    if name in header:
        del header[name]
    header.save_as(second)
    image, other = load(first), load(second)
    np.testing.assert_array_equal(image, other)
    np.testing.assert_array_equal(image.affine, other.affine)
    assert has_geometry(image) == (name != "PixelSpacing")


@pytest.mark.parametrize("bits", [8, 16])
def test_a_modality_table_takes_the_place_of_a_rescale(tmp_path, write_series, bits):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [8, 0, bits], "OD"
    levels = 10 + 4 * np.arange(8) ** 2
    table.add_new("LUTData", "OW", levels.astype(f"<u{bits // 8}").tobytes())
    pixels = np.arange(30).reshape(6, 5, 1) % 8
    tags = {"PixelRepresentation": 0, "ModalityLUTSequence": [table]}
    for photometric, sign in (("MONOCHROME2", 1), ("MONOCHROME1", -1)):
        tags["PhotometricInterpretation"] = photometric
        [path] = write_series(tmp_path / photometric, pixels, modality="CR", **tags)
        read = load(path)[0, ..., 0].numpy()
        np.testing.assert_array_equal(sign * (read - read[0, 0]), levels[pixels[..., 0]] - 10)


def test_an_overlay_in_unused_bits_is_left_out(tmp_path, write_series):
    pixels = np.abs(VOLUME[..., :1]) % 2048
    tags = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}
    [path] = write_series(tmp_path, pixels, **tags)
    header = pydicom.dcmread(path)
    header.PixelData = (header.pixel_array.astype(np.uint16) | 0x4000).astype("<u2").tobytes()
    header.save_as(path)
    np.testing.assert_array_equal(load(path)[0], pixels)


def region(delta=(0.02, 0.03), units=3):
    found = pydicom.Dataset()
    found.PhysicalDeltaX, found.PhysicalDeltaY = delta
    found.PhysicalUnitsXDirection = found.PhysicalUnitsYDirection = units
    return found


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ([region()], (0.2, 0.3)),
        ([region(), region()], (0.2, 0.3)),
        ([region((-0.02, -0.03))], (0.2, 0.3)),
        ([region(), region((0.04, 0.04))], None),  # two scales in one picture
        ([region(units=4)], None),  # seconds: M-mode
        ([], None),
    ],
)
def test_pixel_size_of_an_ultrasound_image(tmp_path, write_series, regions, expected):
    files = write_series(tmp_path, VOLUME[..., :1], SequenceOfUltrasoundRegions=regions)
    header = pydicom.dcmread(files[0])
    for name in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
        delattr(header, name)
    header.save_as(files[0])
    image = load(files[0])
    assert has_geometry(image) == (expected is not None)
    if expected:
        np.testing.assert_allclose(np.diag(image.affine)[:2], -np.array(expected), rtol=1e-6)


def test_files_without_preamble(tmp_path, write_series):
    for path in write_series(tmp_path / "case1", VOLUME):
        header = pydicom.dcmread(path)
        del header.file_meta
        header.preamble = None
        header.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(load(tmp_path / "case1")[0], VOLUME)


@pytest.mark.parametrize("name", ["PatientID", "StudyInstanceUID"])
def test_two_patients_or_studies_are_never_one_volume(tmp_path, write_series, name):
    for k, path in enumerate(write_series(tmp_path / "case1", VOLUME)):
        header = pydicom.dcmread(path)
        setattr(header, name, f"1.2.{k // 2}")
        header.save_as(path)
    with pytest.raises(InputError, match=r"case1': 2 image series .*\(2 files\)"):
        load(tmp_path / "case1")


def test_frames_of_different_rescale(tmp_path, write_enhanced):
    path = write_enhanced(tmp_path / "a.dcm", VOLUME, [1, 0, 2, 3], [0, 2.5, 5, 7.5])
    header = pydicom.dcmread(path)
    for k, frame in enumerate(header.PerFrameFunctionalGroupsSequence):
        item = pydicom.Dataset()
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = k + 1, -k, "US"
        frame.PixelValueTransformationSequence = [item]
    header.save_as(path)
    scales = np.array([2, 1, 3, 4])  # of the places; frame 0 lies at the second
    np.testing.assert_array_equal(load(path)[0], VOLUME * scales - (scales - 1))


def test_burned_in_text_is_told(tmp_path, write_series, caplog):
    write_series(tmp_path / "case1", VOLUME, BurnedInAnnotation="YES")
    load(tmp_path / "case1")
    assert caplog.text.count("text is burned into its pixels (BurnedInAnnotation)") == 1
