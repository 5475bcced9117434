"""How far references lie apart from a source, against how far source images do by chance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignflow.alignment.distance import energy
from alignflow.alignment.gap import appearance
from alignflow.alignment.statistics import colour, layout, texture

SPACES = {"appearance": appearance, "colour": colour, "texture": texture, "layout": layout}
"""Feature spaces without weights: what alignment moves (appearance), its parts, and the layout."""


def separation(
    source: dict[str, Tensor], site: dict[str, Tensor], draws: int = 500, seed: int = 0
) -> dict[str, Any]:
    """Energy distance of a site's images to the source's in each space, with interval and floor.

    2 E|x - y| - E|x - x'| - E|y - y'| (Szekely and Rizzo, 2013), features in standard deviations
    of the source. The interval is a bootstrap over the site's images, in which no image is paired
    with itself. The floor is the same distance for as many source images, drawn at random, to the
    others. Images of one patient or sequence count as independent, which makes the floor too low.

    Args:
        source, site: space -> features (N, D) and (n, D), N >= 4 and n >= 1.
        draws: of the interval and of the floor.
        seed: of the draws.

    Returns:
        {"spaces": {space: {"value", "low", "high", "floor" (median by chance), "floor_high" (95%
        quantile)}}, "apart": whether the appearance lies above its `floor_high`, "images": n};
        low and high are None for fewer than three images.
    """
    found = {
        name: _space(source[name], site[name], draws, seed) for name in SPACES if name in source
    }
    one: dict[str, Any] = found["appearance"]
    images = len(site["appearance"])
    return {"spaces": found, "apart": one["value"] > one["floor_high"], "images": images}


def features(images: Tensor) -> dict[str, Tensor]:
    """Space -> features (N, D) of images (N, C, X, Y) in [-1, 1]."""
    return {name: space(images) for name, space in SPACES.items()}


def _space(source: Tensor, site: Tensor, draws: int, seed: int) -> dict[str, float | None]:
    scale = source.std(dim=0).clamp(min=1e-3) * source.shape[1] ** 0.5
    own = -energy(source / scale, source / scale)
    between = -energy(site / scale, source / scale)
    within = -energy(site / scale, site / scale)
    generator = torch.Generator().manual_seed(seed)
    ones = torch.ones(len(site))
    everything = torch.ones(len(source))
    spread = _within(own, everything)
    value = _distance(between, within, ones, spread)
    result: dict[str, float | None] = {"value": value, "low": None, "high": None}
    if len(site) > 2:
        weights = _resamples(len(site), draws, generator)
        found = torch.tensor([_distance(between, within, w, spread) for w in weights])
        result["low"], result["high"] = found.quantile(torch.tensor([0.025, 0.975])).tolist()
    by_chance = torch.tensor(_floor(own, min(len(site), len(source) // 2), draws, generator))
    result["floor"], result["floor_high"] = by_chance.quantile(torch.tensor([0.5, 0.95])).tolist()
    return result


def _distance(between: Tensor, within: Tensor, weights: Tensor, spread: float) -> float:
    """Of weighted rows of `between` (n, N) and `within` (n, n); `spread` is within the columns."""
    across = float((weights @ between).mean() / weights.sum())
    return 2 * across - _within(within, weights) - spread


def _within(table: Tensor, weights: Tensor) -> float:
    """Weighted mean over pairs of different rows; 0 where there are none."""
    joint = weights[:, None] * weights[None, :]
    joint = joint - joint.diag().diag()
    total = joint.sum()
    return float((joint * table).sum() / total) if total > 0 else 0.0


def _resamples(size: int, draws: int, generator: torch.Generator) -> list[Tensor]:
    """Counts of a bootstrap, those with a single image left out: it has no distance to others."""
    drawn = torch.randint(size, (draws, size), generator=generator)
    counts = [torch.bincount(row, minlength=size).float() for row in drawn]
    return [c for c in counts if (c > 0).sum() > 1]


def _floor(own: Tensor, size: int, draws: int, generator: torch.Generator) -> list[float]:
    found = []
    for _ in range(draws):
        order = torch.randperm(len(own), generator=generator)
        some, rest = order[:size], order[size:]
        spread = _within(own[rest][:, rest], torch.ones(len(rest)))
        ones = torch.ones(size)
        found.append(_distance(own[some][:, rest], own[some][:, some], ones, spread))
    return found
