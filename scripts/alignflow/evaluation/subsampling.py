"""Estimates with an interval and with what real images reach against each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Statistics = Callable[[Tensor, Tensor], dict[str, float]]
"""Of generated (N, D) and real (M, D): named numbers, NaN where undefined."""


@dataclass(frozen=True)
class Sampled:
    """One statistic over all draws.

    Attributes:
        size: n, images of either side in a draw.
        values: (draws,) of n generated against n real images.
        floor: (draws,) of n real images against n other real ones.
    """

    size: int
    values: NDArray[np.float64]
    floor: NDArray[np.float64]

    def record(self) -> dict[str, Any]:
        """For JSON: {"value", "low", "high", "n", "floor": {"value", "low", "high"}}."""
        return estimate(self.values) | {"n": self.size, "floor": estimate(self.floor)}


class Subsampling:
    """A statistic of two sets on random halves of them.

    Each draw takes n generated images, n real ones (A) and n other real ones (B), without
    replacement; n is half of the smaller set. The statistic of generated against A is the value,
    of B against A the floor: the same statistic at the same size where nothing differs, which
    takes account of statistics that depend on the size (FID, precision, ...).

    The interval is that of the draws (2.5 and 97.5%). This is subsampling (Politis and Romano,
    1994): unlike resampling with replacement it repeats no image, which would count as a copy. A
    mean over half of N images, drawn without replacement, varies about that over all N as that
    over all N does about the truth, so the interval needs no rescaling; where one set is larger
    than the other, or larger than 2 `largest`, it is too wide rather than too narrow. Images of
    one patient or sequence are treated as independent, which makes interval and floor too small.

    Args:
        draws: number of draws.
        largest: most images of either side in a draw; bounds the time.
        seed: of the draws. Draw r takes the same real images for every generated set of one size.
    """

    def __init__(self, draws: int = 100, largest: int = 200, seed: int = 0) -> None:
        self.draws = draws
        self.largest = largest
        self.seed = seed

    def __call__(
        self, statistics: Statistics, generated: Tensor, real: Tensor
    ) -> dict[str, Sampled]:
        """Each statistic over the draws; no draws where a set has fewer than two images."""
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
    takes the floors as known. Undefined (None) where the unaligned set lies at its floor.
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
    """Mean and 95% interval of draws; None where there are none, or one is undefined."""
    if not values.size or not np.isfinite(values).all():
        return {"value": None, "low": None, "high": None}
    low, high = np.percentile(values, [2.5, 97.5])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def finite(value: float) -> float | None:
    """The number, None where it is NaN or infinite: JSON has no such values."""
    return float(value) if math.isfinite(value) else None
