"""The gain of a segmenter over another on the same images, and how many images show a gain."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alignflow.data.datalist import build_datalist
from alignflow.data.folders import short_names
from alignflow.errors import InputError

Answer = Literal["better", "worse", "unclear", "unknown"]
Array = NDArray[np.float64]
RESAMPLES = 4000
NORMAL = 1.96 + 0.84
"""Normal quantiles for a 95% interval and a power of 80%."""

FEWEST = 10
"""Smallest number of images for which the normal approximation makes sense."""


def paired_gain(
    ours: Array, other: Array, groups: Sequence[str] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Mean difference of scores with its bootstrap interval (percentile, Efron 1979).

    Trainings (rows) and images, or whole groups of images, are resampled, identically for both
    sides. With one training the interval covers images only, not the variation between trainings.

    Args:
        ours, other: scores (trainings, images) of the same images; images with NaN in either are
            excluded.
        groups: patient or sequence of each image; None if each image is its own group.
        seed: random seed of the draws.

    Returns:
        {"value", "low", "high", "spread": standard deviation over images, "above_0": share of the
        draws above 0, "images", "groups", "trainings"}, in units of the scores. With fewer than two
        groups low, high, spread and above_0 are None.
    """
    counted = np.asarray(np.isfinite(ours - other).all(axis=0))
    gain = (ours - other)[:, counted]
    names = np.arange(len(counted)) if groups is None else np.array(groups)
    numbers = np.unique(names[counted], return_inverse=True)[1]
    count = int(numbers.max()) + 1 if len(numbers) else 0
    result: dict[str, Any] = {
        "value": float(gain.mean()) if gain.size else None,
        "low": None,
        "high": None,
        "spread": None,
        "above_0": None,
        "images": gain.shape[1],
        "groups": count,
        "trainings": len(gain),
    }
    if count < 2:
        return result
    means = resampled_means(gain, numbers, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    return result | {
        "low": float(low),
        "high": float(high),
        "spread": float(gain.mean(axis=0).std(ddof=1)),
        "above_0": float((means > 0).mean()),
    }


def sureness(gain: dict[str, Any], smallest: float) -> Answer:
    """Answer from a gain; "better" or "worse" needs an interval that excludes 0.

    Args:
        gain: result of `paired_gain`.
        smallest: a smaller mean difference is always "unclear".
    """
    if gain["low"] is None:
        return "unknown"
    if abs(gain["value"]) < smallest or gain["low"] <= 0 <= gain["high"]:
        return "unclear"
    return "better" if gain["low"] > 0 else "worse"


def resampled_means(gain: Array, groups: NDArray[Any], seed: int = 0) -> Array:
    """Means of `RESAMPLES` bootstrap draws of rows and of groups of columns."""
    rng = np.random.default_rng(seed)
    number = int(groups.max()) + 1
    sizes = np.bincount(groups, minlength=number)
    sums = np.stack([np.bincount(groups, row, minlength=number) for row in gain])
    rows = rng.integers(len(gain), size=(RESAMPLES, len(gain)))
    drawn = rng.integers(number, size=(RESAMPLES, number))
    totals = np.stack([sums[:, chosen].sum(axis=1) for chosen in drawn])  # (RESAMPLES, rows)
    means: Array = np.take_along_axis(totals, rows, axis=1).mean(axis=1) / sizes[drawn].sum(axis=1)
    return means


def groups_of(labelled: str | Path | None, names: Iterable[str]) -> list[str] | None:
    """Patient or sequence of each scored image, if the folder of labelled images names them.

    Args:
        labelled: images with masks, see `build_datalist`; None if unknown.
        names: names of the images in `scores.json`; "volume.nii.gz[3]" is a slice of that volume.
    """
    if labelled is None:
        return None
    try:
        cases = build_datalist(labelled)
    except InputError:
        return None
    known = zip(short_names([case["image"] for case in cases]), cases, strict=True)
    groups = {name: case["group"] for name, case in known}
    files = [name.split("[")[0] for name in names]
    return [groups.get(name, name) for name in files]


def images_needed(gain: float, spread: float) -> int:
    """Number of labelled images with which a true gain is significant in 80% of studies.

    n = ((1.96 + 0.84) s / gain)^2 for a paired comparison (Chow et al., Sample Size Calculations
    in Clinical Research, ch. 3), assuming independent images.

    Args:
        gain: true mean difference, above 0.
        spread: s, standard deviation of the difference over images, in the same units.
    """
    return max(FEWEST, math.ceil((NORMAL * spread / gain) ** 2))
