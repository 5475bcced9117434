"""Cleans generated masks, and rejects those that do not resemble the training masks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_numpy
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from alignflow.errors import InputError
from alignflow.masks.class_index import Scheme, as_class_index, check_scheme
from alignflow.masks.shape import IntMask, Region, Shape, components, measure, regions

LEAST_SPREAD = {
    "log10_area": 0.05,
    "log10_axis_ratio": 0.02,
    "solidity": 0.02,
    "components": 0.0,
    "holes": 0.0,
}
"""The tested statistics of a class's `Shape`, each with the smallest standard deviation assumed for
it: training masks that are all alike must not reject a mask that differs by a few pixels. Areas and
axes are compared by ratios. Eccentricity is not used, since its values crowd just below 1."""

NATURAL_HOLE_SHARE = 0.05
"""A class has holes by nature if more than this share of its masks have one. Above 0, because of
stray pixels: 0.8% of Kvasir-SEG's and 1.7% of PolypGen's polyps have a hole, of ACDC's myocardia
98%."""

SIGMAS = 3.0
"""Ranges extend at least this many robust standard deviations from the median."""


@dataclass(frozen=True)
class ClassRule:
    """Rule for one class, or one level of nested classes, learned from the training masks.

    fill_holes: whether to fill background enclosed by the class.
    smallest: area below which a component is dropped, as a share of the image.
    ranges: lowest and highest accepted value of each statistic in `LEAST_SPREAD`; empty if no
        training mask has the class.
    """

    fill_holes: bool
    smallest: float
    ranges: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class MaskPostprocess:
    """Cleans masks and tests them by rules learned from the training masks.

    Cleaning drops components smaller than nearly all of those in the training set, then fills holes
    in classes that usually have none (background pixels only; another class inside is kept), then
    restricts each nested level to all lower levels. The largest component of a class always stays,
    so cleaning never empties a mask.

    A cleaned mask is rejected for a combination of classes that no training mask has (an empty mask
    is such a combination), or if area, axis ratio, solidity, components or holes are outside the
    training range. Ranges are quantiles, chosen so that at most `outlier` of the cleaned training
    masks fall outside any of them, and widened to the median +- 3 robust standard deviations, which
    matters for small training sets.
    """

    num_classes: int
    scheme: Scheme
    combinations: list[list[int]]
    rules: list[ClassRule]

    @classmethod
    def fit(
        cls,
        labels: Iterable[Any],
        num_classes: int,
        scheme: Scheme = "disjoint",
        smallest_percentile: float = 1.0,
        outlier: float = 0.02,
    ) -> MaskPostprocess:
        """Learn the rules from training masks.

        Args:
            labels: class indices 0..K-1; arrays (X, Y), or a tensor (N, 1, X, Y).
            num_classes: K, background included.
            scheme: "disjoint" or "nested", as in `alignflow.masks.distance`.
            smallest_percentile: components smaller than this percentile (0 to 100) of the areas
                of training components are dropped.
            outlier: largest share of the training masks that the ranges may reject, in [0, 1).

        Raises:
            InputError: without masks, or for masks or arguments outside these ranges.
        """
        check_scheme(scheme)
        _check_share("smallest_percentile", smallest_percentile / 100)
        _check_share("outlier", outlier)
        masks = [_as_mask(one, num_classes) for one in labels]
        if not masks:
            raise InputError("labels: no training mask; pass at least one")
        by_class = list(zip(*(regions(one, num_classes, scheme) for one in masks), strict=True))
        rules = [_cleaning_rule(one, smallest_percentile) for one in by_class]
        cleaner = cls(num_classes, scheme, [], rules)
        return cleaner._with_ranges([cleaner.clean(one) for one in masks], outlier)

    def __call__(self, label: IntMask) -> tuple[IntMask, str | None]:
        """The cleaned mask, and the reason to reject it or None.

        Args:
            label: class indices 0..K-1, integers (X, Y).

        Returns:
            The cleaned mask, of the same shape and type, and one line of text or None.

        Raises:
            InputError: for a wrong number of dimensions or values outside 0..K-1.
        """
        clean = self.clean(label)
        return clean, self.reason_to_reject(clean)

    def clean(self, label: IntMask) -> IntMask:
        """The mask (X, Y) without small components and unnatural holes; levels stay nested."""
        mask = _as_mask(label, self.num_classes)
        found = regions(mask, self.num_classes, self.scheme)
        kept = [
            _drop_small(one, rule.smallest) for one, rule in zip(found, self.rules, strict=True)
        ]
        if self.scheme == "nested":
            filled = [
                binary_fill_holes(one) if rule.fill_holes else one
                for one, rule in zip(kept, self.rules, strict=True)
            ]
            return np.sum(list(accumulate(filled, np.logical_and)), axis=0).astype(label.dtype)
        result = mask * np.any(kept, axis=0)
        for j, rule in enumerate(self.rules, start=1):
            if rule.fill_holes:
                result[binary_fill_holes(result == j) & (result == 0)] = j
        return result.astype(label.dtype)

    def reason_to_reject(self, label: IntMask) -> str | None:
        """Why a cleaned mask (X, Y) does not resemble the training masks; None if it does."""
        present = self._combination(label)
        if present not in self.combinations:
            if not present:
                return "mask is empty; no training mask is empty"
            return f"only classes {present} are present; no training mask has this combination"
        for j, (shape, rule) in enumerate(zip(self._shapes(label), self.rules, strict=True), 1):
            for name, value in _values(shape).items() if shape else ():
                low, high = rule.ranges[name]
                if not low <= value <= high:
                    usual = _text(name, low, high)
                    return f"class {j}: {_text(name, value)}, training masks have {usual}"
        return None

    def to_dict(self) -> dict[str, Any]:
        """The rules as JSON-compatible lists, numbers and texts."""
        return asdict(self)

    @classmethod
    def from_dict(cls, rules: dict[str, Any]) -> MaskPostprocess:
        """The inverse of `to_dict`; raises `InputError` for a dict that `to_dict` did not write."""
        try:
            classes = [
                ClassRule(
                    bool(one["fill_holes"]),
                    float(one["smallest"]),
                    {
                        name: (float(low), float(high))
                        for name, (low, high) in one["ranges"].items()
                    },
                )
                for one in rules["rules"]
            ]
            combinations = [[int(j) for j in one] for one in rules["combinations"]]
            result = cls(int(rules["num_classes"]), rules["scheme"], combinations, classes)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"mask post-processing rules: {error!r}; write them with MaskPostprocess.to_dict"
            ) from error
        check_scheme(result.scheme)
        complete = all(set(one.ranges) in (set(), set(LEAST_SPREAD)) for one in classes)
        if len(classes) != result.num_classes - 1 or not complete:
            raise InputError(
                f"mask post-processing rules: do not describe {result.num_classes - 1} classes by "
                f"{', '.join(LEAST_SPREAD)}; write them with MaskPostprocess.to_dict"
            )
        return result

    def _shapes(self, label: IntMask) -> list[Shape | None]:
        return [measure(one) for one in regions(label, self.num_classes, self.scheme)]

    def _combination(self, label: IntMask) -> list[int]:
        """Classes, or levels, that the mask has, ascending."""
        found = regions(label, self.num_classes, self.scheme)
        return [j for j, one in enumerate(found, start=1) if one.any()]

    def _with_ranges(self, masks: list[IntMask], outlier: float) -> MaskPostprocess:
        """A copy with the combinations and ranges of cleaned training masks."""
        seen = sorted({tuple(self._combination(one)) for one in masks})
        shapes = [self._shapes(one) for one in masks]
        absent = dict.fromkeys(LEAST_SPREAD, np.nan)
        table = np.array(
            [[list((_values(s) if s else absent).values()) for s in one] for one in shapes]
        )
        tails = _tail_shares(table)
        # The masks with the smallest tail shares fall outside, as many as `outlier` allows.
        extremity = np.sort(np.min(tails, axis=(1, 2), initial=np.inf, where=~np.isnan(tails)))
        least_tail = extremity[int(outlier * len(masks))]
        rules = [
            replace(rule, ranges=_ranges(table[:, j], tails[:, j], least_tail))
            for j, rule in enumerate(self.rules)
        ]
        return replace(self, combinations=[list(one) for one in seen], rules=rules)


def _check_share(name: str, share: float) -> None:
    if not 0 <= share < 1:
        raise InputError(f"{name}: a share of {share}; it must be 0 or more and below 1")


def _as_mask(label: Any, num_classes: int) -> IntMask:
    """A checked int64 mask (X, Y), from (X, Y) or (1, X, Y)."""
    index = as_class_index(torch.as_tensor(convert_to_numpy(label)), num_classes).numpy()
    mask = index[0] if index.ndim == 3 and len(index) == 1 else index
    if mask.ndim != 2:
        raise InputError(f"label: shape {index.shape}; pass one two-dimensional mask, (X, Y)")
    return mask


def _cleaning_rule(found: tuple[Region, ...], smallest_percentile: float) -> ClassRule:
    """How to clean one class, from its regions in the training masks."""
    shapes = [shape for one in found if (shape := measure(one))]
    if not shapes:
        return ClassRule(fill_holes=True, smallest=0.0, ranges={})
    areas = np.concatenate([_component_areas(components(one)[0]) / one.size for one in found])
    return ClassRule(
        fill_holes=float(np.mean([one.holes > 0 for one in shapes])) <= NATURAL_HOLE_SHARE,
        smallest=float(np.percentile(areas, smallest_percentile)),
        ranges={},
    )


def _component_areas(parts: IntMask) -> NDArray[np.int64]:
    """Pixels of components 1, 2, ... of a numbered region."""
    return np.bincount(parts.ravel())[1:]


def _drop_small(region: Region, smallest: float) -> Region:
    """The region's components of at least `smallest` of the image, and its largest component."""
    if not region.any():
        return region
    parts, _ = components(region)
    areas = _component_areas(parts)
    keep = (areas / region.size >= smallest) | (areas == areas.max())
    return np.concatenate([[False], keep])[parts]


