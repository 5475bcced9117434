"""A small velocity network and a segmenter that sees bright pixels."""

import pytest
import torch
from datasets import READING
from torch import nn

from alignflow.masks.conditions import describe
from alignflow.masks.postprocess import MaskPostprocess
from alignflow.networks.velocity import VelocityUNet
from alignflow.stage1 import Stage1


class BrightPixels(nn.Module):
    """Foreground where the mean over channels is positive."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, image):
        bright = image.mean(dim=1, keepdim=True)
        return self.scale * torch.cat([-bright, bright], dim=1)


@pytest.fixture
def segmenter():
    return BrightPixels().eval()


@pytest.fixture
def network():
    torch.manual_seed(0)
    net = VelocityUNet(
        data_channels=1, condition_channels=3, channels=[32], attention_levels=[False]
    )
    for parameter in net.parameters():  # MONAI's last convolution begins at zero
        nn.init.normal_(parameter, std=0.05)
    return net


@pytest.fixture
def bank():
    """Eight masks of 16 x 16 with their condition maps, as a list of items."""
    generator = torch.Generator().manual_seed(0)
    items = []
    for _ in range(8):
        x, y = torch.randint(2, 8, (2,), generator=generator).tolist()
        label = torch.zeros(1, 16, 16, dtype=torch.uint8)
        label[:, x : x + 5, y : y + 6] = 1
        maps = torch.cat([1 - label.float(), label.float(), label * 2 - 1.0])
        items.append({"label": label, "condition": maps})
    return items


@pytest.fixture
def record(png_source):
    """A `Stage1` of gray 32 x 32 images whose masks are nine discs."""
    x = torch.arange(32) - 15.5
    r = (x[:, None].square() + x[None].square()).sqrt()
    masks = torch.stack([(r < 3 + k)[None].to(torch.uint8) for k in range(9)])
    return Stage1(
        source=png_source(geometries=[{"shape": [32, 32], "affine": None}]),
        image_size=[32, 32],
        image_network={},
        mask_network={},
        clip=5.0,
        scheme="disjoint",
        postprocess=MaskPostprocess.fit(masks, 2).to_dict(),
        descriptions=describe(masks, 2).tolist(),
        segmenter={},
        reading=READING,
        appearance=[],
    )
