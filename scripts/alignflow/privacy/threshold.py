"""Which distance is too near: what held-out real images allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Table = NDArray[np.float64]
ROUNDING = 1e-9  # of sums of weights


@dataclass(frozen=True)
class Copies:
    """Pairs against one set of known images.

    Attributes:
        distance: (N,) of `similarity.distances` to the nearest known image.
        relative: (N,) the same over the distance to the images next to it.
        nearest: (N,) index of that image.
        real: (M,) relative distances of real images that are not copies.
        groups: (M,) their patients.
        calibrated_on: what these real images are.
        threshold: relative distance below which a pair is too near; None if it cannot be told.
    """

    distance: Table
    relative: Table
    nearest: Table
    real: Table
    groups: list[str]
    calibrated_on: str
    threshold: float | None

    @property
    def too_near(self) -> np.ndarray:
        """(N,) bool."""
        if self.threshold is None:
            return np.zeros(len(self.relative), dtype=bool)
        return self.relative < self.threshold


def relative_distance(known: Tensor, others: Tensor | None, neighbours: int) -> tuple[Table, Table]:
    """Distance to the nearest known image, over the mean distance to the images next to it.

    Noise and crops lengthen all distances of a copy alike, and a smooth image is near to many: only
    a copy is much nearer to one image than to the next ones (Carlini et al., arXiv 2301.13188,
    section 4.2, who divide by the mean of the 50 nearest).

    Args:
        known: (N, M) distances to the images that may have been copied, M >= 1.
        others: (N, L) distances to further real images, or None.
        neighbours: how many images the nearest is compared with; fewer where there are fewer, and
            without any the distance itself is returned.

    Returns:
        The relative distance (N,), and the index (N,) of the nearest known image.
    """
    nearest, index = known.min(dim=1)
    rest = known.scatter(1, index[:, None], torch.inf)
    if others is not None:
        rest = torch.cat([rest, others], dim=1)
    count = min(neighbours, rest.shape[1] - 1)
    if count < 1:
        return nearest.double().numpy(), index.numpy()
    around = rest.topk(count, dim=1, largest=False).values.mean(dim=1)
    # Of several exact copies the next one is at 0 as well.
    return (nearest / around.clamp(min=1e-9)).double().numpy(), index.numpy()


def conformal_threshold(
    real: Table, groups: Sequence[Hashable], false_alarms: float
) -> float | None:
    """The largest threshold below which a new real image falls with at most a given probability.

    Split conformal prediction: of n held-out images and a new one each is as likely as any other to
    be the k-th nearest, so the k-th smallest distance with k <= false_alarms (n + 1) will do. With
    K groups image i of group g weighs 1 / (K + 1) / (size of g), and the new image is one of a new
    group, which weighs 1 / (K + 1) and may lie anywhere below (Lee, Barber and Willett, arXiv
    2306.06342, section 3). For groups of one image both are the same.

    Args:
        real: (n,) relative distances of held-out real images to the known ones.
        groups: (n,) patient or sequence of each.
        false_alarms: probability that a real image, no copy, lies below: 0 to 1.

    Returns:
        The threshold; what lies below it is too near. None where there are too few groups: at
        least 1 / false_alarms - 1 are needed.
    """
    weights, new = _weights(groups)
    order = np.argsort(real)
    below = np.cumsum(weights[order]) - weights[order]
    allowed = np.flatnonzero(below + new <= false_alarms + ROUNDING)
    return float(real[order][allowed[-1]]) if len(allowed) else None


def conformal_p(distances: Table, real: Table, groups: Sequence[Hashable]) -> Table:
    """Share of held-out real images as near as each distance, counting itself: (N,) in (0, 1].

    With the weights of `conformal_threshold`; a small value says that real images lie further.
    """
    weights, new = _weights(groups)
    order = np.argsort(real)
    mass = np.concatenate([[0.0], np.cumsum(weights[order])])
    return mass[np.searchsorted(real[order], distances, side="right")] + new


def _weights(groups: Sequence[Hashable]) -> tuple[Table, float]:
    """Weight of each image, and of an image of a new group; they add up to 1."""
    sizes = Counter(groups)
    new = 1 / (len(sizes) + 1)
    return np.array([new / sizes[group] for group in groups]), new
