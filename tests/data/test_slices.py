"""Slices lie where they lay in their volume."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from alignflow.data.slices import (
    is_single_slice,
    slice_axis_of,
    slice_geometry,
    stack_slices,
    unique_geometries,
)

AFFINE = np.eye(4)
AFFINE[:3] = np.random.default_rng(0).normal(size=(3, 4))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_voxel_keeps_value_and_place(axis):
    volume = torch.rand(2, 3, 4, 5)
    slices = stack_slices(volume, axis)
    assert len(slices) == volume.shape[axis + 1]
    in_plane = [a for a in range(3) if a != axis]
    for k, pixels in enumerate(slices):
        geometry = slice_geometry(AFFINE, tuple(pixels.shape[1:]), axis, k)
        assert geometry["shape"] == [volume.shape[a + 1] for a in in_plane]
        for a, b in np.ndindex(*pixels.shape[1:]):
            voxel = np.insert([a, b], axis, k)
            torch.testing.assert_close(pixels[:, a, b], volume[:, *voxel])
            world = np.array(geometry["affine"]) @ [a, b, 0, 1]
            np.testing.assert_allclose(world, AFFINE @ [*voxel, 1], atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "single"), [((1, 4, 5), True), ((3, 4, 5, 1), True), ((1, 4, 5, 2), False)]
)
def test_two_dimensional_images_are_one_slice(shape, single):
    image = MetaTensor(torch.rand(shape))
    assert is_single_slice(image) is single
    assert slice_axis_of(image, 0) == (2 if single else 0)
    if single:
        assert stack_slices(image, 2).shape == (1, *shape[:3])


def test_unique_geometries_are_spread():
    many = [slice_geometry(np.eye(4), (4, 4), 2, k // 2) for k in range(400)]
    origins = [geometry["affine"][2][3] for geometry in unique_geometries(many)]
    assert len(origins) == len(set(origins)) == 64
    assert origins == sorted(origins) and (origins[0], origins[-1]) == (0, 199)
    assert len(unique_geometries(many[:6])) == 3
