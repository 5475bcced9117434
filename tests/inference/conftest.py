"""The record of a generator of discs, and a network that draws the disc it is asked for."""

import pytest
import torch
from datasets import READING
from torch import nn

from alignflow.masks.conditions import describe
from alignflow.masks.postprocess import MaskPostprocess
from alignflow.networks.velocity import VelocityUNet
from alignflow.stage1 import Stage1

SIZE = 32


def disc(radius, x, y):
    """Class indices (1, X, Y) of a disc, all in pixels."""
    i, j = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return ((i - x) ** 2 + (j - y) ** 2 <= radius**2).to(torch.uint8)[None]


class DiscNetwork(nn.Module):
    """Velocity whose last Euler step ends at the distance map of the disc in `vector`.

    It works element by element, so that a sample's bits do not depend on the batch. `spoilt`
    chooses from the state (with one step: the noise) the samples that come out empty.
    """

    def __init__(self, steps, spoilt=lambda x: torch.zeros(len(x), dtype=torch.bool)):
        super().__init__()
        self.steps = steps
        self.spoilt = spoilt

    def forward(self, x, t, vector):
        is_last_step = t[0] > 1 - 1.5 / self.steps
        return self.steps * (self.target(x, vector) - x) if is_last_step else 0 * x

    def target(self, x, vector):
        area, centre_x, centre_y = vector.view(len(x), -1, 1, 1)[:, 2:].unbind(1)
        radius = (10 ** (2 * (area - 1)) * SIZE**2 / torch.pi).sqrt()
        pixels = (2 * torch.arange(SIZE) + 1) / SIZE - 1
        squares = (pixels.view(-1, 1) - centre_x) ** 2 + (pixels.view(1, -1) - centre_y) ** 2
        distance = (radius - SIZE / 2 * squares.sqrt()) / 5
        distance[self.spoilt(x)] = -1
        return distance.clamp(-1, 1)[:, None]


@pytest.fixture
def network():
    return DiscNetwork


@pytest.fixture(scope="session")
def record(png_source):
    """A `Stage1` of gray PNG images with one class, whose masks are nine discs."""
    masks = torch.stack([disc(4 + k / 2, 10 + k, 20 - k) for k in range(9)])
    image_network = VelocityUNet(
        data_channels=1, condition_channels=3, channels=[32], attention_levels=[False]
    )
    return Stage1(
        source=png_source(
            geometries=[{"shape": [40, 24], "affine": None}, {"shape": [32, 32], "affine": None}]
        ),
        image_size=[SIZE, SIZE],
        image_network=image_network.arguments,
        mask_network={},
        clip=5.0,
        scheme="disjoint",
        postprocess=MaskPostprocess.fit(masks, 2).to_dict(),
        descriptions=describe(masks, 2).tolist(),
        segmenter={},
        reading=READING,
        appearance=[],
    )
