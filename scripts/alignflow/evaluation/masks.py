"""Compares generated masks with real masks: distances of statistics, and the nearest mask."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance
from torch import Tensor

from alignflow.errors import InputError
from alignflow.masks.class_index import Scheme, as_class_index, check_scheme
from alignflow.masks.shape import measure, regions

Table = NDArray[np.float64]
ABSENT = {"area": 0.0, "eccentricity": np.nan, "components": 0.0, "holes": 0.0}
"""Statistics of `alignflow.masks.shape.Shape`, and their values for an absent class."""


def mask_points(labels: Tensor, num_classes: int, scheme: Scheme = "disjoint") -> Tensor:
    """One row per mask: area, eccentricity, components and holes of each class.

    Args:
        labels: class indices (N, 1, X, Y).
        num_classes: K, background included.
        scheme: "disjoint", class j is {label == j}; "nested", class j is {label >= j}.

    Returns:
        (N, 4 * (K-1)) float64, the classes of each statistic side by side; NaN for the eccentricity
        of an absent class.

    Raises:
        InputError: for labels of wrong shape or with wrong values, or an unknown scheme.
    """
    check_scheme(scheme)
    masks = _as_masks("labels", labels, num_classes)[:, 0].cpu().numpy()
    shapes = [[measure(one) for one in regions(mask, num_classes, scheme)] for mask in masks]
    rows = [
        [getattr(s, name) if s else absent for name, absent in ABSENT.items() for s in one]
        for one in shapes
    ]
    return torch.tensor(rows, dtype=torch.float64)


def mask_distances(generated: Tensor, real: Tensor) -> dict[str, float]:
    """Wasserstein-1 distance of each statistic of two results of `mask_points`.

    Returns:
        {"w1_area_class1": distance, ...}, in the statistic's unit. For eccentricity only masks with
        the class count; the distance is 1, the whole range, if only one set has the class, and 0 if
        neither has.
    """
    classes = generated.shape[1] // len(ABSENT)
    names = [f"w1_{name}_class{j}" for name in ABSENT for j in range(1, classes + 1)]
    columns = zip(generated.numpy().T, real.numpy().T, strict=True)
    return {name: _distance(*column) for name, column in zip(names, columns, strict=True)}


def nearest_dice(
    masks: Tensor,
    references: Tensor,
    num_classes: int,
    scheme: Scheme = "disjoint",
    chunk: int = 256,
) -> Table:
    """Highest Dice of each mask with any reference; 1 for a copy.

    The Dice of a pair is the mean over the classes in either mask, and 1 if both are empty.

    Args:
        masks: class indices 0..K-1, shape (N, 1, X, Y).
        references: class indices (M, 1, X, Y), of the same size.
        num_classes: K, background included.
        scheme: as in `mask_points`.
        chunk: masks and references to compare at once, to limit memory.

    Returns:
        (N,) in [0, 1].

    Raises:
        InputError: for empty sets, different sizes or bad labels.
    """
    check_scheme(scheme)
    masks = _as_masks("masks", masks, num_classes)
    references = _as_masks("references", references, num_classes)
    if masks.shape[2:] != references.shape[2:]:
        raise InputError(
            f"masks: size {tuple(masks.shape[2:])}, but references are "
            f"{tuple(references.shape[2:])}; resample one set with nearest neighbour"
        )
    best = [
        torch.stack(
            [
                _pairwise_dice(one, two, num_classes, scheme).amax(dim=1)
                for two in references.split(chunk)
            ]
        ).amax(dim=0)
        for one in masks.split(chunk)
    ]
    return torch.cat(best).cpu().double().numpy()


def _as_masks(name: str, labels: Tensor, num_classes: int) -> Tensor:
    if labels.ndim != 4 or labels.shape[1] != 1 or len(labels) == 0:
        raise InputError(
            f"{name}: shape {tuple(labels.shape)}; pass one or more masks, (N, 1, X, Y)"
        )
    return as_class_index(labels, num_classes)


def _pairwise_dice(masks: Tensor, references: Tensor, num_classes: int, scheme: Scheme) -> Tensor:
    """Dice (N, M) of each pair, averaged over the classes in either mask."""
    total = torch.zeros(len(masks), len(references), device=masks.device)
    classes = torch.zeros_like(total)
    for j in range(1, num_classes):
        one, two = (
            ((s == j) if scheme == "disjoint" else (s >= j)).flatten(1).float()
            for s in (masks, references)
        )
        size = one.sum(1)[:, None] + two.sum(1)[None]
        total += 2 * (one @ two.T) / size.clamp(min=1)
        classes += size > 0
    return torch.where(classes > 0, total / classes.clamp(min=1), 1.0)


def _distance(a: Table, b: Table) -> float:
    first, second = a[~np.isnan(a)], b[~np.isnan(b)]
    if not (first.size and second.size):
        return float(first.size != second.size)
    return float(wasserstein_distance(first, second))
