"""Are generated images copies of known ones, and do they lie nearer to them than real ones do?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from alignflow.evaluation.faithfulness import bootstrap_interval
from alignflow.evaluation.subsampling import finite

Table = NDArray[np.float64]
SIDE = 24
ROUNDING = 1e-4  # of 8-bit values
NEAR = 0.02
"""Copies differ by less than this share of what two images usually differ by."""


def exact_copies(images: Tensor, known: Tensor) -> Tensor:
    """Index (N,) of the known image that each image is a copy of, -1 for none.

    A copy may be mirrored, resized or saved with losses. Images are compared whole, `SIDE` pixels
    wide, by 1 - r of their values: a copy has less than `NEAR` times the median over all pairs, so
    that what all images share (a black frame, the fundus of an eye) makes none a copy. This needs
    no real images to compare with.

    Args:
        images, known: (N, C, X, Y) and (M, C, X, Y), M >= 1.
    """
    units = _whole(known)
    apart = torch.full((len(images), len(known)), torch.inf)
    for axes in ((), (2,), (3,), (2, 3)):
        apart = torch.minimum(apart, 1 - _whole(images.flip(axes)) @ units.T)
    smallest, index = apart.min(dim=1)
    return torch.where(smallest <= max(ROUNDING, NEAR * float(apart.median())), index, -1)


def _whole(images: Tensor) -> Tensor:
    """(N, D) of mean 0 and length 1, far shorter for images without content."""
    small = interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True).flatten(1)
    centred = small - small.mean(dim=1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-3 * small.shape[1] ** 0.5)


def pixels(images: Tensor) -> Tensor:
    """Points (N, C*X*Y) whose Euclidean distance is the root mean square difference of images."""
    flat = images.flatten(1)
    return flat / flat.shape[1] ** 0.5


def nearest(points: Tensor, known: Tensor, leave_one_out: bool = False) -> tuple[Table, Tensor]:
    """Distance (N,) of each point to the nearest known point, and its index (N,).

    Args:
        points, known: (N, D) and (M, D), M >= 1.
        leave_one_out: both are the same set; a point is not compared with itself. M >= 2.
    """
    between = torch.cdist(points, known)
    if leave_one_out:
        between.fill_diagonal_(torch.inf)
    index = between.argmin(dim=1)
    # `cdist` uses matrix products, which would not give exactly 0 for a copy.
    return (points - known[index]).norm(dim=1).double().numpy(), index


def audit(generated: Table, real: Table) -> dict[str, Any]:
    """Compares nearest distances of generated images with those of real images.

    Args:
        generated: (N,) distances to the nearest known image.
        real: (M,) the same for real images that are not among the known images.

    Returns:
        "ratio" of the medians with its 95% bootstrap interval over images, below 1 if generated
        images are nearer; "share_below_5%", the share of generated images nearer than 95% of real
        images (expected: 0.05); the medians and smallest distances. None if undefined.
    """
    result: dict[str, Any] = {
        "median": finite(_median(generated)),
        "median_real": finite(_median(real)),
        "smallest": finite(generated.min(initial=np.inf)),
        "smallest_real": finite(real.min(initial=np.inf)),
        "ratio": {"value": None, "low": None, "high": None},
        "share_below_5%": None,
    }
    if not (len(generated) and len(real)) or not np.median(real) > 0:
        return result
    result["ratio"]["value"] = _ratio(generated, real)
    result["share_below_5%"] = float((generated < np.quantile(real, 0.05)).mean())
    if min(len(generated), len(real)) > 1:
        low, high = bootstrap_interval([generated, real], _ratio)
        result["ratio"] |= {"low": finite(low), "high": finite(high)}
    return result


def _median(values: Table) -> float:
    return float(np.median(values)) if len(values) else np.nan


def _ratio(generated: Table, real: Table) -> float:
    middle = float(np.median(real))
    return float(np.median(generated)) / middle if middle > 0 else np.nan
