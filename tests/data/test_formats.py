"""Each format against the library that wrote it."""

import shutil
import struct
import zlib

import nibabel as nib
import nrrd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.data import get_testdata_file

from alignflow.data.formats import load, split_suffix
from alignflow.errors import InputError

VOLUME = np.random.default_rng(0).integers(0, 900, (7, 6, 5)).astype(np.int16)
PIXELS = np.random.default_rng(1).integers(0, 256, (5, 8, 3)).astype(np.uint8)  # rows, columns


def oblique_affine():
    affine = np.diag([1.5, 2.0, 3.0, 1.0])
    c, s = np.cos(0.3), np.sin(0.3)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    affine[:3, 3] = [-20, 31, 7]
    return affine


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii.gz", ("a", ".nii.gz")),
        ("case.1.NII", ("case.1", ".nii")),
        ("x.JPG", ("x", ".jpg")),
        ("notes.txt", ("notes.txt", "")),
    ],
)
def test_split_suffix(name, expected):
    assert split_suffix(f"folder/{name}") == expected


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_colour_picture_is_channel_x_y(tmp_path, suffix):
    Image.fromarray(PIXELS).save(tmp_path / f"a{suffix}")
    image = load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(image.numpy(), PIXELS.transpose(2, 1, 0))
    assert image.dtype.is_floating_point
    assert image.meta["native_dtype"] == "uint8"
    assert image.meta["suffix"] == suffix
    np.testing.assert_array_equal(image.affine, np.eye(4))


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("I;16", 1)],
)
def test_modes_of_pictures(tmp_path, mode, channels):
    if mode == "I;16":
        original = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200)
    else:
        original = Image.fromarray(PIXELS).convert(mode)
    original.save(tmp_path / "a.png")
    image = load(tmp_path / "a.png")
    expected = original if mode == "I;16" else original.convert("L" if channels == 1 else "RGB")
    values = np.asarray(expected).reshape(5, 8, channels).transpose(2, 1, 0)
    np.testing.assert_array_equal(image.numpy(), values)
    assert image.meta["native_dtype"] == ("uint16" if mode == "I;16" else "uint8")


def test_palette_mask_keeps_indices(tmp_path):
    indices = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    mask = Image.fromarray(indices, mode="P")
    mask.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    mask.save(tmp_path / "m.png")
    np.testing.assert_array_equal(load(tmp_path / "m.png", is_mask=True)[0], indices.T)
    np.testing.assert_array_equal(load(tmp_path / "m.png")[0], 255 * (indices.T == 1))


def test_gray_palette_whose_first_entry_is_white_is_read_by_its_levels(tmp_path):
    indices = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    mask = Image.fromarray(indices, mode="P")
    mask.putpalette([255, 255, 255, 0, 0, 0, 128, 128, 128])
    mask.save(tmp_path / "m.png")
    levels = np.array([255, 0, 128])[indices.T]
    np.testing.assert_array_equal(load(tmp_path / "m.png", is_mask=True)[0], levels)
    mask.putpalette([255, 0, 0, 0, 0, 0, 0, 255, 0])
    mask.save(tmp_path / "c.png")
    with pytest.raises(InputError, match="c.png': black is entry 1 of its palette, not entry 0"):
        load(tmp_path / "c.png", is_mask=True)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_png_of_several_channels_is_refused(tmp_path, colour_type, channels):
    """Pillow would read its high bytes; it cannot write one, so the chunks are written here."""

    def chunk(name, content):
        crc = zlib.crc32(name + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + name + content + crc

    row = b"\0" + bytes(range(2 * channels)) * 2
    header = struct.pack(">IIBBBBB", 2, 2, 16, colour_type, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    content += chunk(b"IDAT", zlib.compress(row * 2)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match="16 bits a channel in colour or with alpha"):
        load(tmp_path / "a.png")


def test_photograph_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    expected = np.rot90(PIXELS, -1)  # 6: show it turned clockwise
    np.testing.assert_array_equal(load(tmp_path / "a.png"), expected.transpose(2, 1, 0))


def test_gray_mask_saved_as_rgb_is_one_channel(tmp_path):
    gray = PIXELS[..., 0]
    Image.fromarray(np.stack([gray] * 3, axis=-1)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(load(tmp_path / "m.png", is_mask=True), gray.T[None])
    Image.fromarray(PIXELS).save(tmp_path / "c.png")
    with pytest.raises(InputError, match="c.png': 3 differing channels"):
        load(tmp_path / "c.png", is_mask=True)


def test_pages_are_refused(tmp_path):
    first = Image.fromarray(PIXELS)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[first])
    with pytest.raises(InputError, match="several pages"):
        load(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_against_nibabel(tmp_path, suffix):
    affine = oblique_affine()
    nib.save(nib.Nifti1Image(VOLUME, affine), tmp_path / f"a{suffix}")
    image = load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(image[0], VOLUME)
    np.testing.assert_allclose(image.affine, nib.load(tmp_path / f"a{suffix}").affine)
    assert (image.meta["native_dtype"], image.meta["suffix"]) == ("int16", suffix)


def test_nifti_with_slope_is_real(tmp_path):
    nifti = nib.Nifti1Image(VOLUME.astype(float), np.eye(4))
    nifti.header.set_data_dtype(np.int16)
    nifti.header.set_slope_inter(0.37, -5)
    nib.save(nifti, tmp_path / "a.nii")
    image = load(tmp_path / "a.nii")
    np.testing.assert_allclose(image[0], nib.load(tmp_path / "a.nii").get_fdata(), rtol=1e-6)
    assert image.meta["native_dtype"] == "float32"


def test_nifti_of_two_axes_and_of_four(tmp_path):
    nib.save(nib.Nifti1Image(VOLUME[..., 0], np.eye(4)), tmp_path / "a.nii")
    assert load(tmp_path / "a.nii").shape == (1, 7, 6, 1)
    four = np.stack([VOLUME, VOLUME + 1], axis=-1)
    nib.save(nib.Nifti1Image(four, np.eye(4)), tmp_path / "b.nii")
    np.testing.assert_array_equal(load(tmp_path / "b.nii"), np.moveaxis(four, -1, 0))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "float32"])
def test_itk_formats_against_simpleitk(tmp_path, suffix, dtype, ras_affine):
    spacing, origin = (0.5, 0.75, 4.0), (10.0, -20.0, 30.0)
    direction = np.array([[0.0, 0.6, 0.8], [1.0, 0.0, 0.0], [0.0, 0.8, -0.6]])
    values = (VOLUME % 100).astype(dtype)
    original = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    original.SetSpacing(spacing)
    original.SetOrigin(origin)
    original.SetDirection(direction.ravel())
    sitk.WriteImage(original, tmp_path / f"a{suffix}")
    image = load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(image[0], values)
    np.testing.assert_allclose(image.affine, ras_affine(origin, spacing, direction), atol=1e-6)
    assert image.meta["native_dtype"] == dtype


def test_nrrd_of_pynrrd(tmp_path):
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([0.5, 0.6, 2.0]),
        "space origin": [1.0, 2.0, 3.0],
    }
    nrrd.write(str(tmp_path / "a.nrrd"), VOLUME.astype(np.int64), header)
    image = load(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(image[0], VOLUME)
    np.testing.assert_allclose(np.diag(image.affine), [-0.5, -0.6, 2, 1])
    np.testing.assert_allclose(image.affine[:3, 3], [-1, -2, 3])


def test_vector_nrrd(tmp_path):
    vector = np.stack([VOLUME, 2 * VOLUME], axis=-1)
    original = sitk.GetImageFromArray(vector.transpose(2, 1, 0, 3), isVector=True)
    sitk.WriteImage(original, tmp_path / "a.nrrd")
    np.testing.assert_array_equal(load(tmp_path / "a.nrrd"), np.moveaxis(vector, -1, 0))


def test_formats_share_one_convention(tmp_path):
    nib.save(nib.Nifti1Image(VOLUME, oblique_affine()), tmp_path / "a.nii.gz")
    sitk.WriteImage(sitk.ReadImage(tmp_path / "a.nii.gz"), tmp_path / "b.nrrd")
    first, second = load(tmp_path / "a.nii.gz"), load(tmp_path / "b.nrrd")
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-5)


