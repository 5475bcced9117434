"""Mask statistics against closed forms, nearest masks against MONAI's Dice."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric
from monai.networks.utils import one_hot

from alignflow.errors import InputError
from alignflow.evaluation.masks import mask_distances, mask_points, nearest_dice


def discs(count, seed, radius=8.0):
    """Discs of class 1 with an off-centre core of class 2, (count, 1, 48, 48)."""
    rng = np.random.default_rng(seed)
    i, j = np.meshgrid(np.arange(48), np.arange(48), indexing="ij")
    masks = []
    for _ in range(count):
        (x, y), r = rng.uniform(18, 30, 2), radius * rng.uniform(0.7, 1.3)
        distance = np.hypot(i - x, j - y)
        masks.append((distance <= r).astype(np.uint8) + (distance <= r / 2))
    return torch.as_tensor(np.array(masks))[:, None]


def test_statistics_of_a_ring_and_its_core():
    i, j = np.meshgrid(np.arange(101) - 50, np.arange(101) - 50, indexing="ij")
    distance = np.hypot(i, j)
    label = torch.as_tensor((distance <= 40).astype(int) + (distance <= 20))[None, None]
    area, eccentricity, components, holes = mask_points(label, 4).view(4, 3).numpy()
    assert np.allclose(area, np.pi * np.array([1200, 400, 0]) / 101**2, atol=2e-3)
    assert components.tolist() == [1, 1, 0] and holes.tolist() == [1, 0, 0]
    assert np.allclose(eccentricity, [0, 0, np.nan], atol=1e-6, equal_nan=True)
    area, _, _, holes = mask_points(label, 4, "nested").view(4, 3).numpy()
    assert np.allclose(area, np.pi * np.array([1600, 400, 0]) / 101**2, atol=2e-3)
    assert holes.tolist() == [0, 0, 0]


def test_distances_of_shifted_statistics_are_the_shift():
    real = torch.tensor([[0.1, 0.2, 1, 0], [0.2, 0.4, 1, 1]]).double()
    shift = torch.tensor([0.3, 0.1, 2, 1])
    found = mask_distances(real + shift, real)
    names = ("area", "eccentricity", "components", "holes")
    assert list(found) == [f"w1_{name}_class1" for name in names]
    assert list(found.values()) == pytest.approx(shift.tolist())


def test_distances_tell_good_masks_from_bad_ones():
    real = mask_points(discs(30, 1), 3)
    good = mask_distances(mask_points(discs(40, 2), 3), real)
    bad = mask_distances(mask_points(discs(40, 2, radius=4.0), 3), real)
    assert bad["w1_area_class1"] > 5 * good["w1_area_class1"]


def test_distances_stay_finite_where_a_set_lacks_a_class():
    full, empty = (mask_points(s, 4) for s in (discs(8, 0), torch.zeros(8, 1, 48, 48)))
    assert empty.isnan().sum() == 8 * 3
    found = mask_distances(empty, full)
    assert all(math.isfinite(value) for value in found.values())
    assert found["w1_eccentricity_class1"] == 1.0 and found["w1_eccentricity_class3"] == 0.0
    assert set(mask_distances(empty, empty).values()) == {0}


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_nearest_dice_is_that_of_monai(chunk):
    masks, references = discs(5, 0), discs(7, 1)
    metric = DiceMetric(include_background=False, reduction="none")
    pairs = [
        metric(one_hot(masks[i : i + 1], 3), one_hot(references[j : j + 1], 3)).mean().item()
        for i in range(5)
        for j in range(7)
    ]
    expected = np.array(pairs).reshape(5, 7).max(axis=1)
    assert np.allclose(nearest_dice(masks, references, 3, chunk=chunk), expected, atol=1e-6)


def test_nearest_dice_finds_copies_and_the_empty():
    references = discs(6, 0)
    assert np.allclose(nearest_dice(references[2:3], references, 3), 1)
    empty = torch.zeros_like(references[:1])
    assert nearest_dice(empty, references, 3).tolist() == [0.0]
    assert nearest_dice(empty, empty, 3).tolist() == [1.0]


def test_nearest_dice_of_levels():
    one, two = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    one[..., :2, :], two[..., :2, :] = 1, 2
    assert nearest_dice(one, two, 3).item() == 0.0
    assert nearest_dice(one, two, 3, "nested").item() == 0.5


def test_bad_input_is_refused():
    masks = discs(8, 0)
    with pytest.raises(InputError, match="size"):
        nearest_dice(masks, torch.zeros(1, 1, 4, 4), 3)
    with pytest.raises(InputError, match="one or more"):
        nearest_dice(masks[:0], masks, 3)
    with pytest.raises(InputError, match="values"):
        mask_points(masks, 2)
