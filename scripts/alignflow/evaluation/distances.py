"""Distances between sets of feature vectors: KID, MMD, FID."""

from __future__ import annotations

from math import nan

import torch
from torch import Tensor

from alignflow.alignment.distance import Kernel, median_distance, mmd2, rbf


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """KID's kernel, (x.y / D + 1)^3 (Binkowski et al., ICLR 2018, sec. 3)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def median_kernel(real: Tensor) -> Kernel:
    """A Gaussian kernel whose bandwidth is the median distance between real images."""
    return rbf([median_distance(real)])


def unbiased(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    """The U-statistic of MMD^2, unbiased at any size. With `cubic` it is KID.

    Args:
        x, y: features (N, D) and (M, D); NaN if a set has fewer than two rows.
        kernel: kernel of features.
    """
    return float(mmd2(x, y, kernel)) if min(len(x), len(y)) > 1 else nan


def fid(x: Tensor, y: Tensor) -> float:
    """Frechet distance between Gaussians fitted to two sets (Heusel et al., 2017, eq. 6).

    It is biased upwards, more so for small sets, so compare it with real sets of equal size.

    The trace of (S_x S_y)^(1/2) is the sum of the singular values of A B^T / sqrt((N-1)(M-1)), with
    A and B the centred features, or equally their triangular factors. This is exact even for
    singular covariances, as for N <= D, and needs no matrix root.

    Args:
        x, y: features (N, D) and (M, D); NaN if a set has fewer than two rows.
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        return nan
    a, b = x - x.mean(dim=0), y - y.mean(dim=0)
    small = [torch.linalg.qr(one, mode="r").R for one in (a, b)]
    root = torch.linalg.svdvals(small[0] @ small[1].T).sum() / ((n - 1) * (m - 1)) ** 0.5
    variances = a.square().sum() / (n - 1) + b.square().sum() / (m - 1)
    means = (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    return float(means + variances - 2 * root)