def test_single_dicom_file():
    path = get_testdata_file("CT_small.dcm", download=False)
    header = pydicom.dcmread(path)
    image = load(path)
    assert image.shape == (1, header.Columns, header.Rows, 1)
    hounsfield = header.pixel_array * header.RescaleSlope + header.RescaleIntercept
    np.testing.assert_array_equal(image[0, ..., 0], hounsfield.T)
    row, column = header.PixelSpacing
    np.testing.assert_allclose(
        np.linalg.norm(image.affine[:3, :3], axis=0),
        [column, row, header.SliceThickness],
        rtol=1e-6,
    )
    x, y, z = header.ImagePositionPatient
    np.testing.assert_allclose(image.affine[:3, 3], [-x, -y, z], rtol=1e-6)
    assert (image.meta["modality"], image.meta["native_dtype"]) == ("CT", "int16")
    assert image.meta["suffix"] == ".dcm"


def test_colour_dicom_file():
    path = get_testdata_file("examples_rgb_color.dcm", download=False)
    pixels = pydicom.dcmread(path).pixel_array
    image = load(path)
    np.testing.assert_array_equal(image[..., 0], pixels.transpose(2, 1, 0))
    assert (image.meta["modality"], image.meta["native_dtype"]) == ("US", "uint8")


def test_integers_that_float32_cannot_hold_are_refused(tmp_path):
    sitk.WriteImage(
        sitk.GetImageFromArray(np.array([[2**24 + 1, 0]], np.int32)), tmp_path / "a.nrrd"
    )
    with pytest.raises(InputError, match="beyond 2\\^24"):
        load(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    "suffix", [".png", ".jpg", ".bmp", ".tif", ".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".dcm"]
)
@pytest.mark.parametrize("content", ["empty", "noise", "truncated"])
def test_broken_files_are_named(tmp_path, suffix, content):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".dcm":
        shutil.copy(get_testdata_file("CT_small.dcm", download=False), whole)
    elif suffix in (".png", ".jpg", ".bmp", ".tif"):
        Image.fromarray(np.tile(PIXELS, (40, 40, 1))).save(whole)
    elif suffix.startswith(".nii"):
        nib.save(nib.Nifti1Image(VOLUME, np.eye(4)), whole)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(VOLUME), whole)
    data = whole.read_bytes()
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(
        {"empty": b"", "noise": b"no image " * 90, "truncated": data[: len(data) // 2]}[content]
    )
    with pytest.raises(InputError, match=f"image '.*broken{suffix}'") as caught:
        load(broken)
    assert "\n" not in str(caught.value)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="unknown format; supported are .png"):
        load(tmp_path / "a.txt")
