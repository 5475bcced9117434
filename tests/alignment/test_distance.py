import pytest
import torch
from scipy.stats import energy_distance

from alignflow.alignment.distance import energy, linear, median_distance, mmd2, rbf, witness

KERNELS = {"linear": linear, "energy": energy, "rbf": rbf([0.5, 1.0, 2.0])}


def normal(n, d=3, seed=0, mean=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double() + mean


def double_loop(x, y, kernel):
    """The U-statistic, pair by pair."""

    def k(a, b):
        return float(kernel(a[None], b[None]))

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(k(a, b) for a in x for b in y) / (n * m)
    return xx + yy - 2 * xy


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_u_statistic_equals_a_double_loop(kernel):
    x, y = normal(5), normal(4, seed=1, mean=0.5)
    assert float(mmd2(x, y, kernel)) == pytest.approx(double_loop(x, y, kernel), abs=1e-10)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_estimator_is_unbiased(kernel):
    """Its mean over many small draws is the distance of the distributions, 0 for equal ones."""
    equal, shifted = [], []
    for seed in range(400):
        x, y = normal(6, seed=2 * seed), normal(4, seed=2 * seed + 1)
        equal.append(float(mmd2(x, y, kernel)))
        shifted.append(float(mmd2(x, y + 0.5, kernel)))
    truth = float(mmd2(normal(1000, seed=10**6), normal(1000, seed=10**6 + 1) + 0.5, kernel))
    for found, expected in ((equal, 0.0), (shifted, truth)):
        values = torch.tensor(found)
        error = 4 * values.std() / len(values) ** 0.5 + 0.03
        assert values.mean().item() == pytest.approx(expected, abs=float(error))


def test_biased_estimator_would_fail_the_test_above():
    """With diagonals, small draws of equal distributions lie far from 0."""
    kernel = KERNELS["rbf"]
    values = []
    for seed in range(200):
        x, y = normal(6, seed=2 * seed), normal(4, seed=2 * seed + 1)
        values.append(float(kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()))
    assert sum(values) / len(values) > 0.1


def test_linear_kernel_gives_the_squared_distance_of_the_means():
    x, y = normal(4000), normal(4000, seed=1, mean=1.0)
    assert float(mmd2(x, y, linear)) == pytest.approx(3.0, abs=0.2)


def test_energy_kernel_gives_scipys_energy_distance():
    x, y = normal(600, d=1), normal(500, d=1, seed=1, mean=0.7)
    expected = energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    assert float(mmd2(x, y, energy)) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_one_reference_gives_a_finite_distance_and_gradient(kernel):
    x = normal(5).requires_grad_()
    y = normal(1, seed=3)
    value = mmd2(x, y, kernel)
    (gradient,) = torch.autograd.grad(value, x)
    assert torch.isfinite(value) and torch.isfinite(gradient).all()
    assert torch.isfinite(witness(x, y, kernel)).all()


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_gradient_of_the_witness_is_that_of_the_u_statistic(kernel):
    y = normal(4, seed=1)
    x, z = normal(6).requires_grad_(), normal(6).requires_grad_()
    (expected,) = torch.autograd.grad(mmd2(x, y, kernel), x)
    (found,) = torch.autograd.grad(2 * witness(z, y, kernel).mean(), z)
    torch.testing.assert_close(found, expected)


def test_queue_brings_the_gradient_nearer_to_that_of_the_population():
    kernel, y = KERNELS["rbf"], normal(200, d=8, seed=1, mean=0.5)
    population = normal(2000, d=8, seed=2)
    cosines = {}
    for size in (0, 64):
        found = []
        for seed in range(20):
            x = normal(4, d=8, seed=100 + seed)
            true, near = x.clone().requires_grad_(), x.clone().requires_grad_()
            (a,) = torch.autograd.grad(witness(true, y, kernel, population).mean(), true)
            queue = population[:size] if size else None
            (b,) = torch.autograd.grad(witness(near, y, kernel, queue).mean(), near)
            found.append(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))
        cosines[size] = torch.stack(found).mean()
    assert cosines[64] > cosines[0] and cosines[64] > 0.9


def test_single_sample_without_queue_is_only_drawn_to_the_references():
    x, y = normal(1), normal(3, seed=1)
    torch.testing.assert_close(witness(x, y, linear), -(x @ y.T).mean(dim=1))


def test_median_distance():
    x = torch.tensor([[0.0], [1.0], [3.0]])
    assert median_distance(x) == 2.0
