"""Generated masks against real ones, as statistics that `HalfSamples` can draw."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from alignflow.evaluation.mask_statistics import (
    COMPARED,
    class_distance,
    mask_statistics,
)
from alignflow.masks.class_index import Scheme


def mask_points(labels: Tensor, num_classes: int, scheme: Scheme) -> Tensor:
    """One row per mask: area, eccentricity, components and holes of each class.

    Args:
        labels: class indices (N, 1, X, Y).
        num_classes: K, background included.
        scheme: of the classes.

    Returns:
        (N, 4 * (K-1)) float64, NaN where a class is absent and has no eccentricity.
    """
    statistics = mask_statistics(labels, num_classes, scheme)
    return torch.as_tensor(np.hstack([getattr(statistics, name) for name in COMPARED]))


def mask_distances(generated: Tensor, real: Tensor) -> dict[str, float]:
    """Wasserstein-1 distance of each statistic, in its own unit, from two sets of `mask_points`.

    Keys are as those of `mask_statistics.compare`: "w1_area_class1", ...
    """
    classes = generated.shape[1] // len(COMPARED)
    names = [f"w1_{name}_class{j}" for name in COMPARED for j in range(1, classes + 1)]
    columns = zip(generated.numpy().T, real.numpy().T, strict=True)
    distances = [class_distance(one, two) for one, two in columns]
    return cast("dict[str, float]", dict(zip(names, distances, strict=True)))
