"""Random pictures with content at all scales, as photographs have."""

import pytest
import torch
from torch.nn.functional import interpolate


def random_pictures(count, seed, shape=(32, 32), channels=3):
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, channels, *shape)
    for side in (3, 5, 9, 17):
        coarse = torch.randn(count, 1, side, side, generator=generator)
        total += interpolate(coarse, shape, mode="bicubic", align_corners=True) / side**0.5
    return (total / total.abs().amax(dim=(1, 2, 3), keepdim=True)).clamp(-1, 1)


@pytest.fixture(scope="session")
def pictures():
    """`pictures(count, seed, shape=(32, 32), channels=3)`: (N, C, X, Y) in [-1, 1]."""
    return random_pictures
