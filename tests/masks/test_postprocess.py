"""Clean-up against scipy, and the calibration of the rejection."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from alignflow.errors import InputError
from alignflow.masks.postprocess import MaskPostprocess

EIGHT = np.ones((3, 3))


def disc(radius: float, x: float = 32, y: float = 32, stretch: float = 1.0) -> np.ndarray:
    i, j = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    return ((i - x) * stretch) ** 2 + ((j - y) / stretch) ** 2 <= radius**2


def blobs(count: int, seed: int = 0) -> np.ndarray:
    """Ellipses of many sizes, (count, 64, 64), classes 0 and 1; each twentieth has two."""
    rng = np.random.default_rng(seed)
    masks = []
    for n in range(count):
        x, y, stretch = rng.uniform(20, 44, 2).tolist() + [rng.uniform(0.7, 1.4)]
        one = disc(float(np.exp(rng.normal(2.1, 0.3))), x, y, stretch)
        masks.append(one | disc(3, 5, 5) if n % 20 == 7 else one)
    return np.array(masks).astype(np.uint8)


def hearts(count: int, seed: int = 0) -> np.ndarray:
    """A ring (1) around a disc (2), classes 0..2."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        inner, (x, y) = rng.uniform(5, 9), rng.uniform(25, 39, 2)
        masks.append(disc(inner + rng.uniform(3, 6), x, y).astype(np.uint8) + disc(inner, x, y))
    return np.array(masks)


def rejected(process: MaskPostprocess, masks: np.ndarray) -> float:
    return float(np.mean([process(one)[1] is not None for one in masks]))


@pytest.fixture(scope="module")
def of_blobs() -> MaskPostprocess:
    return MaskPostprocess.fit(blobs(200), 2)


@pytest.mark.parametrize("count", [1, 5, 20, 60, 200])
def test_few_training_masks_and_few_fresh_ones_are_rejected(count):
    process = MaskPostprocess.fit(blobs(count), 2)
    assert rejected(process, blobs(count)) <= 0.02
    if count >= 20:
        assert rejected(process, blobs(200, seed=1)) <= 0.12


@settings(max_examples=40, deadline=None)
@given(
    npst.arrays(
        np.uint8,
        st.tuples(st.integers(1, 12), st.integers(2, 8), st.integers(2, 8)),
        elements=st.integers(0, 2),
    ),
    st.sampled_from(["disjoint", "nested"]),
    st.sampled_from([0.0, 0.02, 0.3]),
    st.sampled_from([1.0, 40.0]),
)
def test_rejection_is_calibrated_on_any_masks(masks, scheme, outlier, percentile):
    process = MaskPostprocess.fit(masks, 3, scheme, percentile, outlier)
    assert rejected(process, masks) <= outlier


@settings(max_examples=40, deadline=None)
@given(
    npst.arrays(np.uint8, (4, 8, 8), elements=st.integers(0, 2)),
    npst.arrays(np.uint8, (8, 8), elements=st.integers(0, 2)),
    st.sampled_from(["disjoint", "nested"]),
)
def test_cleaning_keeps_no_debris_and_every_class(masks, mask, scheme):
    process = MaskPostprocess.fit(masks, 3, scheme, smallest_percentile=60)
    before = mask.copy()
    clean = process.clean(mask)
    assert clean.dtype == mask.dtype and clean.shape == mask.shape
    assert np.array_equal(mask, before)
    if scheme == "nested":
        return
    assert set(np.unique(clean)) | {0} == set(np.unique(mask)) | {0}
    for j, rule in enumerate(process.rules, start=1):
        parts, count = ndimage.label(clean == j, EIGHT)
        areas = np.bincount(parts.ravel())[1:]
        floor = min(rule.smallest, (areas.max() / mask.size) if count else 0)
        assert (areas / mask.size >= floor).all()
        if rule.fill_holes:
            assert (clean[ndimage.binary_fill_holes(clean == j)] > 0).all()


@settings(max_examples=40, deadline=None)
@given(npst.arrays(np.uint8, (8, 8), elements=st.integers(0, 1)))
def test_one_class_is_cleaned_alike_by_both_schemes(mask):
    training = np.zeros((2, 8, 8), np.uint8)
    training[:, 2:4, 2:4] = 1
    disjoint = MaskPostprocess.fit(training, 2, "disjoint").clean(mask)
    assert np.array_equal(disjoint, MaskPostprocess.fit(training, 2, "nested").clean(mask))


def test_holes_and_specks_go(of_blobs):
    mask = disc(10).astype(np.uint8)
    damaged = mask.copy()
    damaged[30:33, 30] = 0
    damaged[2, 2] = 1
    clean, reason = of_blobs(damaged)
    assert np.array_equal(clean, mask) and reason is None