def _values(shape: Shape) -> dict[str, float]:
    """The tested statistics of a shape, in the order of `LEAST_SPREAD`."""
    # A line one pixel wide has no minor axis; the logarithm must stay finite.
    axis_ratio = max(np.sqrt(1 - shape.eccentricity**2), 1e-3)
    return {
        "log10_area": float(np.log10(shape.area)),
        "log10_axis_ratio": float(np.log10(axis_ratio)),
        "solidity": shape.solidity,
        "components": shape.components,
        "holes": shape.holes,
    }


def _tail_shares(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of values in the column that are at least as extreme; NaN is ignored."""
    tails = np.full_like(table, np.nan)
    for column in np.ndindex(table.shape[1:]):
        values = table[(slice(None), *column)]
        known = np.sort(values[~np.isnan(values)])
        below = np.searchsorted(known, values, side="right")
        above = len(known) - np.searchsorted(known, values, side="left")
        share = np.minimum(below, above) / max(len(known), 1)
        tails[(slice(None), *column)] = np.where(np.isnan(values), np.nan, share)
    return tails


def _ranges(
    values: NDArray[np.float64], tails: NDArray[np.float64], least_tail: float
) -> dict[str, tuple[float, float]]:
    """Accepted range of each statistic of one class, from (N, statistics); empty if absent."""
    present = ~np.isnan(values[:, 0])
    if not present.any():
        return {}
    ranges = {}
    for name, column, tail in zip(LEAST_SPREAD, values[present].T, tails[present].T, strict=True):
        inner = column[tail >= least_tail]
        below, median, above = np.percentile(column, [15.87, 50, 84.13])
        # Each side has its own deviation, since areas and solidities are skewed.
        down = SIGMAS * max(median - below, LEAST_SPREAD[name])
        up = SIGMAS * max(above - median, LEAST_SPREAD[name])
        low = np.min(inner, initial=median - down)
        high = np.max(inner, initial=median + up)
        ranges[name] = (float(low), float(high))
    return ranges


def _text(name: str, *values: float) -> str:
    """A statistic and its value or range, as shown in a report."""
    if name.startswith("log10_"):
        name, values = name.removeprefix("log10_"), tuple(10**value for value in values)
    if name not in ("components", "holes"):
        values = tuple(min(value, 1.0) for value in values)
    return f"{name.replace('_', ' ')} {' to '.join(f'{value:.3g}' for value in values)}"
