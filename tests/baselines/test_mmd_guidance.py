"""MMD guidance on a Gaussian flow whose velocity is known in closed form."""

import numpy as np
import pytest
import torch
from torch import nn

from alignflow.baselines.mmd_guidance import (
    MMDGuidedSampler,
    coarse_pixels,
    median_distance,
    mmd2_biased,
    pull,
)
from alignflow.flow.sampler import ImageSampler

WIDE = (100.0,)


class GaussianFlow(nn.Module):
    """Exact velocity from N(0, 1) to N(0, s^2) in every pixel; the condition has no effect."""

    data_channels = 1

    def __init__(self, s=0.2):
        super().__init__()
        self.s = nn.Parameter(torch.tensor(s))

    def forward(self, x, t, condition=None):
        t = t.view(-1, 1, 1, 1)
        variance = (1 - t) ** 2 + (t * self.s) ** 2
        return (t * self.s**2 - (1 - t)) / variance * x


def draw(count, mean, seed, std=0.2):
    generator = torch.Generator().manual_seed(seed)
    return mean + std * torch.randn((count, 1, 4, 4), generator=generator)


def inputs(count=32):
    noise = draw(count, 0.0, 1, 1.0)
    return torch.cat([noise, torch.zeros_like(noise)], dim=1)


def test_no_weight_is_the_plain_sampler():
    plain = ImageSampler(GaussianFlow(), steps=5)
    guided = MMDGuidedSampler(GaussianFlow(), references=draw(5, 1.0, 0), steps=5, weight=0.0)
    guided.load_state_dict(plain.state_dict())  # the references are no weights
    with torch.no_grad():
        assert torch.allclose(guided(inputs()), plain(inputs()))


def test_guidance_lowers_the_mmd_to_unseen_target_samples():
    references, unseen = draw(10, 0.6, 0), draw(200, 0.6, 2).flatten(1)
    found = []
    for weight in (0.0, 2.0, 8.0):
        sampler = MMDGuidedSampler(GaussianFlow(), references=references, steps=10, weight=weight)
        with torch.no_grad():
            samples = sampler(inputs()).flatten(1)
        found.append(mmd2_biased(samples, unseen, (0.5, 1.0)).item())
    assert found[1] < 0.8 * found[0] and found[2] < 0.5 * found[0], found


def test_wide_kernel_pulls_by_the_difference_of_the_means():
    samples, references = draw(6, 0.0, 0), draw(9, 0.5, 1)
    expected = references.mean(0) - samples.mean(0)
    found = pull(samples, references, coarse_pixels, WIDE)
    assert torch.allclose(found, expected.expand(6, 1, 4, 4), atol=1e-3)
    doubled = pull(torch.cat([samples, samples]), references, coarse_pixels, WIDE)
    assert torch.allclose(doubled[:6], found, atol=1e-3)


def test_coarse_images_are_pulled_like_their_pixels():
    samples, references = torch.zeros(2, 1, 32, 32), torch.full((3, 1, 32, 32), 0.3)
    found = pull(samples, references, lambda x: coarse_pixels(x, 8), WIDE)
    assert torch.allclose(found, torch.full_like(samples, 0.3), atol=1e-3)


def test_one_reference_and_one_sample_do():
    found = pull(draw(1, 0.0, 0), draw(1, 0.5, 1), coarse_pixels)
    assert found.isfinite().all() and found.abs().max() > 0
    same = draw(1, 0.0, 0)
    assert torch.equal(pull(same, same, coarse_pixels), torch.zeros_like(same))


def test_mmd_is_the_double_sum():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(5, 3)) + 1

    def kernel(a, b):
        return np.mean([h**2 * np.exp(-((a - b) ** 2).sum() / (2 * h**2)) for h in (0.5, 2.0)])

    def mean(p, q):
        return np.mean([kernel(a, b) for a in p for b in q])

    expected = mean(x, x) + mean(y, y) - 2 * mean(x, y)
    found = mmd2_biased(torch.from_numpy(x), torch.from_numpy(y), (0.5, 2.0)).item()
    assert found == pytest.approx(expected, rel=1e-9)


def test_median_is_over_different_rows():
    rows = torch.tensor([[0.0], [1.0], [3.0]])
    assert median_distance(rows) == 2.0
    assert median_distance(torch.zeros(3, 2)) == 1.0
