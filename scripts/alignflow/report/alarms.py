"""What makes all other figures of the page worthless, said first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from alignflow.report.arms import Arm

LOWEST_DICE = 10.0  # points
MOST_REJECTED = 0.9  # of all masks drawn
NOISIER = 0.4  # of `smoothness`, 0.8 to 1 for most real images


def alarms(arms: Sequence[Arm], masks: dict[str, Any], images: Tensor, real: Tensor) -> list[str]:
    """Sentences, none where all is well.

    Args:
        arms: segmenters that were scored at the site.
        masks: of the aligned pairs' `provenance.json`, {} where unknown.
        images: aligned ones (N, C, X, Y).
        real: references.
    """
    found = [
        f"The segmenter '{arm.name}' finds hardly anything at the site: Dice "
        f"{arm.score()['value']:.1f} of 100."
        for arm in arms
        if (arm.score()["value"] or 0.0) < LOWEST_DICE
    ]
    rate = masks.get("rejection_rate", 0.0)
    if rate >= MOST_REJECTED:
        found.append(f"{100 * rate:.0f}% of the masks drawn were rejected as unlike real ones.")
    if smoothness(images) < smoothness(real) - NOISIER:
        found.append("Synthetic images look like noise: neighbouring pixels are hardly alike.")
    return found


def smoothness(images: Tensor) -> float:
    """Median over images of the correlation of a pixel with the next one: 0 for white noise."""
    steps = (images[:, :, 1:] - images[:, :, :-1]).flatten(1).var(dim=1)
    spread = images.flatten(1).var(dim=1).clamp(min=1e-9)
    return float((1 - steps / (2 * spread)).median())
