"""Random mirror images of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mirror_at_random(
    tensors: Sequence[Tensor],
    dims: Sequence[int],
    generator: torch.Generator,
    probability: float = 0.5,
) -> list[Tensor]:
    """Each sample of a batch flipped along each of `dims` with `probability`, by itself.

    Args:
        tensors: (B, C, X, Y) each, image and mask say: a sample is flipped in all of them or none.
        dims: 2 for X, 3 for Y.
        generator: on the CPU, so that every device sees the same draws.
        probability: of each flip.
    """
    for dim in dims:
        draws = torch.rand(len(tensors[0]), 1, 1, 1, generator=generator)
        flipped = draws < probability
        tensors = [torch.where(flipped.to(x.device), x.flip(dim), x) for x in tensors]
    return list(tensors)
