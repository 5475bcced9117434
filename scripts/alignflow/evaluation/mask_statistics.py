"""How alike two sets of masks are: shape, topology, coverage and copying."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance
from torch import Tensor

from alignflow.errors import InputError
from alignflow.masks.class_index import Scheme, as_class_index, check_scheme
from alignflow.masks.conditions import describe
from alignflow.masks.shape import measure, regions

Table = NDArray[np.float64]


@dataclass(frozen=True)
class MaskStatistics:
    """Shape of each class of each mask, every field (N, K-1); see `alignflow.masks.shape.Shape`.

    area: share of the image, 0 for an absent class.
    eccentricity, solidity: of the largest component, NaN for an absent class.
    components, holes: Betti numbers b0 (8-connected foreground) and b1 (4-connected background),
        0 for an absent class.
    """

    area: Table
    eccentricity: Table
    solidity: Table
    components: Table
    holes: Table


COMPARED = ("area", "eccentricity", "components", "holes")
"""Statistics whose distributions `compare` sets side by side."""


def mask_statistics(
    labels: Tensor, num_classes: int, scheme: Scheme = "disjoint"
) -> MaskStatistics:
    """Statistics of each mask and class.

    Args:
        labels: class indices 0..K-1, shape (N, 1, X, Y).
        num_classes: K, background included.
        scheme: "disjoint", class j is {label == j}; "nested", class j is {label >= j}.

    Raises:
        InputError: for labels of another shape or other values, or an unknown scheme.
    """
    check_scheme(scheme)
    masks = _as_masks("labels", labels, num_classes)[:, 0].cpu().numpy()
    shapes = [[measure(one) for one in regions(mask, num_classes, scheme)] for mask in masks]

    def column(name: str) -> Table:
        absent = np.nan if name in ("eccentricity", "solidity") else 0.0
        return np.array([[getattr(s, name) if s else absent for s in one] for one in shapes])

    return MaskStatistics(**{field.name: column(field.name) for field in fields(MaskStatistics)})


def wasserstein1(a: ArrayLike, b: ArrayLike) -> float:
    """Wasserstein-1 distance of two samples of numbers, in their own unit.

    Raises:
        InputError: for an empty sample or values that are not finite.
    """
    first, second = np.ravel(a), np.ravel(b)
    if not (first.size and second.size and np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("wasserstein1: a sample is empty or not finite; pass two sets of numbers")
    return float(wasserstein_distance(first, second))


def coverage(fake: Table, real: Table, k: int = 5) -> float:
    """Share of the real points that have a fake one within their k-th nearest real neighbour.

    Naeem et al. 2020 (arXiv 2002.09797), eq. 9. Unlike recall it cannot be raised by scattering
    the fake points. Equal laws of n real and m fake points have the expectation
    1 - (n-1)...(n-k) / ((n+m-1)...(n+m-k)).

    Args:
        fake: points (M, D), such as `statistics_space` of the generated masks.
        real: points (N, D) with N > k; their mean and deviation standardise both sets.
        k: neighbour, not counting the point itself.

    Returns:
        Share in [0, 1].

    Raises:
        InputError: for too few points or unequal dimensions.
    """
    if not 0 < k < len(real) or len(fake) == 0:
        raise InputError(
            f"coverage: k={k} with {len(real)} real and {len(fake)} fake masks; it needs more than "
            "k real masks and a fake one"
        )
    if fake.shape[1] != real.shape[1]:
        raise InputError(
            f"coverage: fake has {fake.shape[1]} dimensions, but real has {real.shape[1]}"
            "; compute both in one statistics space"
        )
    spread = real.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    real, fake = real / scale, fake / scale
    # Index 0 of a sorted row is the distance of the point to itself.
    radius = np.sort(cdist(real, real), axis=1)[:, k]
    return float((cdist(real, fake).min(axis=1) <= radius).mean())


def statistics_space(labels: Tensor, num_classes: int, scheme: Scheme = "disjoint") -> Table:
    """Points (N, 7*(K-1)): presence, log-area, centroid (`describe`), eccentricity, solidity, b0.

    Eccentricity and solidity of an absent class are 0. Arguments as in `mask_statistics`.
    """
    statistics = mask_statistics(labels, num_classes, scheme)
    levels = [
        (labels == j) if scheme == "disjoint" else (labels >= j) for j in range(1, num_classes)
    ]
    described = [describe(one.to(torch.uint8), 2).cpu().double().numpy() for one in levels]
    form = [statistics.eccentricity, statistics.solidity, statistics.components]
    return np.hstack([*described, *(np.nan_to_num(one) for one in form)])


def nearest_dice(
    masks: Tensor,
    references: Tensor,
    num_classes: int,
    scheme: Scheme = "disjoint",
    chunk: int = 256,
) -> Table:
    """Highest Dice of each mask with any reference: 1 for a copy.

    The Dice of a pair is the mean over the classes that either has, 1 if both are empty.

    Args:
        masks: class indices 0..K-1, shape (N, 1, X, Y).
        references: class indices (M, 1, X, Y), of the same size.
        num_classes: K, background included.
        scheme: as in `mask_statistics`.
        chunk: masks and references compared at once; bounds memory.

    Returns:
        (N,) in [0, 1].

    Raises:
        InputError: for empty or unequal sets, or bad labels.
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


