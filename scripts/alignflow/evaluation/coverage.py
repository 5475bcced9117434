"""Fidelity and diversity by nearest neighbours: precision, recall, density, coverage."""

from __future__ import annotations

from math import nan

import torch
from torch import Tensor

NAMES = ("precision", "recall", "density", "coverage")


def neighbour_scores(generated: Tensor, real: Tensor, k: int) -> dict[str, float]:
    """Precision, recall, density and coverage of a set of points.

    The neighbourhood of a point extends to its k-th nearest other point in the same set. Precision
    is the share of generated points in the neighbourhood of any real point, recall the reverse
    (Kynkaanniemi et al., NeurIPS 2019, eq. 1 and 2). Density counts the real neighbourhoods that
    contain each generated point, divided by k, and can exceed 1; coverage is the share of real
    neighbourhoods that contain a generated point (Naeem et al., ICML 2020, eq. 3 and 4). All depend
    on the sizes of the sets, so compare them with those of two real sets.

    Args:
        generated, real: points (N, D) and (M, D).
        k: which nearest neighbour, not counting the point itself.

    Returns:
        The four by name; NaN if a set has k points or fewer.
    """
    if min(len(generated), len(real)) <= k:
        return dict.fromkeys(NAMES, nan)
    between = torch.cdist(real, generated)
    in_real = between <= radii(real, k)[:, None]
    in_generated = between <= radii(generated, k)[None]
    return {
        "precision": float(in_real.any(dim=0).double().mean()),
        "recall": float(in_generated.any(dim=1).double().mean()),
        "density": float(in_real.sum() / (k * len(generated))),
        "coverage": float(in_real.any(dim=1).double().mean()),
    }


def radii(points: Tensor, k: int) -> Tensor:
    """Distance (N,) of each point (N, D) to its k-th nearest other point, k < N."""
    return torch.cdist(points, points).fill_diagonal_(torch.inf).kthvalue(k, dim=1).values
