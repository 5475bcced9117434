"""The threshold keeps its promise on simulated data; scores against plain loops."""

import numpy as np
import pytest
import torch

from alignflow.privacy.threshold import conformal_p, conformal_threshold, relative_distance


def alone(values):
    return [str(i) for i in range(len(values))]


def test_relative_distance_by_hand():
    known = torch.tensor([[0.4, 0.1, 0.2], [0.5, 0.6, 0.0]])
    relative, nearest = relative_distance(known, None, 2)
    assert relative.tolist() == pytest.approx([0.1 / 0.3, 0.0]) and nearest.tolist() == [1, 2]
    others = torch.tensor([[0.05, 0.9], [0.7, 0.8]])
    relative, nearest = relative_distance(known, others, 2)
    assert relative.tolist() == pytest.approx([0.1 / 0.125, 0.0]) and nearest.tolist() == [1, 2]


def test_relative_distance_with_few_known_images():
    relative, _ = relative_distance(torch.tensor([[0.4, 0.1]]), None, 5)
    assert relative.tolist() == pytest.approx([0.25])
    relative, nearest = relative_distance(torch.tensor([[0.4]]), None, 5)
    assert relative.tolist() == pytest.approx([0.4]) and nearest.tolist() == [0]
    relative, _ = relative_distance(torch.zeros(1, 3), None, 2)  # three copies of one image
    assert relative.tolist() == [0.0]


@pytest.mark.parametrize(("count", "rank"), [(19, 1), (38, 1), (39, 2), (100, 5)])
def test_the_threshold_is_the_kth_smallest(count, rank):
    values = np.random.default_rng(0).normal(size=count)
    assert conformal_threshold(values, alone(values), 0.05) == np.sort(values)[rank - 1]


def test_too_few_images_give_no_threshold():
    values = np.arange(18.0)
    assert conformal_threshold(values, alone(values), 0.05) is None
    assert conformal_threshold(np.empty(0), [], 0.05) is None


def test_false_alarms_are_as_promised():
    random = np.random.default_rng(0)
    draws = random.gamma(2.0, size=(20000, 40))
    below = [row[-1] < conformal_threshold(row[:-1], alone(row[:-1]), 0.05) for row in draws]
    assert np.mean(below) == pytest.approx(2 / 40, abs=0.005)


def test_false_alarms_are_as_promised_for_images_of_new_patients():
    """Frames of a patient are alike."""
    random = np.random.default_rng(0)
    alarms = []
    for _ in range(3000):
        sizes = random.integers(1, 12, 26)
        groups = np.repeat(np.arange(26), sizes)
        values = random.normal(size=26)[groups] + 0.3 * random.normal(size=len(groups))
        known, new = groups < 25, values[groups == 25]
        threshold = conformal_threshold(values[known], groups[known].tolist(), 0.05)
        alarms.append((new < threshold).mean())
    assert np.mean(alarms) <= 0.05 + 0.01
    assert np.mean(alarms) > 0.01


def test_equal_sizes_of_groups_change_nothing_but_the_number_of_images():
    values = np.random.default_rng(1).normal(size=30)
    threshold = conformal_threshold(values, alone(values), 0.1)
    assert conformal_threshold(np.tile(values, 3), alone(values) * 3, 0.1) == threshold


def test_p_values_count_the_images_that_are_as_near():
    random = np.random.default_rng(2)
    real, found = random.integers(0, 9, 25).astype(float), np.array([-1.0, 3, 4.5, 99])
    expected = [(1 + sum(r <= x for r in real)) / 26 for x in found]
    assert conformal_p(found, real, alone(real)).tolist() == pytest.approx(expected)


def test_below_the_threshold_means_a_small_p_value():
    random = np.random.default_rng(3)
    real, found = random.normal(size=60), random.normal(size=500)
    threshold = conformal_threshold(real, alone(real), 0.1)
    below = found < threshold
    assert below.any() and (conformal_p(found, real, alone(real))[below] <= 0.1 + 1e-9).all()
