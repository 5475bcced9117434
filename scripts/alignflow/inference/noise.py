"""Random numbers of pair k, which depend only on the seed and k."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

PURPOSES = ("image", "mask", "description", "geometry")


def pair_generator(seed: int, index: int, purpose: str, attempt: int = 0) -> torch.Generator:
    """Generator for one purpose in one pair, independent of batch size and other pairs.

    Args:
        seed: random seed of the run.
        index: k, the number of the pair.
        purpose: one of `PURPOSES`; each has its own stream.
        attempt: number of times that the mask was rejected.
    """
    key = [seed, index, PURPOSES.index(purpose), attempt]
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def pair_noise(
    seed: int, indices: Iterable[int], purpose: str, shape: tuple[int, ...], attempt: int = 0
) -> Tensor:
    """Standard normal noise (B, *shape), one row per pair."""
    rows = [
        torch.randn(shape, generator=pair_generator(seed, index, purpose, attempt))
        for index in indices
    ]
    return torch.stack(rows)
