"""Signed distances against a brute-force distance, closed forms, and their own inverse."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from monai.data import MetaTensor

from alignflow.errors import InputError
from alignflow.masks.distance import condition_maps, from_distance, to_distance


def masks(max_classes: int = 4) -> st.SearchStrategy:
    """(mask as int64 (1, X, Y), K), constant masks included."""

    def of(k: int) -> st.SearchStrategy:
        shape = st.tuples(st.just(1), st.integers(1, 12), st.integers(1, 12))
        arrays = npst.arrays(np.int64, shape, elements=st.integers(0, k - 1))
        return st.tuples(arrays.map(torch.as_tensor), st.just(k))

    return st.integers(2, max_classes).flatmap(of)


def brute_force(region: np.ndarray, clip: float) -> np.ndarray:
    """Distance to the nearest pixel on the other side less half a pixel, from all pairs."""
    if region.all() or not region.any():
        return np.where(region, 1.0, -1.0)
    points = np.argwhere(np.ones_like(region)).reshape(*region.shape, 2)
    result = np.empty(region.shape)
    for pixel in np.ndindex(region.shape):
        others = points[region != region[pixel]]
        far = np.sqrt(((others - points[pixel]) ** 2).sum(1)).min() - 0.5
        result[pixel] = min(far, clip) / clip * (1 if region[pixel] else -1)
    return result


@settings(max_examples=60, deadline=None)
@given(masks(), st.floats(0.3, 8.0), st.sampled_from(["disjoint", "nested"]))
def test_distance_is_the_brute_force_distance(mask, clip, scheme):
    label, k = mask
    distance = to_distance(label, k, clip, scheme)
    assert distance.shape == (k - 1, *label.shape[1:])
    assert distance.dtype == torch.float32
    for j in range(1, k):
        region = (label == j) if scheme == "disjoint" else (label >= j)
        np.testing.assert_allclose(distance[j - 1], brute_force(region[0].numpy(), clip), atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(masks(), st.floats(0.3, 8.0), st.sampled_from(["disjoint", "nested"]))
def test_hard_masks_come_back_exactly(mask, clip, scheme):
    label, k = mask
    distance = to_distance(label, k, clip, scheme)
    batched = from_distance(distance[None].repeat(2, 1, 1, 1), scheme)
    assert batched.shape == (2, *label.shape) and batched.dtype == torch.uint8
    assert torch.equal(batched[1].long(), label)
    assert torch.equal(from_distance(distance, scheme)[0].long(), label)


def test_half_plane_crosses_zero_between_the_pixels():
    label = torch.zeros(1, 12, 3, dtype=torch.uint8)
    label[:, 6:] = 1
    expected = torch.tensor([-5, -4.5, -3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5]) / 5
    assert torch.allclose(to_distance(label, 2)[0], expected[:, None].expand(12, 3))


def test_disc_has_the_distance_of_its_radius():
    x, y = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")
    radius = (x**2 + y**2).sqrt()
    distance = to_distance((radius < 10).long()[None], 2, clip=5.0)[0] * 5
    # Pixels stand for a circle to within one pixel of it.
    assert ((10 - radius).clamp(-5, 5) - distance).abs().max() < 1.0


def test_absent_and_filling_classes_are_constant():
    distance = to_distance(torch.full((1, 4, 5), 2), 4)
    assert torch.equal(distance[:, 0, 0], torch.tensor([-1.0, 1.0, -1.0]))
    assert distance.std(dim=(1, 2)).max() == 0
    nested = to_distance(torch.full((1, 4, 5), 2), 4, scheme="nested")
    assert torch.equal(nested[:, 0, 0], torch.tensor([1.0, 1.0, -1.0]))


@settings(max_examples=50, deadline=None)
@given(npst.arrays(np.float32, (2, 3, 4, 4), elements=st.floats(-1, 1, width=32)))
def test_any_nested_distance_decodes_to_nested_levels(values):
    distance = torch.as_tensor(values)
    level = from_distance(distance, "nested")[:, 0]
    for j in range(1, 4):
        assert torch.equal(level >= j, (distance[:, :j] > 0).all(dim=1))


def test_disjoint_decoding_takes_the_largest_above_zero():
    distance = torch.tensor([[0.2, -0.1, 0.0, 0.3], [0.4, -0.2, 0.0, 0.1]]).view(2, 1, 4)
    assert from_distance(distance, "disjoint").flatten().tolist() == [2, 0, 0, 1]


def test_volumes_have_distances_too():
    label = torch.zeros(1, 9, 9, 9)
    label[:, :, :, 5:] = 1
    expected = torch.tensor([-4.5, -3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]) / 5
    assert torch.allclose(to_distance(label, 2)[0], expected.expand(9, 9, 9))


def test_meta_tensors_of_floats_are_read():
    label = torch.zeros(1, 6, 6)
    label[:, 2:4] = 1
    assert torch.equal(to_distance(MetaTensor(label), 2), to_distance(label, 2))


def test_condition_maps_are_one_hot_then_distance():
    label = torch.randint(0, 3, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    distance = torch.stack([to_distance(one, 3) for one in label])
    maps = condition_maps(label, distance, 3)
    assert maps.shape == (2, 5, 8, 8) and maps.dtype == torch.float32
    assert torch.equal(maps[:, :3].argmax(1, keepdim=True), label)
    assert torch.equal(maps[:, :3].sum(1), torch.ones(2, 8, 8))
    assert torch.equal(maps[:, 3:], distance)


def test_an_empty_mask_differs_from_a_dropped_condition():
    label = torch.zeros(1, 1, 4, 4)
    maps = condition_maps(label, to_distance(label[0], 2)[None], 2)
    assert maps[:, 0].min() == 1


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        (torch.full((1, 2, 2), 2), {"num_classes": 2}, "values 2..2"),
        (torch.full((1, 2, 2), 255, dtype=torch.uint8), {"num_classes": 2}, "values 255..255"),
        (torch.full((1, 2, 2), -1), {"num_classes": 2}, "values -1..-1"),
        (torch.full((1, 2, 2), 0.5), {"num_classes": 2}, "not whole"),
        (torch.full((1, 2, 2), float("nan")), {"num_classes": 2}, "not whole"),
        (torch.zeros(1, 0, 2), {"num_classes": 2}, "no pixel"),
        (torch.zeros(2, 2), {"num_classes": 2}, "shape"),
        (torch.zeros(3, 2, 2), {"num_classes": 2}, "shape"),
        (torch.zeros(1, 2, 2), {"num_classes": 1}, "num_classes"),
        (torch.zeros(1, 2, 2), {"num_classes": 2, "clip": 0.0}, "clip"),
        (torch.zeros(1, 2, 2), {"num_classes": 2, "scheme": "level"}, "scheme"),
    ],
)
def test_bad_masks_are_refused_in_one_line(label, options, message):
    with pytest.raises(InputError, match=message) as caught:
        to_distance(label, **options)
    assert "\n" not in str(caught.value)


def test_bad_distances_are_refused():
    with pytest.raises(InputError, match="shape"):
        from_distance(torch.zeros(4, 4))
    with pytest.raises(InputError, match="to_distance"):
        condition_maps(torch.zeros(2, 1, 4, 4), torch.zeros(2, 2, 4, 4), 2)
    with pytest.raises(InputError, match="batch"):
        condition_maps(torch.zeros(1, 4, 4), torch.zeros(1, 1, 4, 4), 2)
