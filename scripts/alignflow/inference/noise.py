"""Random numbers of pair k: a function of the seed and k alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

PURPOSES = ("image", "mask", "description", "geometry")


def pair_generator(seed: int, index: int, purpose: str, attempt: int = 0) -> torch.Generator:
    """Generator for one use in one pair, independent of batch size, order and other pairs.

    Args:
        seed: random seed of the run.
        index: k, the number of the pair.
        purpose: one of `PURPOSES`; each has a stream of its own.
        attempt: counts the redraws of a rejected mask.
    """
    key = [seed, index, PURPOSES.index(purpose), attempt]
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def pair_noise(
    seed: int, indices: Iterable[int], purpose: str, shape: tuple[int, ...], attempt: int = 0
) -> Tensor:
    """Standard normal noise (B, *shape), one row for each pair."""
    rows = [
        torch.randn(shape, generator=pair_generator(seed, index, purpose, attempt))
        for index in indices
    ]
    return torch.stack(rows)
