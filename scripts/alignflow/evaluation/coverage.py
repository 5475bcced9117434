"""Fidelity and diversity by nearest neighbours: precision, recall, density, coverage."""

from __future__ import annotations

from math import nan

import torch
from torch import Tensor

NAMES = ("precision", "recall", "density", "coverage")


def neighbour_scores(generated: Tensor, real: Tensor, k: int) -> dict[str, float]:
    """How far two sets of points lie within each other's neighbourhoods.

    The neighbourhood of a point reaches to its k-th nearest other point of the same set.
    Precision: share of generated points within that of a real one; recall: the reverse
    (Kynkaanniemi et al., NeurIPS 2019, eq. 1 and 2). Density: real neighbourhoods that hold a
    generated point, over k, above 1 where those are dense; coverage: share of real neighbourhoods
    that hold a generated point (Naeem et al., ICML 2020, eq. 3 and 4). All depend on the sizes of
    the sets: compare them with those of two real sets.

    Args:
        generated, real: points (N, D) and (M, D).
        k: neighbour, the point itself not counted.

    Returns:
        The four by name; NaN where a set has no k other points.
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
