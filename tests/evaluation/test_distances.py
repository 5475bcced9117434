"""Distances against plain loops, closed forms, MONAI's FID, and simulation."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import FIDMetric
from scipy.linalg import sqrtm

from alignflow.evaluation.distances import cubic, fid, median_kernel, unbiased


def normal(count, dimensions, seed, mean=0.0, scale=1.0):
    values = np.random.default_rng(seed).normal(mean, scale, (count, dimensions))
    return torch.as_tensor(values)


def test_kid_is_the_double_loop():
    x, y = normal(6, 4, 0), normal(9, 4, 1, mean=0.5)

    def k(a, b):
        return (float(np.dot(a, b)) / 4 + 1) ** 3

    def within(z):
        return np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])

    between = np.mean([k(a, b) for a in x for b in y])
    assert unbiased(x, y, cubic) == pytest.approx(within(x) + within(y) - 2 * between)


def test_kid_and_mmd_of_equal_laws_are_zero_on_average():
    kernel = median_kernel(normal(200, 3, 0))
    for distance in (lambda x, y, k=k: unbiased(x, y, k) for k in (cubic, kernel)):
        found = np.array([distance(normal(5, 3, [1, s]), normal(8, 3, [2, s])) for s in range(500)])
        assert abs(found.mean()) < 4 * found.std() / math.sqrt(len(found))


def test_rbf_mmd_of_two_gaussians():
    """E exp(-|a - b|^2 / 2 s^2) of one-dimensional normals is known."""
    width, shift = 1.5, 1.0
    kernel = median_kernel(torch.tensor([[0.0], [width]]).double())

    def expected(mean):
        total = width**2 + 2
        return width / math.sqrt(total) * math.exp(-(mean**2) / (2 * total))

    found = np.array(
        [
            unbiased(normal(20, 1, [1, s]), normal(30, 1, [2, s], mean=shift), kernel)
            for s in range(300)
        ]
    )
    error = found.std() / math.sqrt(len(found))
    assert error < 0.01
    assert found.mean() == pytest.approx(2 * expected(0) - 2 * expected(shift), abs=4 * error)


def test_fid_of_gaussians():
    """|m1 - m2|^2 + sum (s1 - s2)^2 for diagonal covariances."""
    scale = np.array([0.5, 1.0, 2.0])
    x = normal(20000, 3, 0)
    y = normal(20000, 3, 1, mean=np.array([1.0, 0.0, -1.0]), scale=scale)
    assert fid(x, y) == pytest.approx(2 + ((1 - scale) ** 2).sum(), rel=0.03)


def test_fid_is_that_of_monai_where_covariances_are_regular():
    x, y = normal(60, 5, 0), normal(40, 5, 1, mean=0.3, scale=1.4)
    assert fid(x, y) == pytest.approx(float(FIDMetric()(x, y)), rel=1e-6)


def test_fid_where_covariances_are_singular():
    """Fewer images than features, as with real encoders."""
    x, y = normal(6, 30, 0), normal(8, 30, 1, mean=0.2)
    one, two = np.cov(x.T), np.cov(y.T)
    eye = 1e-10 * np.eye(30)
    root = np.trace(sqrtm((one + eye) @ (two + eye))).real
    means = ((x.mean(0) - y.mean(0)) ** 2).sum()
    expected = float(means) + np.trace(one) + np.trace(two) - 2 * root
    assert fid(x, y) == pytest.approx(expected, rel=1e-3)


def test_fid_of_a_set_with_itself_is_zero_and_of_equal_laws_falls_with_the_size():
    x = normal(50, 20, 0)
    assert fid(x, x) == pytest.approx(0, abs=1e-9)
    small, large = (fid(normal(n, 20, 1), normal(n, 20, 2)) for n in (20, 500))
    assert 0 < large < 0.2 * small


def test_single_images_have_no_distance():
    one, two = normal(1, 3, 0), normal(5, 3, 1)
    for pair in ((one, two), (two, one)):
        assert math.isnan(unbiased(*pair, cubic)) and math.isnan(fid(*pair))
