"""Classifier-free guidance: train with dropped conditions, sample beyond the condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alignflow.flow.solver import Velocity

Condition = dict[str, Tensor]
"""Keyword arguments of a velocity network; an all-zero tensor means 'not given'."""


def drop_condition(condition: Condition, dropped: Tensor) -> Condition:
    """Set all condition tensors to zero for the samples where `dropped`, bool (B,), is true."""
    return {
        name: c * (~dropped).to(c).view(-1, *[1] * (c.dim() - 1)) for name, c in condition.items()
    }


def guided_velocity(network: nn.Module, condition: Condition, weight: float) -> Velocity:
    """v = v(0) + weight (v(condition) - v(0)); with weight 1 this is v(condition).

    Both velocities come from one batch of twice the size. Source: Ho and Salimans, arXiv
    2207.12598, eq. 6 (their w is `weight` - 1); Zheng et al., arXiv 2311.13443 for flows.
    """
    if weight == 1 or not condition:
        return lambda x, t: network(x, t, **condition)
    both = {name: torch.cat([c, torch.zeros_like(c)]) for name, c in condition.items()}

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        given, dropped = network(torch.cat([x, x]), torch.cat([t, t]), **both).chunk(2)
        return torch.lerp(dropped, given, weight)

    return velocity
