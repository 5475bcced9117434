"""Exponential moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


class EMA(AveragedModel):
    """Average of the weights, theta_ema <- d theta_ema + (1 - d) theta, called after each step.

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that in short runs the initial weights
    do not dominate. `.module` is the averaged network; the state dict includes n.

    Args:
        network: the trained network; its weights are copied.
        decay: limit of d, in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        def average(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
            d = min(decay, (1 + int(updates)) / (10 + int(updates)))
            torch._foreach_lerp_(averaged, current, 1 - d)

        super().__init__(network, multi_avg_fn=average)
        self.requires_grad_(False)