def test_stray_holes_of_the_annotation_do_not_keep_holes_open():
    masks = blobs(60)
    masks[0][disc(1, *ndimage.center_of_mass(masks[0]))] = 0
    assert MaskPostprocess.fit(masks, 2).rules[0].fill_holes


def test_natural_holes_stay():
    masks = hearts(30)
    process = MaskPostprocess.fit(masks, 3)
    assert [rule.fill_holes for rule in process.rules] == [False, True]
    ring = masks[0] * (masks[0] == 1)
    assert np.array_equal(process.clean(ring), ring)
    damaged = masks[0].copy()
    centre = tuple(int(c) for c in ndimage.center_of_mass(masks[0] == 2))
    damaged[centre] = 0
    assert np.array_equal(process.clean(damaged), masks[0])


def test_another_class_inside_keeps_its_place():
    process = MaskPostprocess.fit(blobs(20), 3)
    mask = disc(12).astype(np.uint8) + disc(5)
    assert np.array_equal(process.clean(mask), mask)


def test_nested_levels_stay_inside_lower_ones():
    process = MaskPostprocess.fit(hearts(30), 3, "nested")
    assert all(rule.fill_holes for rule in process.rules)
    speck = hearts(1, seed=5)[0]
    clean = speck.copy()
    speck[1, 1] = 2  # a speck of both levels
    assert np.array_equal(process.clean(speck), clean)
    level_two_outside = disc(12, 20, 20).astype(np.uint8) + disc(6, 20, 20)
    hole = level_two_outside.copy()
    hole[20, 20] = 0
    assert np.array_equal(process.clean(hole), level_two_outside)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((64, 64), np.uint8), "empty"),
        (np.ones((64, 64), np.uint8), "area"),
        (disc(1).astype(np.uint8), "area"),
        (disc(9, stretch=3.0).astype(np.uint8), "axis ratio"),
        ((disc(20) & ~disc(20, 40)).astype(np.uint8), "solidity"),
        (sum(disc(4, x, y) for x in (10, 30, 50) for y in (10, 30, 50)).astype(np.uint8), "comp"),
    ],
)
def test_outliers_are_rejected_with_the_reason(of_blobs, mask, reason):
    _, why = of_blobs(mask)
    assert why is not None and reason in why and "\n" not in why


def test_unseen_combinations_of_classes_are_rejected():
    process = MaskPostprocess.fit(hearts(30), 3)
    assert "[2]" in process(disc(8).astype(np.uint8) * 2)[1]


def test_empty_masks_pass_where_training_has_them():
    masks = blobs(20)
    masks[3] = 0
    assert MaskPostprocess.fit(masks, 2)(np.zeros((64, 64), np.uint8))[1] is None


def test_only_empty_masks():
    process = MaskPostprocess.fit(np.zeros((3, 8, 8), int), 3)
    assert process(np.zeros((8, 8), int))[1] is None
    assert process(np.ones((8, 8), int))[1] is not None


def test_equal_training_masks_leave_room_for_a_few_pixels():
    process = MaskPostprocess.fit(np.array([disc(10)] * 5).astype(int), 2)
    assert process(disc(10.4).astype(int))[1] is None
    assert process(disc(20).astype(int))[1] is not None


def test_rules_survive_json(of_blobs):
    again = MaskPostprocess.from_dict(json.loads(json.dumps(of_blobs.to_dict())))
    assert again == of_blobs
    masks = blobs(30, seed=2)
    assert [again(one)[1] for one in masks] == [of_blobs(one)[1] for one in masks]


def test_tensors_and_iterables_give_the_same_rules(of_blobs):
    tensor = torch.as_tensor(blobs(200))[:, None]
    assert MaskPostprocess.fit(tensor, 2) == of_blobs
    assert MaskPostprocess.fit((one[::1] for one in blobs(200)), 2) == of_blobs


def test_bad_input_is_refused(of_blobs):
    with pytest.raises(InputError, match="at least one"):
        MaskPostprocess.fit([], 2)
    with pytest.raises(InputError, match="outlier"):
        MaskPostprocess.fit(blobs(1), 2, outlier=1.0)
    with pytest.raises(InputError, match="scheme"):
        MaskPostprocess.fit(blobs(1), 2, "level")
    with pytest.raises(InputError, match="values 0..255"):
        of_blobs(blobs(1)[0] * 255)
    with pytest.raises(InputError, match="two-dimensional"):
        of_blobs(np.zeros((4, 4, 4), int))
    for broken in ({}, {**of_blobs.to_dict(), "rules": []}, {**of_blobs.to_dict(), "scheme": "x"}):
        with pytest.raises(InputError):
            MaskPostprocess.from_dict(broken)
