from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchdiffeq import odeint

from alignflow.flow.solver import integrate, time_grid, trajectory

METHODS = {"euler": 1, "midpoint": 2, "heun": 2}
MEAN, SPREAD = 1.5, 0.3


def spread(t):
    return ((1 - t) ** 2 + (t * SPREAD) ** 2) ** 0.5


def gaussian_velocity(x, t):
    """Marginal velocity of the linear path from N(0, 1) to N(MEAN, SPREAD^2)."""
    t = t.view(-1, 1, 1, 1)
    return MEAN + (t * SPREAD**2 - (1 - t)) / spread(t) ** 2 * (x - t * MEAN)


def noise():
    return torch.randn(4, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class SmallNetwork(nn.Module):
    """A smooth velocity with random weights, in float64."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Conv2d(2, 8, 3, padding=1, dtype=torch.float64)
        self.outer = nn.Conv2d(8, 1, 3, padding=1, dtype=torch.float64)

    def forward(self, x, t):
        t = t.view(-1, 1, 1, 1).expand_as(x)
        return self.outer(torch.tanh(self.inner(torch.cat([x, t], dim=1))))


@given(st.integers(1, 1000))
def test_grid_runs_evenly_from_exactly_0_to_exactly_1(steps):
    grid = time_grid(steps)
    assert len(grid) == steps + 1
    assert (grid[0], grid[-1]) == (0.0, 1.0)
    assert all(end > begin for begin, end in pairwise(grid))
    np.testing.assert_allclose(grid, np.linspace(0, 1, steps + 1), atol=1e-15)


def test_steps_add_up_to_1_for_all_counts():
    for steps in range(1, 1001):
        lengths = np.diff(np.array(time_grid(steps), dtype=np.longdouble))
        assert abs(lengths.sum() - 1) < 1e-15


@pytest.mark.parametrize("steps", [0, -1])
def test_impossible_grids(steps):
    with pytest.raises(ValueError, match="steps >= 1"):
        time_grid(steps)


def fitted_order(velocity, exact, method):
    x, counts = noise(), [128, 256, 512, 1024]
    ends = [integrate(velocity, x, steps=n, method=method) for n in counts]
    errors = [(end - exact).square().mean().sqrt().item() for end in ends]
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 3), ("heun", 2)])
def test_order_on_the_flow_between_gaussians(method, order):
    """Midpoint's leading error, x''' / 24 + dv/dx x'' / 8, vanishes on this path.

    With x = t m + sqrt(q(t)) x_0 and q quadratic, x'' ~ q^(-3/2) and dv/dx = q' / 2q, so that
    x''' = -3 dv/dx x''.
    """
    exact = MEAN + SPREAD * noise()
    assert fitted_order(gaussian_velocity, exact, method) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("method", "order"), METHODS.items())
def test_order_on_another_equation(method, order):
    """x' = t x moves x_0 to x_0 exp(t^2 / 2)."""
    exact = noise() * np.exp(0.5)
    found = fitted_order(lambda x, t: x * t.view(-1, 1, 1, 1), exact, method)
    assert found == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_trajectory_follows_the_closed_form(method):
    x = noise()
    states = trajectory(gaussian_velocity, x, steps=200, method=method)
    assert len(states) == 201
    assert states[0] is x
    for t, state in list(zip(time_grid(200), states, strict=True))[::40]:
        torch.testing.assert_close(state, t * MEAN + spread(t) * x, atol=0.02, rtol=0)
    end = integrate(gaussian_velocity, x, steps=200, method=method)
    assert torch.equal(states[-1], end)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 3, 7, 10, 49])
def test_constant_velocity_moves_by_exactly_itself(method, steps):
    moved = integrate(lambda x, t: torch.ones_like(x), noise() * 0, steps=steps, method=method)
    torch.testing.assert_close(moved, torch.ones_like(moved), atol=1e-15 * steps, rtol=0)


def test_one_euler_step_uses_time_0_and_one_midpoint_step_time_one_half():
    seen = []

    def velocity(x, t):
        seen.append(t.tolist())
        return x

    for method in METHODS:
        integrate(velocity, noise()[:1], steps=1, method=method)
    assert seen == [[0.0], [0.0], [0.5], [0.0], [1.0]]


@pytest.mark.parametrize(
    ("method", "tolerance"), [("euler", 0.02), ("midpoint", 1e-4), ("heun", 1e-4)]
)
def test_agrees_with_dopri5_of_torchdiffeq(method, tolerance):
    network, x = SmallNetwork(), noise()
    with torch.no_grad():
        ours = integrate(network, x, steps=100, method=method)
        theirs = odeint(
            lambda t, x: network(x, t.expand(len(x))),
            x,
            torch.tensor([0.0, 1.0], dtype=torch.float64),
            rtol=1e-10,
            atol=1e-10,
            method="dopri5",
        )[-1]
    assert (theirs - x).abs().max() > 0.1
    assert (ours - theirs).abs().max() < tolerance


@pytest.mark.parametrize("method", METHODS)
def test_gradient_reaches_noise_and_weights(method):
    network = SmallNetwork()
    x = noise()[:1].requires_grad_()
    weight = network.inner.bias

    def sample(x, weight):
        return integrate(
            lambda x, t: torch.func.functional_call(network, {"inner.bias": weight}, (x, t)),
            x,
            steps=3,
            method=method,
        )

    assert torch.autograd.gradcheck(sample, (x, weight))


def test_unknown_method():
    with pytest.raises(ValueError, match="'rk4' unknown; choose one of euler, midpoint, heun"):
        integrate(gaussian_velocity, noise(), steps=2, method="rk4")


def test_final_euler_never_asks_for_the_velocity_at_the_end():
    asked = []

    def velocity(x, t):
        asked.append(float(t[0]))
        return -x

    x = torch.ones(1, 1, 2, 2).double()
    end = integrate(velocity, x, steps=4, method="heun", final_euler=True)
    assert max(asked) == 0.75
    torch.testing.assert_close(end, x * (1 - 0.25 + 0.25**2 / 2) ** 3 * 0.75)


def test_final_euler_keeps_the_order_of_heun():
    x, counts = torch.ones(1).double().view(1, 1, 1, 1), [16, 32, 64, 128]
    ends = [integrate(lambda x, t: -x, x, steps=n, method="heun", final_euler=True) for n in counts]
    errors = np.array([abs(float(end) - np.exp(-1)) for end in ends])
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(2, abs=0.1)
