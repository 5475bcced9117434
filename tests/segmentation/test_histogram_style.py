"""Histogram matching by its quantiles."""

import numpy as np
import pytest
import torch

from alignflow.errors import InputError
from alignflow.segmentation.histogram_style import histogram_style


def test_quantiles_of_each_channel_are_the_references():
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.uniform(-1, 0, (2, 40, 40))).float()
    reference = np.stack([rng.beta(2, 5, (50, 30)) * 2 - 1, rng.uniform(0.2, 0.6, (50, 30))])
    matched = histogram_style(image, torch.from_numpy(reference).float())
    assert matched.dtype == torch.float32 and matched.shape == image.shape
    shares = np.linspace(0.02, 0.98, 25)
    for found, expected in zip(matched.numpy(), reference, strict=True):
        quantiles = np.quantile(expected, shares)
        np.testing.assert_allclose(np.quantile(found, shares), quantiles, atol=0.01)


def test_order_of_the_pixels_is_kept():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, 20, 20), generator=generator) * 2 - 1
    reference = torch.rand((1, 20, 20), generator=generator) - 0.5
    matched = histogram_style(image, reference)
    assert torch.equal(image.flatten().argsort(), matched.flatten().argsort())
    assert torch.allclose(histogram_style(image, image), image, atol=1e-6)


def test_another_number_of_channels_is_refused():
    with pytest.raises(InputError, match="channels"):
        histogram_style(torch.zeros(3, 4, 4), torch.zeros(1, 4, 4))
