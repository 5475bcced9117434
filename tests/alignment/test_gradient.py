import pytest
import torch
from torch import nn

from alignflow.alignment.gradient import GradientScheme, connect, roll_out
from alignflow.errors import InputError
from alignflow.flow.solver import integrate


class TinyVelocity(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).double()

    def forward(self, x, t):
        return self.net(torch.cat([x, t[:, None]], dim=1))


def noise(n=5):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(1)).double()


def reward(x):
    return (x.square().sum(dim=1) + x[:, 0] * x[:, 1]).mean()


def gradient(network, scheme, seed=0):
    plan = scheme.draw(torch.Generator().manual_seed(seed))
    sample, _ = connect(network, roll_out(network, noise(), plan), plan)
    return flat(torch.autograd.grad(reward(sample), list(network.parameters())))


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def true_gradient(network, steps):
    x = integrate(network, noise(), steps=steps, method="euler")
    return flat(torch.autograd.grad(reward(x), list(network.parameters())))


def test_full_equals_autograd_through_the_solver():
    network = TinyVelocity()
    found = gradient(network, GradientScheme(steps=6, method="full"))
    torch.testing.assert_close(found, true_gradient(network, 6), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["surrogate", "full"])
def test_reward_sees_the_solvers_sample(method):
    network, scheme = TinyVelocity(), GradientScheme(steps=7, method=method)
    plan = scheme.draw(torch.Generator().manual_seed(0))
    sample, _ = connect(network, roll_out(network, noise(), plan), plan)
    expected = integrate(network, noise(), steps=7, method="euler")
    torch.testing.assert_close(sample, expected, rtol=1e-12, atol=1e-12)


def test_surrogate_is_unbiased_for_the_unbridged_gradient():
    """Without late bias, N/K times the mean over draws is the sum over all steps."""
    network = TinyVelocity()
    scheme = GradientScheme(steps=5, active=2, late_bias=0.0)
    everything = GradientScheme(steps=5, active=5, late_bias=0.0)
    expected = gradient(network, everything)
    mean = torch.stack([gradient(network, scheme, seed) for seed in range(600)]).mean(dim=0)
    assert torch.cosine_similarity(mean, expected, dim=0) > 0.999
    assert mean.norm() == pytest.approx(float(expected.norm()), rel=0.05)


def test_surrogate_comes_near_the_full_gradient_with_more_active_steps():
    network = TinyVelocity()
    expected = true_gradient(network, 10)
    cosines = []
    for k in (1, 2, 5, 10):
        scheme = GradientScheme(steps=10, active=k)
        found = [
            torch.cosine_similarity(gradient(network, scheme, s), expected, dim=0)
            for s in range(20)
        ]
        cosines.append(float(torch.stack(found).mean()))
    assert cosines == sorted(cosines) and cosines[-1] > 0.8


def test_late_bias_draws_late_steps():
    generator = torch.Generator().manual_seed(0)
    scheme = GradientScheme(steps=10, active=1, late_bias=4.0)
    drawn = [scheme.draw(generator).active[0] for _ in range(200)]
    assert sum(drawn) / len(drawn) > 7


@pytest.mark.parametrize("arguments", [{"method": "magic"}, {"active": 0}, {"active": 9}])
def test_impossible_schemes_are_refused(arguments):
    with pytest.raises(InputError, match="gradient"):
        GradientScheme(**{"steps": 8, "active": 1} | arguments)
