"""Every reason to refuse a pair."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from alignflow.data.check import check_image, check_mask, check_pair, raise_problems
from alignflow.data.grid import corner_distance
from alignflow.errors import InputError

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def tensor(values, name, affine=AFFINE, suffix=".nii.gz"):
    meta = {"filename_or_obj": name, "affine": affine, "suffix": suffix}
    return MetaTensor(torch.as_tensor(values, dtype=torch.float32), meta=meta)


def image(affine=AFFINE, shape=(1, 4, 5, 6), **options):
    return tensor(torch.arange(int(np.prod(shape))).reshape(shape), "a.nii.gz", affine, **options)


def label(affine=AFFINE, shape=(1, 4, 5, 6), **options):
    values = torch.zeros(shape)
    values[:, 1:3] = 2
    return tensor(values, "m.nii.gz", affine, **options)


def check(image, label, **options):
    check_image(image)
    check_pair(image, label)
    check_mask(label, **options)


def refuse(match, *pair, **options):
    with pytest.raises(InputError, match=match) as caught:
        check(*pair, **options)
    assert "\n" not in str(caught.value)


def test_a_pair_passes():
    check(image(), label())


def test_rounding_of_the_affine_passes():
    check(image(), label(AFFINE + 1e-4))


def test_size():
    refuse(
        "mask 'm.nii.gz': 4x5x7, but image 'a.nii.gz' has 4x5x6", image(), label(shape=(1, 4, 5, 7))
    )


def test_single_slice_may_have_a_flat_mask():
    flat = label(shape=(1, 4, 5), suffix=".png", affine=np.eye(4))
    check(image(shape=(3, 4, 5, 1)), flat)


@pytest.mark.parametrize("column", [0, 3])
def test_affine(column):
    moved = AFFINE.copy()
    moved[0, column] += 0.5
    refuse(
        "mask 'm.nii.gz': its affine puts it .* mm away from image 'a.nii.gz'",
        image(),
        label(moved),
    )


def test_nan_in_the_affine():
    refuse("its affine puts it nan mm away", image(), label(np.full((4, 4), np.nan)))


def test_corner_distance_against_all_voxels():
    other = AFFINE.copy()
    other[:3, :3] += np.random.default_rng(0).normal(0, 0.1, (3, 3))
    voxels = np.indices((4, 5, 6)).reshape(3, -1)
    shift = np.linalg.norm((AFFINE - other)[:3, :3] @ voxels, axis=0).max()
    assert corner_distance(AFFINE, other, (4, 5, 6)) == pytest.approx(shift)


def test_pictures_have_no_affine_to_compare():
    check(image(suffix=".png"), label(AFFINE * 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value):
    bad_image, bad_label = image(), label()
    bad_image[0, 0, 0, 0] = value
    refuse("image 'a.nii.gz': NaN or infinite", bad_image, label())
    bad_label[0, 0, 0, 0] = value
    refuse("mask 'm.nii.gz': NaN or infinite", image(), bad_label)


def test_constant_image():
    refuse("image 'a.nii.gz': every pixel is 0", image() * 0, label())


def test_whole_numbers_that_a_scale_factor_shifted():
    refuse("values such as 1.992, .* round them and save", image(), label() * 0.996)


def test_fractions_in_the_mask():
    refuse("mask 'm.nii.gz': fractions, .* set mask_threshold", image(), label() * 0.3)
    check(image(), label() * 0.3, is_integer=False)


def test_ten_problems_are_shown():
    raise_problems([])
    with pytest.raises(InputError) as caught:
        raise_problems([f"line {i}" for i in range(13)])
    lines = str(caught.value).split("\n")
    assert lines[0] == "line 0" and lines[9] == "line 9" and lines[10:] == ["... and 3 more"]
