"""Files on oblique, anisotropic and mirrored grids, as libraries of others read them.

Written by the package and read by nibabel, SimpleITK and pynrrd; and the other way round.
"""

import math

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from alignflow.data.formats import load
from alignflow.data.slices import slice_geometry
from alignflow.data.spec import SourceSpec
from alignflow.data.writer import write_image, write_label

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (5, 4, 3)
EXACT = 1e-4  # mm
QUICK = settings(max_examples=20, deadline=None)


@st.composite
def affines(draw):
    """(4, 4) RAS: any rotation, 0.2 to 8 mm, mirrored or not, up to 400 mm away."""
    turns = draw(st.lists(st.floats(-math.pi, math.pi), min_size=3, max_size=3))
    sizes = draw(st.lists(st.floats(0.2, 8), min_size=3, max_size=3))
    mirror = draw(st.sampled_from([1, -1]))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(turns).as_matrix() * sizes
    affine[:3, 0] *= mirror
    affine[:3, 3] = draw(st.lists(st.floats(-400, 400), min_size=3, max_size=3))
    return affine


def spec(suffix, channels=1):
    return SourceSpec(
        channels=channels,
        labels={"background": 0.0, "class": 3.0},
        modality="MR",
        window=(0.0, 1000.0),
        image_suffix=suffix,
        label_suffix=suffix,
        image_dtype="int16",
        label_dtype="uint8",
        geometries=[],
    )


def by_nibabel(path):
    image = nib.load(path)
    # The quaternion has 32 bits and states three of its four parts: 7e-4 rad near half a turn.
    np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=7e-4 * 8)
    assert image.header.get_xyzt_units()[0] == "mm"
    return image.get_fdata(), image.affine


def by_simpleitk(path):
    image = sitk.ReadImage(path)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, LPS @ affine


def by_pynrrd(path):
    values, header = nrrd.read(str(path))
    assert header["space"] == "left-posterior-superior"
    affine = np.eye(4)
    affine[:3, :3] = header["space directions"].T
    affine[:3, 3] = header["space origin"]
    return values, LPS @ affine


READERS = [
    (".nii", by_nibabel),
    (".nii.gz", by_simpleitk),
    (".nrrd", by_pynrrd),
    (".nrrd", by_simpleitk),
    (".mha", by_simpleitk),
]


@pytest.mark.parametrize(("suffix", "read"), READERS)
def test_pairs_as_others_read_them(tmp_path_factory, suffix, read):
    folder = tmp_path_factory.mktemp("pairs")
    image = 1000 * torch.rand(1, 6, 5, generator=torch.Generator().manual_seed(0))
    index = (image[0] > 500).long()

    @QUICK
    @given(affines(), st.integers(0, 2), st.integers(0, 7))
    def check(affine, axis, k):
        geometry = slice_geometry(affine, (6, 5), axis, k)
        for path, expected in (
            (write_image(image, folder / "image", spec(suffix), geometry), image[0].round()),
            (write_label(index, folder / "label", spec(suffix), geometry), 3 * index),
        ):
            values, found = read(path)
            np.testing.assert_array_equal(values[..., 0], expected)
            np.testing.assert_allclose(found, geometry["affine"], atol=EXACT)

    check()


@pytest.mark.parametrize("suffix", [".nii", ".nrrd"])
def test_pairs_of_the_generators_size_cover_the_same_field(tmp_path_factory, suffix):
    folder = tmp_path_factory.mktemp("small")
    read = dict(READERS)[suffix]

    @QUICK
    @given(affines(), st.integers(3, 30), st.integers(3, 30))
    def check(affine, x, y):
        geometry = {"shape": [x, y], "affine": affine.tolist()}
        path = write_image(torch.zeros(1, 8, 8), folder / "a", spec(suffix), geometry, False)
        _, found = read(path)
        for corner in np.ndindex(2, 2):  # outer edges of the corner voxels
            native = affine @ [*(np.array(corner) * (x, y) - 0.5), 0, 1]
            small = found @ [*(np.array(corner) * 8 - 0.5), 0, 1]
            np.testing.assert_allclose(small, native, atol=EXACT)

    check()


VOLUME = np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.int16)


def write_by_nibabel(path, affine):
    nib.save(nib.Nifti1Image(VOLUME, affine), path)


def write_by_simpleitk(path, affine):
    lps = LPS @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(VOLUME.T)
    image.SetSpacing(sizes.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / sizes).ravel().tolist())
    sitk.WriteImage(image, str(path))


def write_by_pynrrd(path, affine):
    header = {"space": "RAS", "space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
    nrrd.write(str(path), VOLUME, header)


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".nii.gz", write_by_nibabel),
        (".nii", write_by_simpleitk),
        (".nrrd", write_by_simpleitk),
        (".nrrd", write_by_pynrrd),
        (".mha", write_by_simpleitk),
    ],
)
def test_volumes_that_others_wrote(tmp_path_factory, suffix, write):
    path = tmp_path_factory.mktemp("volumes") / f"a{suffix}"

    @QUICK
    @given(affines())
    def check(affine):
        write(path, affine)
        image = load(path)
        np.testing.assert_array_equal(image[0], VOLUME)
        np.testing.assert_allclose(image.affine, affine, atol=EXACT)

    check()


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("mm", 1), ("micron", 0.001)])
def test_units_become_millimetres(tmp_path, unit, factor):
    affine = Rotation.from_rotvec([0.3, -0.5, 0.2]).as_matrix() * [0.7, 0.9, 2.5]
    affine = np.block([[affine, np.array([[3.0], [-4.0], [5.0]])], [np.zeros((1, 3)), 1]])
    image = nib.Nifti1Image(VOLUME, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    expected = np.diag([factor, factor, factor, 1]) @ affine
    np.testing.assert_allclose(load(tmp_path / "a.nii").affine, expected, rtol=1e-6)
    np.testing.assert_allclose(by_simpleitk(tmp_path / "a.nii")[1], expected, rtol=1e-5)