def compare(
    fake: Tensor,
    train: Tensor,
    held_out: Tensor,
    num_classes: int,
    scheme: Scheme = "disjoint",
    k: int = 5,
) -> dict[str, float]:
    """Generated masks against training masks and against real masks kept out of training.

    Args:
        fake, train, held_out: class indices 0..K-1, shapes (N, 1, X, Y), of one size; more than k
            held-out masks.
        num_classes: K, background included.
        scheme: as in `mask_statistics`.
        k: neighbour of `coverage`.

    Returns:
        Finite floats. `w1_<statistic>_class<j>` is the Wasserstein-1 distance of fake to held-out
        masks for area (share of the image), eccentricity (masks with the class only), components
        (b0) and holes (b1). `coverage` is of the held-out masks. `nearest_dice_mean` and
        `nearest_dice_max` are of the fake with the training masks. Each has a `_floor`, the same
        number for real masks: training in place of fake for the distances and coverage, held-out
        in place of fake for the nearest Dice; coverage grows with the number of masks, so give as
        many fake as training ones. Where only one set has a class, the distance of its
        eccentricities is 1, their whole range.

    Raises:
        InputError: for sets that are empty, too small, of unequal sizes, or have bad labels.
    """
    fakes, trained, held = (
        mask_statistics(s, num_classes, scheme) for s in (fake, train, held_out)
    )
    result: dict[str, float] = {}
    for name in COMPARED:
        one, two, three = (getattr(statistics, name) for statistics in (fakes, trained, held))
        for j in range(1, num_classes):
            key = f"w1_{name}_class{j}"
            result[key] = class_distance(one[:, j - 1], three[:, j - 1])
            result[f"{key}_floor"] = class_distance(two[:, j - 1], three[:, j - 1])
    points = [statistics_space(s, num_classes, scheme) for s in (fake, train, held_out)]
    result["coverage"] = coverage(points[0], points[2], k)
    result["coverage_floor"] = coverage(points[1], points[2], k)
    for suffix, masks in (("", fake), ("_floor", held_out)):
        dice = nearest_dice(masks, train, num_classes, scheme)
        result[f"nearest_dice_mean{suffix}"] = float(dice.mean())
        result[f"nearest_dice_max{suffix}"] = float(dice.max())
    return result


def _as_masks(name: str, labels: Tensor, num_classes: int) -> Tensor:
    if labels.ndim != 4 or labels.shape[1] != 1 or len(labels) == 0:
        raise InputError(
            f"{name}: shape {tuple(labels.shape)}; pass one or more masks, (N, 1, X, Y)"
        )
    return as_class_index(labels, num_classes)


def _pairwise_dice(masks: Tensor, references: Tensor, num_classes: int, scheme: Scheme) -> Tensor:
    """Dice (N, M) of each pair, mean over the classes that either has."""
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


def class_distance(a: Table, b: Table) -> float:
    """Wasserstein-1 of the known values; 1 where only one side has any, 0 where neither has."""
    first, second = a[~np.isnan(a)], b[~np.isnan(b)]
    if not (first.size and second.size):
        return float(first.size != second.size)
    return wasserstein1(first, second)
