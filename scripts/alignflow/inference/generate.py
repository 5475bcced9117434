"""Generates a batch of image-mask pairs, as iteration update of a MONAI evaluator."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import SupervisedEvaluator

from alignflow.device import Precision
from alignflow.inference.masks import MaskGenerator
from alignflow.inference.noise import pair_noise
from alignflow.stage1 import Stage1


class GeneratePairs:
    """Generates masks, unless they are given, and images that follow them.

    Args:
        stage1: record of the generator.
        masks: draws masks for pairs without a given mask.
        precision: autocast of sampling.
        seed: random seed of the run; the noise of pair k depends only on seed and k.
    """

    def __init__(
        self, *, stage1: Stage1, masks: MaskGenerator, precision: Precision, seed: int = 0
    ) -> None:
        self.stage1 = stage1
        self.masks = masks
        self.precision = precision
        self.seed = seed

    @torch.no_grad()
    def __call__(self, engine: SupervisedEvaluator, batch: dict[str, Any]) -> dict[str, Any]:
        """index [B], image (B, C, X, Y) in [-1, 1] and label uint8 (B, 1, X, Y), on the CPU."""
        indices = [int(k) for k in batch["index"]]
        label = batch["label"] if "label" in batch else self.masks(indices)
        noise = pair_noise(self.seed, indices, "image", self.stage1.image_shape)
        x = torch.cat([noise, self.stage1.condition(label)], dim=1).to(engine.state.device)
        with self.precision.autocast():
            image = engine.inferer(x, engine.network)
        return {"index": indices, "image": image.float().cpu(), "label": label}
