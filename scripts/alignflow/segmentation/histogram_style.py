"""Histogram matching: gives each channel the intensity distribution of a target image."""

from __future__ import annotations

import torch
from skimage.exposure import match_histograms
from torch import Tensor

from alignflow.errors import InputError


def histogram_style(image: Tensor, reference: Tensor) -> Tensor:
    """`image` with the histogram of `reference` in every channel.

    Args:
        image, reference: (C, X, Y) in [-1, 1]; X and Y may differ.

    Raises:
        InputError: different numbers of channels.
    """
    if image.shape[0] != reference.shape[0]:
        raise InputError(
            f"reference: {reference.shape[0]} channels, but the image has {image.shape[0]}; "
            "give references with the channels of the source"
        )
    matched = match_histograms(image.cpu().numpy(), reference.cpu().numpy(), channel_axis=0)
    return torch.as_tensor(matched).to(image)
