"""Spread: do generated images vary as much as real images?"""

from __future__ import annotations

from math import nan

import torch
from torch import Tensor


def spread_ratios(generated: Tensor, real: Tensor) -> dict[str, float]:
    """Spread of generated features over that of real features: 1 if equal.

    Args:
        generated, real: features (N, D) and (M, D).

    Returns:
        "spread": ratio of the mean distances between images; "variance": ratio of the total
        variances (traces of the covariances). Neither depends on the sizes of the sets. NaN if a
        set has fewer than two images, or the real images are identical.
    """
    if min(len(generated), len(real)) < 2:
        return {"spread": nan, "variance": nan}
    distances = [float(torch.pdist(x).mean()) for x in (generated, real)]
    variances = [float(x.var(dim=0).sum()) for x in (generated, real)]
    return {
        "spread": distances[0] / distances[1] if distances[1] > 0 else nan,
        "variance": variances[0] / variances[1] if variances[1] > 0 else nan,
    }
