import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import kstest, norm, uniform

from alignflow.flow.time import logit_normal_time, mixed_time, uniform_time


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 1.3)])
def test_logit_normal_quantiles(mean, std):
    t = logit_normal_time(40_000, generator(), mean=mean, std=std).double().numpy()
    assert ((t > 0) & (t < 1)).all()
    levels = np.linspace(0.02, 0.98, 25)
    expected = expit(norm.ppf(levels, mean, std))
    np.testing.assert_allclose(np.quantile(t, levels), expected, atol=0.01)


def test_uniform_distribution():
    t = uniform_time(40_000, generator()).double().numpy()
    assert kstest(t, uniform.cdf).pvalue > 0.01


def test_times_come_from_the_generator_alone():
    for draw in (uniform_time, logit_normal_time, mixed_time):
        torch.manual_seed(1)
        first = draw(5, generator())
        torch.manual_seed(2)
        assert torch.equal(first, draw(5, generator()))


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.2, 1.2)])
def test_mixed_times_have_the_density_of_the_mixture(share, mean, std):
    t = mixed_time(40_000, generator(), mean=mean, std=std, uniform_share=share).double()
    middle, end = (t > 0.4) & (t < 0.6), t > 0.98
    normal = torch.distributions.Normal(mean, std)
    logit = torch.logit(torch.tensor([0.4, 0.6, 0.98]))
    low, high, late = normal.cdf(logit).tolist()
    expected = [share * 0.2 + (1 - share) * (high - low), share * 0.02 + (1 - share) * (1 - late)]
    found = [float(middle.double().mean()), float(end.double().mean())]
    assert found == pytest.approx(expected, abs=0.01)
