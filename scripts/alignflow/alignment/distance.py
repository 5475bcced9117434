"""Maximum mean discrepancy between sets of feature vectors: kernels, U-statistic, witness.

MMD^2(P, Q) = E k(x, x') - 2 E k(x, y) + E k(y, y') with x, x' ~ P and y, y' ~ Q (Gretton et al.,
JMLR 2012, Lemma 6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor], Tensor]
"""k(x, y): features (N, D) and (M, D) give the matrix (N, M)."""


def linear(x: Tensor, y: Tensor) -> Tensor:
    """x.y: MMD^2 is the squared distance of the means; also defined for a single reference."""
    return x @ y.T


def energy(x: Tensor, y: Tensor) -> Tensor:
    """-|x - y|: MMD^2 is the energy distance (Sejdinovic et al., Ann. Stat. 2013); no bandwidth."""
    return -torch.cdist(x, y)


def rbf(bandwidths: Sequence[float]) -> Kernel:
    """Mean over the bandwidths b of exp(-|x - y|^2 / (2 b^2))."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squared = torch.cdist(x, y).square()
        return torch.stack([torch.exp(-squared / (2 * b**2)) for b in bandwidths]).mean(dim=0)

    return kernel


def median_distance(x: Tensor) -> float:
    """Median distance between different rows of x (N, D), N >= 2: the usual unit of a bandwidth."""
    return float(torch.pdist(x).median())


def mmd2(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """U-statistic of MMD^2 (Gretton et al., eq. 3): unbiased, so it can be negative.

    Args:
        x, y: features (N, D) and (M, D); sizes may differ.
        kernel: k.

    Returns:
        Scalar, differentiable. A set of one sample has no pairs; k(y, y) is used instead, which is
        constant for a reference.
    """
    return _within(x, kernel) - 2 * kernel(x, y).mean() + _within(y, kernel)


def witness(x: Tensor, y: Tensor, kernel: Kernel, queue: Tensor | None = None) -> Tensor:
    """w(x_i) = E k(x_i, x') - E k(x_i, y): large where x is denser than y; (N,).

    The other x and the queue are constants here. Since k is symmetric, the gradient of 2 mean(w) is
    that of MMD^2 (Gretton et al., sec. 2.3); without a queue, exactly that of its U-statistic.

    Args:
        x: features (N, D) with a gradient.
        y: features of the references (M, D), M >= 1.
        kernel: k.
        queue: detached features (Q, D) of earlier samples of the same distribution as x.
    """
    others = x.detach() if queue is None else torch.cat([x.detach(), queue])
    if len(others) < 2:
        return -kernel(x, y).mean(dim=1)
    similarity = kernel(x, others)
    itself = torch.zeros_like(similarity, dtype=torch.bool).fill_diagonal_(True)
    repulsion = similarity.masked_fill(itself, 0).sum(dim=1) / (len(others) - 1)
    return repulsion - kernel(x, y).mean(dim=1)


def _within(x: Tensor, kernel: Kernel) -> Tensor:
    """Mean of k over pairs of different samples."""
    similarity = kernel(x, x)
    if len(x) < 2:
        return similarity.mean()
    return (similarity.sum() - similarity.diagonal().sum()) / (len(x) * (len(x) - 1))
