"""Distances of mask statistics agree with `mask_statistics.compare`."""

import numpy as np
import pytest
import torch

from alignflow.evaluation.mask_statistics import compare
from alignflow.evaluation.masks import mask_distances, mask_points


def discs(count, seed):
    rng = np.random.default_rng(seed)
    i, j = np.meshgrid(np.arange(24), np.arange(24), indexing="ij")
    masks = []
    for _ in range(count):
        distance = np.hypot(i - rng.uniform(9, 15), j - rng.uniform(9, 15))
        radius = rng.uniform(3, 8)
        masks.append((distance < radius).astype(int) + (distance < radius / 2))
    return torch.as_tensor(np.array(masks))[:, None]


@pytest.mark.parametrize("scheme", ["disjoint", "nested"])
def test_distances_are_those_of_compare(scheme):
    generated, real = discs(8, 0), discs(9, 1)
    found = mask_distances(*(mask_points(s, 3, scheme) for s in (generated, real)))
    expected = compare(generated, discs(7, 2), real, 3, scheme)
    assert len(found) == 8
    assert found == pytest.approx({name: expected[name] for name in found})


def test_absent_classes_are_no_number():
    empty = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    points = mask_points(empty, 2, "disjoint")
    assert points.isnan().tolist() == [[False, True, False, False]] * 2
    assert set(mask_distances(points, points).values()) == {0}
