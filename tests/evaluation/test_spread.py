"""Ratios that scaling makes known."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from alignflow.evaluation.spread import spread_ratios


def points(count, seed):
    return torch.as_tensor(np.random.default_rng(seed).normal(size=(count, 4)))


def test_ratios_against_scipy():
    one, two = points(7, 0), 2 * points(11, 1)
    found = spread_ratios(one, two)
    assert found["spread"] == pytest.approx(pdist(one).mean() / pdist(two).mean())
    variances = [np.trace(np.cov(x.T)) for x in (one, two)]
    assert found["variance"] == pytest.approx(variances[0] / variances[1])


def test_half_as_wide():
    x = points(9, 0)
    assert spread_ratios(0.5 * x + 3, x) == pytest.approx({"spread": 0.5, "variance": 0.25})


def test_undefined():
    x = points(9, 0)
    for pair in ((x[:1], x), (x, x[:1]), (x, x[:1].expand(9, -1))):
        assert all(math.isnan(v) for v in spread_ratios(*pair).values())
