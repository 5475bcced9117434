"""Data and condition of each flow of stage 1 from a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from alignflow.flow.guidance import Condition
from alignflow.masks.conditions import describe
from alignflow.masks.distance import condition_maps

Batch = dict[str, Tensor]
"""image (B, C, X, Y) in [-1, 1]; label (B, 1, X, Y) class indices; distance (B, K-1, X, Y)."""


def image_target(batch: Batch) -> tuple[Tensor, Condition]:
    """Image flow: images, conditioned on the mask's one-hot classes and signed distances."""
    maps = condition_maps(batch["label"], batch["distance"], batch["distance"].shape[1] + 1)
    return batch["image"], {"condition": maps}


def mask_target(batch: Batch) -> tuple[Tensor, Condition]:
    """Mask flow: signed distances, conditioned on presence, log-area and centroid of each class."""
    description = describe(batch["label"], batch["distance"].shape[1] + 1)
    return batch["distance"], {"vector": flagged(description)}


def flagged(description: Tensor) -> Tensor:
    """Prepend a 1 (B, 1 + D), so that absent classes differ from a dropped condition."""
    return torch.cat([torch.ones_like(description[:, :1]), description], dim=1)
