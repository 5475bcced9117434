"""How much a site's images differ from the source's before alignment."""

from __future__ import annotations

import logging

import torch
from monai.data import Dataset
from torch import Tensor

from alignflow.alignment.distance import linear, mmd2
from alignflow.alignment.statistics import colour, texture
from alignflow.data.references import References
from alignflow.stage1 import Stage1

logger = logging.getLogger(__name__)


def appearance(images: Tensor) -> Tensor:
    """Colour and texture of images (B, C, X, Y) in [-1, 1], side by side: (B, D)."""
    return torch.cat([colour(images), texture(images)], dim=1)


def source_appearance(dataset: Dataset, most: int = 256) -> list[list[float]]:
    """`appearance` of up to `most` source images, not augmented, for the bundle's record."""
    chosen = torch.linspace(0, len(dataset.data) - 1, min(most, len(dataset.data))).long()
    features = appearance(torch.stack([dataset.data[i]["image"] for i in chosen.tolist()]))
    return [[round(value, 4) for value in row] for row in features.tolist()]


def appearance_gap(
    stage1: Stage1, references: References, draws: int = 200, seed: int = 0
) -> dict[str, float]:
    """Distance from the references to the source, and from random source images to the others.

    Warns if the first is not larger than the second, since there is then nothing to align.

    Args:
        stage1: record with the source's `appearance`.
        references: references of the site.
        draws: number of draws of source images in place of references.
        seed: random seed of the draws.

    Returns:
        {"gap": squared distance of the mean appearance, in standard deviations of the source and
        per feature; "floor": 95% quantile of the same for source images}.
    """
    source = torch.tensor(stage1.appearance)
    scale = source.std(dim=0).clamp(min=1e-3)
    site = appearance(references.images) / scale
    source = source / scale
    gap = float(mmd2(site, source, linear)) / source.shape[1]
    generator = torch.Generator().manual_seed(seed)
    by_chance = []
    for _ in range(draws):
        order = torch.randperm(len(source), generator=generator)
        n = min(len(site), len(source) // 2)
        distance = mmd2(source[order[:n]], source[order[n:]], linear)
        by_chance.append(float(distance) / source.shape[1])
    floor = float(torch.tensor(by_chance).quantile(0.95))
    if gap <= floor:
        logger.warning(
            "the references differ no more from the source (%.3f) than source images do from each "
            "other (up to %.3f): there is nothing to align; are they images of the source?",
            gap,
            floor,
        )
    return {"gap": gap, "floor": floor}


WIDE = 4.0
"""Gap over floor from which the full learning rate is used."""


def gap_strength(gap: dict[str, float]) -> float:
    """Factor of the learning rate for the result of `appearance_gap`, in [0, 1].

    0 if the gap is not larger than the floor, 1 if it is at least `WIDE` times the floor.
    """
    ratio = gap["gap"] / max(gap["floor"], 1e-8)
    return min(max((ratio - 1) / (WIDE - 1), 0.0), 1.0)
