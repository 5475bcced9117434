"""Random training times."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform_time(size: int, generator: torch.Generator) -> Tensor:
    """`size` times, uniform in [0, 1)."""
    return torch.rand(size, generator=generator)


def logit_normal_time(
    size: int, generator: torch.Generator, *, mean: float = 0.0, std: float = 1.0
) -> Tensor:
    """`size` times in (0, 1) whose logit is N(mean, std^2): more weight on the middle of the path.

    Source: Esser et al., arXiv 2403.03206, section 3.1 (there t = 1 is noise; here it is data).
    """
    return torch.sigmoid(mean + std * torch.randn(size, generator=generator))


def mixed_time(
    size: int,
    generator: torch.Generator,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    uniform_share: float = 0.1,
) -> Tensor:
    """`size` times, each logit-normal but uniform with probability `uniform_share`.

    The logit-normal density is 0 at both ends, where the solver starts and where the finest detail
    is decided; the uniform part covers these. The defaults suit networks that predict the clean
    image. A network that predicts the velocity learns more from later times (mean 1.2, std 1.2,
    uniform share .35), as in Karras et al., arXiv 2206.00364, table 1, with logit(t) = -ln(sigma).
    Distance maps are smooth and their shapes are decided early (mean -1.5).
    """
    uniform = uniform_time(size, generator)
    chosen = torch.rand(size, generator=generator) < uniform_share
    return torch.where(chosen, uniform, logit_normal_time(size, generator, mean=mean, std=std))
