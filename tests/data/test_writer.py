"""What is written reads back on the source's grid, in libraries of others too."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from alignflow.data.formats import load
from alignflow.data.slices import slice_geometry
from alignflow.data.spec import SourceSpec
from alignflow.data.writer import write_image, write_label

SPEC = SourceSpec(
    channels=1,
    labels={"background": 0.0, "ring": 85.0, "core": 170.0},
    modality="MR",
    window=(0.0, 1000.0),
    image_suffix=".nii.gz",
    label_suffix=".nii.gz",
    image_dtype="int16",
    label_dtype="uint8",
    geometries=[],
)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = np.array([[0.8, 0.36, -0.48], [0.0, 0.8, 0.6], [0.6, -0.48, 0.64]]) * [
    0.7,
    0.9,
    2.5,
]
OBLIQUE[:3, 3] = [31.5, -12.25, 77.0]
VOLUMES = [".nii", ".nii.gz", ".nrrd", ".mha"]
PICTURES = [".png", ".bmp", ".tif"]

IMAGE = torch.rand(1, 12, 10, generator=torch.Generator().manual_seed(0)) * 1000
INDEX = torch.zeros(12, 10, dtype=torch.uint8)
INDEX[2:9, 2:9] = 1
INDEX[4:7, 4:7] = 2
NATIVE = 85 * INDEX.numpy()


def spec(suffix, **changes):
    return replace(SPEC, image_suffix=suffix, label_suffix=suffix, **changes)


def grid(shape, affine=OBLIQUE):
    return {"shape": list(shape), "affine": None if affine is None else affine.tolist()}


@pytest.mark.parametrize("suffix", VOLUMES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_volumes_keep_their_place(tmp_path, suffix, axis):
    geometry = slice_geometry(OBLIQUE, (12, 10), axis, 3)
    image = load(write_image(IMAGE, tmp_path / "sub" / "a", spec(suffix), geometry))
    label = load(write_label(INDEX, tmp_path / "m", spec(suffix), geometry), is_mask=True)
    np.testing.assert_array_equal(image[..., 0], IMAGE.round())
    np.testing.assert_array_equal(label[0, ..., 0], NATIVE)
    for read in (image, label):
        np.testing.assert_allclose(read.affine, geometry["affine"], atol=1e-5)
    assert (image.meta["native_dtype"], label.meta["native_dtype"]) == ("int16", "uint8")


@pytest.mark.parametrize("suffix", VOLUMES)
def test_a_slice_of_a_source_file_as_simpleitk_sees_it(tmp_path, suffix):
    source = sitk.GetImageFromArray(np.zeros((5, 10, 12), np.int16))
    source.SetSpacing((0.7, 0.9, 2.5))
    source.SetOrigin((-31.5, 12.25, 77.0))
    source.SetDirection((OBLIQUE[:3, :3] / [0.7, 0.9, 2.5] * [[-1], [-1], [1]]).ravel())
    sitk.WriteImage(source, tmp_path / f"source{suffix}")
    affine = load(tmp_path / f"source{suffix}").affine.numpy()
    written = write_image(
        IMAGE, tmp_path / "a", spec(suffix), slice_geometry(affine, (12, 10), 2, 3)
    )
    expected, found = source[:, :, 3:4], sitk.ReadImage(written)
    assert found.GetSize() == (12, 10, 1)
    for read in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(found, read)(), getattr(expected, read)(), atol=1e-5)


def test_nifti_as_nibabel_sees_it(tmp_path):
    read = nib.load(write_image(IMAGE, tmp_path / "a.b", SPEC, grid((12, 10))))
    assert read.shape == (12, 10, 1) and read.get_data_dtype() == np.int16
    assert read.header.get_xyzt_units()[0] == "mm"
    assert (read.header["sform_code"], read.header["qform_code"]) == (1, 1)
    for affine in (read.header.get_sform(), read.header.get_qform()):
        np.testing.assert_allclose(affine, OBLIQUE, atol=1e-4)


@pytest.mark.parametrize("suffix", PICTURES)
def test_pictures_as_pillow_sees_them(tmp_path, suffix):
    colour = torch.rand(3, 12, 10) * 255
    written = write_image(
        colour, tmp_path / "a", spec(suffix, image_dtype="uint8"), grid((12, 10), None)
    )
    np.testing.assert_array_equal(
        np.asarray(Image.open(written)), colour.round().numpy().T.astype(int)
    )
    written = write_label(INDEX[None], tmp_path / "m", spec(suffix), grid((12, 10), None))
    np.testing.assert_array_equal(np.asarray(Image.open(written)), NATIVE.T)


def test_jpeg_is_close_and_png_of_16_bits_exact(tmp_path):
    smooth = torch.linspace(0, 255, 120).reshape(1, 12, 10).repeat(3, 1, 1)
    written = write_image(
        smooth, tmp_path / "a", spec(".jpg", image_dtype="uint8"), grid((12, 10), None)
    )
    assert np.abs(load(written).numpy() - smooth.numpy()).max() < 8
    deep = IMAGE * 60
    written = write_image(
        deep, tmp_path / "a", spec(".png", image_dtype="uint16"), grid((12, 10), None)
    )
    np.testing.assert_array_equal(load(written), deep.round())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_several_channels(tmp_path, suffix):
    image = torch.rand(2, 12, 10) * 1000
    written = write_image(image, tmp_path / "a", spec(suffix, channels=2), grid((12, 10)))
    np.testing.assert_array_equal(load(written)[..., 0], image.round())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".png", ".tif", ".jpg"])
def test_repetition_gives_equal_bytes(tmp_path, suffix):
    geometry = grid((9, 15))
    written = []
    for name in ("first", "second"):
        image = write_image(IMAGE, tmp_path / name, spec(suffix, image_dtype="uint8"), geometry)
        label = write_label(INDEX, tmp_path / f"{name}m", SPEC, geometry)
        written.append((image.read_bytes(), label.read_bytes()))
    assert written[0] == written[1]
    assert len(list(tmp_path.iterdir())) == 4  # no temporary file is left


def ramp(shape):
    """Linear in space over the field of view, so that bilinear resampling is exact inside."""
    x, y = (2 * (np.arange(n) + 0.5) / n - 1 for n in shape)
    return torch.as_tensor(500 + 300 * x[:, None] + 100 * y[None], dtype=torch.float32)[None]


@pytest.mark.parametrize("shape", [(24, 35), (13, 11)])
def test_native_size_resamples_the_field_of_view(tmp_path, shape):
    floats = spec(".nii.gz", image_dtype="float32")
    read = load(write_image(ramp((12, 10)), tmp_path / "a", floats, grid(shape)))
    np.testing.assert_allclose(read[0, 2:-2, 4:-4, 0], ramp(shape)[0, 2:-2, 4:-4], atol=0.02)
    np.testing.assert_allclose(read.affine, OBLIQUE, atol=1e-5)


def test_labels_are_resampled_without_new_classes(tmp_path):
    read = load(write_label(INDEX, tmp_path / "m", SPEC, grid((36, 40))), is_mask=True)[0, ..., 0]
    assert set(np.unique(read)) == {0, 85, 170}
    exact = NATIVE.repeat(3, axis=0).repeat(4, axis=1)
    assert (read.numpy() == exact).mean() > 0.97


@pytest.mark.parametrize("shape", [(24, 35), (6, 5)])
def test_generator_size_keeps_the_field_of_view(tmp_path, shape):
    path = write_image(IMAGE, tmp_path / "a", SPEC, grid(shape), native_size=False)
    mask = write_label(INDEX, tmp_path / "m", SPEC, grid(shape), native_size=False)
    read = load(path)
    assert read.shape == (1, 12, 10, 1)
    np.testing.assert_array_equal(load(mask, is_mask=True)[0, ..., 0], NATIVE)
    for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):  # outer edges of the corner voxels
        native, small = (np.array(c) * s - 0.5 for c, s in ((corner, shape), (corner, (12, 10))))
        world = OBLIQUE @ [*native, 0, 1]
        np.testing.assert_allclose(read.affine.numpy() @ [*small, 0, 1], world, atol=1e-4)


def test_integers_are_clipped(tmp_path):
    small = spec(".nrrd", image_dtype="uint8")
    read = load(write_image(IMAGE - 500, tmp_path / "a", small, grid((12, 10))))
    np.testing.assert_array_equal(read[..., 0], (IMAGE - 500).round().clip(0, 255))
