"""Sentences of `adapt` and the report: is a segmenter better at the site than another?

Dice is in points of 100; a gain is what `paired_gain` returns for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from alignflow.evaluation.paired import Answer, Array, images_needed

Gain = dict[str, Any]
TARGET = 2.0
"""Gain for which the required number of labelled images is stated."""
SMALLEST = 0.5
"""A smaller difference is neither better nor worse."""
SPREAD = 15.0
"""Standard deviation over images of the difference of two segmenters, if it cannot be measured. At
three hospitals it was 10 to 17 (benchmarks/adaptation, polyps)."""


def image_means(rows: Iterable[Mapping[str, float | None]]) -> Array:
    """(N,) points from {class: score in [0, 1] or None} of each image; NaN if all are None."""
    found = [[value for value in row.values() if value is not None] for row in rows]
    return np.array([100 * float(np.mean(values)) if values else np.nan for values in found])


def headline(
    answer: Answer, ours: tuple[str, float], other: tuple[str, float], gain: Gain, on: str
) -> str:
    """The answer, the Dice of both segmenters, and the difference with its interval.

    Args:
        answer: answer of `sureness`.
        ours, other: name and mean Dice of the segmenter, and of the one it is compared with.
        gain: gain of `ours` over `other`.
        on: the images.
    """
    name = ours[0]
    head = {
        "better": f"Yes, {name} is better at the site",
        "worse": f"No, {name} is worse at the site",
        "unclear": f"{name[0].upper()}{name[1:]} is not shown to be better or worse at the site",
        "unknown": f"Whether {name} is better at the site is unknown",
    }[answer]
    return (
        f"{head}: its Dice is {ours[1]:.1f} against {other[1]:.1f} for {other[0]} on {on}, a "
        f"difference of {in_points(gain)}."
    )


def grounds(
    answer: Answer, spread: float, rests_on: str, more: Sequence[str] = (), given: str = ""
) -> str:
    """The basis of an answer or, without an answer, what is needed for one.

    Args:
        answer: answer of `sureness`.
        spread: standard deviation over images of the difference in Dice.
        rests_on: images and trainings; "" where there are none.
        more: what else is known.
        given: how labelled images are given, between commas.
    """
    if answer in ("better", "worse"):
        return f"This rests on {', and '.join([rests_on, *more])}."
    here = f"; this comparison had {rests_on}" if rests_on else ""
    return (
        f"About {images_needed(TARGET, spread)} independent labelled images{given} would show a "
        f"gain of {TARGET:g} points in 4 of 5 studies, assuming that the difference in Dice has a "
        f"standard deviation of {spread:.3g} points between images{here}."
    )


def in_points(gain: Gain) -> str:
    """A gain with its interval."""
    if gain["low"] is None:
        return f"{gain['value']:+.1f} points (too few images or patients for an interval)"
    return f"{gain['value']:+.1f} points (95% interval {gain['low']:+.1f} to {gain['high']:+.1f})"


def images_of(gain: Gain) -> str:
    """The number of labelled images and, if known, of patients."""
    grouped = gain["groups"] < gain["images"]
    of = f" of {gain['groups']} patients or sequences" if grouped else ""
    return f"{gain['images']} labelled images{of}"


def trainings_of(ours: int, other: int) -> str:
    """The number of trainings of each of two segmenters."""
    if ours != other:
        return f"the means of {ours} and {other} trainings (others may differ by 1 to 2 points)"
    if ours == 1:
        return "one training of each segmenter (another may differ by 1 to 2 points)"
    return f"{ours} trainings of each segmenter"
