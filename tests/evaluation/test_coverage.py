"""Nearest-neighbour scores against plain loops, and in cases with a known answer."""

import math

import numpy as np
import pytest
import torch

from alignflow.evaluation.coverage import neighbour_scores, radii


def points(count, seed, mean=0.0):
    return torch.as_tensor(np.random.default_rng(seed).normal(mean, 1, (count, 3)))


def by_loops(generated, real, k):
    def distance(a, b):
        return math.dist(a.tolist(), b.tolist())

    def reach(one, i):
        return sorted(distance(one[i], other) for j, other in enumerate(one) if j != i)[k - 1]

    def held(centres, i, other):
        return distance(centres[i], other) <= reach(centres, i)

    n, m = len(generated), len(real)
    in_real = [[held(real, i, g) for i in range(m)] for g in generated]
    in_generated = [[held(generated, j, r) for j in range(n)] for r in real]
    return {
        "precision": sum(any(row) for row in in_real) / n,
        "recall": sum(any(row) for row in in_generated) / m,
        "density": sum(sum(row) for row in in_real) / (k * n),
        "coverage": sum(any(row[i] for row in in_real) for i in range(m)) / m,
    }


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("sizes", [(12, 9), (7, 15)])
def test_scores_are_those_of_the_loops(k, sizes):
    generated, real = points(sizes[0], 0, mean=0.4), points(sizes[1], 1)
    assert neighbour_scores(generated, real, k) == pytest.approx(by_loops(generated, real, k))


def test_radii_do_not_count_the_point_itself():
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert radii(line, 1).tolist() == [1, 1, 2, 4]
    assert radii(line, 3).tolist() == [7, 6, 4, 7]


def test_a_collapsed_generator_is_precise_and_covers_little():
    real = points(200, 0)
    collapsed = real[:1] + 0.01 * points(200, 1)
    scores = neighbour_scores(collapsed, real, 5)
    assert scores["precision"] > 0.95
    assert scores["recall"] < 0.1 and scores["coverage"] < 0.15


def test_far_away_points_score_zero():
    assert set(neighbour_scores(points(20, 0) + 100, points(20, 1), 3).values()) == {0}


def test_too_few_points_have_no_neighbours():
    assert all(math.isnan(v) for v in neighbour_scores(points(5, 0), points(9, 1), 5).values())
