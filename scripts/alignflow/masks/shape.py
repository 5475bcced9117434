"""Five numbers that describe the shape of a region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import euler_number, label, regionprops

from alignflow.masks.class_index import Scheme

IntMask = NDArray[np.integer[Any]]
Region = NDArray[np.bool_]


@dataclass(frozen=True)
class Shape:
    """Size, form and topology of a region.

    area: share of the image's pixels, in (0, 1].
    eccentricity: eccentricity of the largest component (by second moments); 0 circle, 1 line.
    solidity: area of the largest component over that of its convex hull, in (0, 1].
    components: number of 8-connected components; the Betti number b0.
    holes: number of 4-connected parts of the complement inside the image's edge; b1.
    """

    area: float
    eccentricity: float
    solidity: float
    components: int
    holes: int


def measure(region: Region) -> Shape | None:
    """Shape of a boolean region (X, Y), or None if it is empty."""
    if not region.any():
        return None
    parts, count = components(region)
    largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    form = regionprops(largest.astype(np.uint8))[0]
    return Shape(
        area=float(region.mean()),
        eccentricity=float(form.eccentricity),
        solidity=float(form.solidity),
        components=count,
        # The Euler number is b0 - b1 under the same connectivity.
        holes=count - int(euler_number(region, connectivity=2)),
    )


def components(region: Region) -> tuple[IntMask, int]:
    """8-connected components of a region (X, Y), numbered from 1, and their count."""
    parts, count = label(region, connectivity=2, return_num=True)
    return parts, int(count)


def regions(mask: IntMask, num_classes: int, scheme: Scheme) -> list[Region]:
    """Regions of classes 1..K-1 of a mask (X, Y): {mask == j}, or {mask >= j} if "nested"."""
    classes = range(1, num_classes)
    return [mask == j if scheme == "disjoint" else mask >= j for j in classes]
