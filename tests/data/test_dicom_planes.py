"""Slices at uneven places and of a tilted gantry, against closed forms and SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk

from alignflow.data.dicom_planes import LPS, Planes, irregularity, planes_of, resample
from alignflow.errors import InputError

OBLIQUE = np.array([[0.8, 0.36, -0.48], [0.0, 0.8, 0.6], [0.6, -0.48, 0.64]])
AXES = (OBLIQUE[:, :2] * [0.7, 0.9]).T  # (2, 3)
ORIGIN = np.array([-31.5, 12.25, 77.0])
SHAPE = (7, 9)
UNEVEN = [0, 2.5, 5, 10, 11.2, 15]


def planes_at(heights, tilt=0.0):
    """Slices at heights, each moved by `tilt` mm for one of height along the columns."""
    way = OBLIQUE[:, 2] + tilt * OBLIQUE[:, 1]
    return planes_of(ORIGIN + np.outer(heights, way), AXES)


def field(points):
    """A linear function of places (..., 3)."""
    return points @ [0.3, -1.7, 2.2] + 5


def sampled(planes):
    """(1, X, Y, Z) of `field` at the pixels of slices."""
    x, y = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    in_plane = np.stack([x, y], axis=-1) @ planes.axes
    return np.stack([field(p + in_plane) for p in planes.positions], axis=-1)[None]


def places(affine, shape):
    """(X, Y, Z, 3) LPS places of a grid."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    lps = LPS @ affine
    return index @ lps[:3, :3].T + lps[:3, 3]


@pytest.mark.parametrize("heights", [UNEVEN, [0, 2.5, 7.5], [0, 1, 2.1, 2.9, 4.2]])
def test_a_linear_field_is_reproduced_at_uneven_places(heights):
    planes = planes_at(heights)
    volume, affine = resample(sampled(planes), planes, "linear", 0)
    np.testing.assert_allclose(volume[0], field(places(affine, volume.shape[1:])), atol=1e-9)
    ends = places(affine, volume.shape[1:])[0, 0, [0, -1]]
    np.testing.assert_allclose(ends, planes.positions[[0, -1]], atol=1e-9)
    assert volume.shape[1:3] == SHAPE


def test_the_commonest_step_is_kept_and_slices_on_the_new_grid_are_untouched():
    planes = planes_at([0, 2.5, 5, 12.5, 15])
    values = np.random.default_rng(0).normal(size=(2, *SHAPE, 5))
    volume, affine = resample(values, planes, "linear", 0)
    assert volume.shape == (2, *SHAPE, 7)
    assert np.linalg.norm(affine[:3, 2]) == pytest.approx(2.5)
    np.testing.assert_allclose(volume[..., [0, 1, 2, 5, 6]], values, atol=1e-12)
    np.testing.assert_allclose(volume[..., 3], (2 * values[..., 2] + values[..., 3]) / 3)


def test_a_tilted_gantry_is_straightened_and_nothing_is_cut_off():
    planes = planes_at(UNEVEN, tilt=0.3)
    volume, affine = resample(sampled(planes), planes, "linear", np.nan)
    inside = ~np.isnan(volume[0])
    expected = field(places(affine, volume.shape[1:]))
    half_a_pixel = abs(field(planes.axes[1] / 2) - field(np.zeros(3)))
    np.testing.assert_allclose(volume[0][inside], expected[inside], atol=half_a_pixel + 1e-9)
    columns = np.flatnonzero(inside.all(axis=(0, 2)))
    assert len(columns) and not inside.all()
    middle = volume[0][:, columns[1:-1]]
    np.testing.assert_allclose(middle, expected[:, columns[1:-1]], atol=1e-9)
    # 15 mm up, the last slice stands 4.5 mm, 5 pixels, beside the first
    assert volume.shape[1:3] == (SHAPE[0], SHAPE[1] + 5)
    np.testing.assert_allclose(volume[0, :, 5:, -1], sampled(planes)[0, ..., -1], atol=1e-9)


@pytest.mark.parametrize(
    ("method", "sitk_method"), [("linear", sitk.sitkLinear), ("nearest", sitk.sitkNearestNeighbor)]
)
def test_a_tilted_gantry_as_simpleitk_resamples_it(method, sitk_method):
    planes = planes_at(np.arange(6) * 2.0, tilt=0.3)
    values = np.random.default_rng(1).normal(size=(1, *SHAPE, 6))
    volume, affine = resample(values, planes, method, -9)
    image = sitk.GetImageFromArray(values[0].transpose(2, 1, 0))
    way = planes.positions[1] - planes.positions[0]
    columns = np.c_[AXES.T, way]
    spacing = np.linalg.norm(columns, axis=0)
    image.SetOrigin(planes.positions[0].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((columns / spacing).ravel().tolist())  # sheared: ITK takes it as it is
    lps = LPS @ affine
    size = [int(n) for n in volume.shape[1:]]
    step = np.linalg.norm(lps[:3, :3], axis=0)
    direction = (lps[:3, :3] / step).ravel().tolist()
    grid = (lps[:3, 3].tolist(), step.tolist(), direction)
    other = sitk.Resample(image, size, sitk.Transform(), sitk_method, *grid, -9)
    expected = sitk.GetArrayFromImage(other).transpose(2, 1, 0)
    same = np.isclose(volume[0], expected, atol=1e-6)
    # Exactly between two pixels, and half a pixel beyond the edge, rounding may decide otherwise.
    assert same.mean() > 0.97
    assert (expected == -9).any() and ((volume[0] == -9) == (expected == -9)).mean() > 0.97


def test_masks_get_no_new_value():
    planes = planes_at(UNEVEN, tilt=0.2)
    values = np.random.default_rng(2).integers(0, 3, (1, *SHAPE, 6)) * 7
    assert set(np.unique(resample(values, planes, "nearest", 0)[0])) == {0, 7, 14}


def test_what_is_regular():
    assert irregularity(planes_at(np.arange(5) * 2.5)) is None
    assert irregularity(planes_at([0, 2.5, 5.01, 7.49])) is None
    assert "slices are 2.5 to 5 mm apart" in irregularity(planes_at([0, 2.5, 5, 10]))
    assert "sideways by 16.7 degrees" in irregularity(planes_at(np.arange(5.0), tilt=0.3))
    beside = planes_at(np.arange(5.0)).positions + np.outer([0, 0, 1, 0, 0], OBLIQUE[:, 1])
    assert "sideways" in irregularity(planes_of(beside, AXES))


def test_too_large_a_gap():
    with pytest.raises(InputError, match="3 slices on 101 mm, commonly 1 mm apart, are too few"):
        planes = planes_at([0, 1, 101])
        resample(sampled(planes), planes, "linear", 0)


def test_planes_of_a_grid_are_its_voxels():
    affine = LPS @ np.array([[0.7, 0.1, 0, 1], [0, 0.9, 0.3, 2], [0, 0, -2, 3], [0, 0, 0, 1.0]])
    planes = Planes.of_grid(affine, 4)
    assert planes.step == pytest.approx(abs((LPS @ affine)[:3, 2] @ planes.normal))
    index = np.array([[1, 2, 3], [5, 0, 3], [2, 7, 3]])
    points = index @ (LPS @ affine)[:3, :3].T + (LPS @ affine)[:3, 3]
    k, pixels, heights = planes.locate(points)
    assert k == 3
    np.testing.assert_allclose(pixels, index[:, :2], atol=1e-9)
    np.testing.assert_allclose(heights, 0, atol=1e-9)
