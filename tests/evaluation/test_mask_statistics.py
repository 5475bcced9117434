"""Mask statistics against closed forms, MONAI's Dice and brute force."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from monai.metrics import DiceMetric
from monai.networks.utils import one_hot

from alignflow.errors import InputError
from alignflow.evaluation.mask_statistics import (
    compare,
    coverage,
    mask_statistics,
    nearest_dice,
    statistics_space,
    wasserstein1,
)


def discs(count: int, seed: int, radius: float = 8.0) -> torch.Tensor:
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
    disjoint = mask_statistics(label, 4)
    assert np.allclose(disjoint.area, np.pi * np.array([[1200, 400, 0]]) / 101**2, atol=2e-3)
    assert disjoint.components.tolist() == [[1, 1, 0]]
    assert disjoint.holes.tolist() == [[1, 0, 0]]
    assert np.isnan(disjoint.eccentricity[0, 2]) and np.isnan(disjoint.solidity[0, 2])
    nested = mask_statistics(label, 4, "nested")
    assert nested.holes.tolist() == [[0, 0, 0]]
    assert np.allclose(nested.area, np.pi * np.array([[1600, 400, 0]]) / 101**2, atol=2e-3)


floats = st.floats(-100, 100)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 20).flatmap(lambda n: st.tuples(*[npst.arrays(float, n, elements=floats)] * 2))
)
def test_wasserstein_of_equal_sizes_is_the_mean_gap_of_the_sorted(samples):
    a, b = samples
    assert np.isclose(wasserstein1(a, b), np.abs(np.sort(a) - np.sort(b)).mean(), atol=1e-9)


def test_wasserstein_of_a_shift_is_the_shift():
    assert wasserstein1([0.0, 1.0, 5.0], [2.0, 3.0, 7.0]) == pytest.approx(2.0)


def test_coverage_of_equal_laws_is_that_of_the_paper():
    rng = np.random.default_rng(0)
    n, m, k = 60, 90, 5
    found = [coverage(rng.normal(size=(m, 3)), rng.normal(size=(n, 3)), k) for _ in range(60)]
    expected = 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    assert np.mean(found) == pytest.approx(expected, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(7, 15), st.integers(0, 1000))
def test_coverage_is_the_brute_force_one(fakes, reals, seed):
    rng = np.random.default_rng(seed)
    fake, real = rng.normal(size=(fakes, 2)), rng.normal(size=(reals, 2)) * [1, 50]
    scale = real.std(axis=0)
    covered = 0
    for one in real:
        to_real = sorted(np.linalg.norm((other - one) / scale) for other in real)
        covered += any(np.linalg.norm((f - one) / scale) <= to_real[5] for f in fake)
    assert coverage(fake, real) == pytest.approx(covered / reals)


def test_coverage_ends():
    real = np.random.default_rng(0).normal(size=(30, 2))
    assert coverage(real, real) == 1.0
    assert coverage(real + 100, real) == 0.0
    assert coverage(np.zeros((1, 2)), np.zeros((8, 2))) == 1.0


def test_space_is_finite_and_has_a_place_for_each_number():
    labels = discs(3, 0)
    labels[0] = 0
    space = statistics_space(labels, 3, "nested")
    assert space.shape == (3, 14) and np.isfinite(space).all()
    assert (space[0] == 0).all()
    assert (space[1:, [0, 4]] == 1).all()  # presence


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


def test_compare_tells_good_masks_from_bad_ones():
    train, held_out = discs(40, 0), discs(30, 1)
    good = compare(discs(40, 2), train, held_out, 3)
    bad = compare(discs(40, 2, radius=4.0), train, held_out, 3)
    copies = compare(train.clone(), train, held_out, 3)
    assert json.loads(json.dumps(good)) == good
    assert all(type(value) is float and math.isfinite(value) for value in good.values())
    assert bad["w1_area_class1"] > 5 * good["w1_area_class1"]
    assert good["coverage"] > 0.8 > bad["coverage"]
    assert copies["nearest_dice_mean"] == pytest.approx(1) and good["nearest_dice_mean"] < 0.97
    for key in ("w1_area_class1", "w1_eccentricity_class2", "w1_components_class1", "coverage"):
        assert copies[key] == copies[f"{key}_floor"]


def test_compare_stays_finite_where_a_set_lacks_a_class():
    train, held_out = discs(8, 0), discs(8, 1)
    empty = torch.zeros_like(train)
    result = compare(empty, train, held_out, 4)
    assert all(math.isfinite(value) for value in result.values())
    assert result["w1_eccentricity_class1"] == 1.0
    assert result["w1_eccentricity_class3"] == 0.0


def test_bad_input_is_refused():
    masks = discs(8, 0)
    with pytest.raises(InputError, match="size"):
        nearest_dice(masks, torch.zeros(1, 1, 4, 4), 3)
    with pytest.raises(InputError, match="one or more"):
        nearest_dice(masks[:0], masks, 3)
    with pytest.raises(InputError, match="values"):
        mask_statistics(masks, 2)
    with pytest.raises(InputError, match="more than k"):
        compare(masks, masks, masks[:5], 3)
    with pytest.raises(InputError, match="dimensions"):
        coverage(np.zeros((2, 3)), np.zeros((8, 2)))
    with pytest.raises(InputError, match="empty"):
        wasserstein1([], [1.0])
    with pytest.raises(InputError, match="finite"):
        wasserstein1([np.nan], [1.0])
