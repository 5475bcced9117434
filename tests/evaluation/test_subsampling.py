"""Draws: disjoint halves, intervals that hold the truth, falls that are known."""

import math

import numpy as np
import pytest
import torch

from alignflow.evaluation.distances import cubic, unbiased
from alignflow.evaluation.subsampling import (
    Sampled,
    Subsampling,
    estimate,
    finite,
    relative_reduction,
)


def normal(count, seed, mean=0.0):
    return torch.as_tensor(np.random.default_rng(seed).normal(mean, 1, (count, 2)))


def sampled(values, floor):
    return Sampled(len(values), np.array(values, dtype=float), np.array(floor, dtype=float))


def test_halves_are_disjoint_and_of_equal_size():
    seen = []

    def statistics(generated, real):
        seen.append((generated[:, 0].tolist(), real[:, 0].tolist()))
        return {"one": 1.0}

    generated, real = torch.arange(100.0, 107.0)[:, None], torch.arange(11.0)[:, None]
    result = Subsampling(draws=20)(statistics, generated, real)["one"]
    assert result.size == 3 and len(result.values) == len(result.floor) == 20
    for (drawn, first), (second, again) in zip(seen[::2], seen[1::2], strict=True):
        assert first == again and not set(first) & set(second)
        assert len(set(drawn)) == len(set(first)) == len(set(second)) == 3
        assert set(drawn) <= set(generated[:, 0].tolist())
    assert len({tuple(first) for _, first in seen}) > 10


def test_same_seed_same_draws_whatever_the_generated_set():
    x, y = normal(20, 0), normal(20, 1, mean=1)
    one, two = (
        Subsampling(draws=5)(lambda g, r: {"k": unbiased(g, r, cubic)}, s, normal(20, 2))
        for s in (x, y)
    )
    np.testing.assert_array_equal(one["k"].floor, two["k"].floor)
    other = Subsampling(draws=5, seed=1)(
        lambda g, r: {"k": unbiased(g, r, cubic)}, x, normal(20, 2)
    )
    assert (one["k"].values != other["k"].values).all()


def test_largest_bounds_the_draws():
    result = Subsampling(3, largest=4)(
        lambda g, r: {"n": float(len(g))}, normal(30, 0), normal(50, 1)
    )
    assert result["n"].values.tolist() == [4, 4, 4]


def test_a_single_image_gives_no_draws():
    for sizes in ((1, 9), (9, 1)):
        found = Subsampling(3)(
            lambda g, r: {"k": unbiased(g, r, cubic)}, normal(sizes[0], 0), normal(sizes[1], 1)
        )
        record = found["k"].record()
        assert record["value"] is None and record["floor"]["value"] is None and record["n"] == 0


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Difference of means of 40 against 40 normal numbers, truth 1; 95% of the repetitions."""
    hits = 0
    for repetition in range(150):
        x, y = normal(40, [repetition, 0], mean=1), normal(40, [repetition, 1])
        draws = Subsampling(draws=60)(lambda g, r: {"d": float((g - r)[:, 0].mean())}, x, y)["d"]
        record = draws.record()
        hits += record["low"] <= 1 <= record["high"]
    assert 0.87 < hits / 150 < 0.99


def test_floor_of_an_unbiased_distance_is_zero_on_average():
    draws = Subsampling(draws=400)(
        lambda g, r: {"k": unbiased(g, r, cubic)}, normal(60, 0, mean=2), normal(60, 1)
    )
    floor, values = draws["k"].floor, draws["k"].values
    assert abs(floor.mean()) < 4 * floor.std() / math.sqrt(400)
    assert values.mean() > 5 * floor.std()


def test_fall_subtracts_the_floor_of_each():
    unaligned = sampled([9, 11], [1, 1])
    assert relative_reduction(sampled([3, 3], [1, 1]), unaligned)["value"] == pytest.approx(
        1 - 2 / 9
    )
    assert relative_reduction(sampled([2, 2], [2, 2]), unaligned)["value"] == pytest.approx(1)
    assert relative_reduction(sampled([10, 10], [1, 1]), unaligned)["value"] == pytest.approx(0)
    record = relative_reduction(sampled([3, 3], [1, 1]), unaligned)
    assert record["low"] < record["value"] < record["high"]


def test_fall_is_undefined_without_a_gap_or_without_draws():
    nothing = {"value": None, "low": None, "high": None}
    assert relative_reduction(sampled([3, 3], [1, 1]), sampled([1, 1], [1, 1])) == nothing
    assert relative_reduction(sampled([], []), sampled([9, 11], [1, 1])) == nothing
    noisy = relative_reduction(sampled([3, 3], [1, 1]), sampled([0.5, 11.5], [1, 1]))
    assert noisy["value"] == pytest.approx(1 - 2 / 5) and noisy["low"] is None


def test_what_json_cannot_hold_is_none():
    assert finite(math.nan) is None and finite(math.inf) is None and finite(2) == 2.0
    assert estimate(np.array([1.0, math.nan]))["value"] is None
