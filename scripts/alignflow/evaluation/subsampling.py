"""Estimates with an interval, and with a floor from real images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Statistics = Callable[[Tensor, Tensor], dict[str, float]]
"""Named statistics of generated (N, D) and real (M, D) features; NaN if undefined."""


@dataclass(frozen=True)
class Sampled:
    """One statistic over all draws.

    Attributes:
        size: n, images per set in a draw.
        values: (draws,) statistic of n generated and n real images.
        floor: (draws,) statistic of n real images and n other real images.
    """

    size: int
    values: NDArray[np.float64]
    floor: NDArray[np.float64]

    def record(self) -> dict[str, Any]:
        """For JSON: {"value", "low", "high", "n", "floor": {"value", "low", "high"}}."""
        return estimate(self.values) | {"n": self.size, "floor": estimate(self.floor)}


class Subsampling:
    """Computes a statistic of two sets on random halves of them.

    Each draw takes n generated images, n real images A and n other real images B, without
    replacement; n is half the size of the smaller set. The value is the statistic of generated
    images and A, the floor that of B and A. Since the floor has the same size and compares real
    with real, it accounts for statistics that depend on size (FID, precision, ...).

    The interval contains 95% of the draws. This is subsampling (Politis and Romano, 1994): unlike
    the bootstrap it never repeats an image, which would look like a copy. A mean over half of N
    images, drawn without replacement, varies around the mean over all N as much as that varies
    around the truth, so the interval needs no rescaling. If one set is larger than the other, or
    than 2 `largest`, the interval is too wide rather than too narrow. Images of the same patient
    or sequence are treated as independent, which makes interval and floor too small.

    Args:
        draws: number of draws.
        largest: largest n, to limit the time.
        seed: random seed. Draw r has the same real images for all generated sets of equal size.
    """

    def __init__(self, draws: int = 100, largest: int = 200, seed: int = 0) -> None:
        self.draws = draws
        self.largest = largest
        self.seed = seed

    def __call__(
        self, statistics: Statistics, generated: Tensor, real: Tensor
    ) -> dict[str, Sampled]:
        """Each statistic over the draws; no draws if a set has fewer than two images."""
        size = min(len(generated) // 2, len(real) // 2, self.largest)
        values: list[dict[str, float]] = []
        floor: list[dict[str, float]] = []
        for draw in range(self.draws if size else 0):
            order = np.random.default_rng([self.seed, draw]).permutation(len(real))
            other = np.random.default_rng([self.seed, draw, 1]).permutation(len(generated))
            first = real[order[:size]]
            values.append(statistics(generated[other[:size]], first))
            floor.append(statistics(real[order[-size:]], first))
        names = values[0] if values else statistics(generated, real)
        return {
            name: Sampled(size, *(np.array([d[name] for d in draws]) for draws in (values, floor)))
            for name in names
        }


def relative_reduction(aligned: Sampled, unaligned: Sampled) -> dict[str, float | None]:
    """Share of the distance above the floor that alignment removed.

    1 - (aligned - floor) / (unaligned - floor), each with the floor of its own size; the interval
    ignores the uncertainty of the floors. None if the unaligned set is not above its floor.
    """
    if not (aligned.size and unaligned.size):
        return estimate(np.empty(0))
    above = unaligned.values - unaligned.floor.mean()
    rest = aligned.values - aligned.floor.mean()
    if not above.mean() > 0:
        return estimate(np.empty(0))
    value = 1 - float(rest.mean() / above.mean())
    interval = estimate(1 - rest / above if (above > 0).all() else np.empty(0))
    return interval | {"value": finite(value)}


def estimate(values: NDArray[np.float64]) -> dict[str, float | None]:
    """Mean and 95% interval of draws; None without draws, or if a draw is undefined."""
    if not values.size or not np.isfinite(values).all():
        return {"value": None, "low": None, "high": None}
    low, high = np.percentile(values, [2.5, 97.5])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def finite(value: float) -> float | None:
    """The number, or None for NaN and infinity, which JSON cannot represent."""
    return float(value) if math.isfinite(value) else None
