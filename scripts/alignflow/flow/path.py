"""The probability path from noise to data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PathSample:
    """A point of the path and the velocity that moves it.

    Attributes:
        x_t: the point, (B, C, X, Y).
        velocity: d x_t / d t, (B, C, X, Y).
    """

    x_t: Tensor
    velocity: Tensor


def linear_path(noise: Tensor, data: Tensor, t: Tensor) -> PathSample:
    """Straight line of conditional flow matching: x_t = (1 - t) x_0 + t x_1, v = x_1 - x_0.

    Args:
        noise: x_0 ~ N(0, I), (B, C, X, Y).
        data: x_1 in [-1, 1], (B, C, X, Y).
        t: time in [0, 1], (B,); 0 is noise, 1 is data.

    Source: Lipman et al., arXiv 2210.02747, eq. 22 with sigma_min = 0; Liu et al., 2209.03003.
    """
    t = t.view(-1, *[1] * (data.dim() - 1))
    return PathSample(x_t=torch.lerp(noise, data, t), velocity=data - noise)
