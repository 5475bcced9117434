"""The iteration update of segmenter training for a MONAI engine."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import SupervisedTrainer
from torch import Tensor

from alignflow.device import Precision
from alignflow.segmentation.augmentation import BatchAugmentation


class SegmentationUpdate:
    """Augments the batch, predicts, and updates the weights.

    MONAI's own update supports `amp` only on CUDA and augments item by item.

    Args:
        augmentation: random augmentation of a batch.
        precision: autocast and loss scaling.
        clip: largest norm of the gradient.
    """

    def __init__(
        self, *, augmentation: BatchAugmentation, precision: Precision, clip: float = 1.0
    ) -> None:
        self.augmentation = augmentation
        self.precision = precision
        self.clip = clip

    def __call__(self, engine: SupervisedTrainer, batch: dict[str, Tensor]) -> dict[str, float]:
        """Train on image (B, C, X, Y) in [-1, 1] and label (B, 1, X, Y); returns {"loss"}."""
        device = torch.device(engine.state.device)
        image = batch["image"].to(device, non_blocking=True)
        label = batch["label"].to(device, non_blocking=True)
        image, label = self.augmentation(image, label)
        engine.network.train()
        with self.precision.autocast():
            logits = engine.inferer(image, engine.network)
        loss = engine.loss_function(logits.float(), label)
        self.precision.optimiser_step(loss, engine.network, engine.optimizer, self.clip)
        return {"loss": loss.item()}

    def state_dict(self) -> dict[str, Any]:
        """Loss scaling; the augmentation is seeded anew at each epoch."""
        return self.precision.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.precision.load_state_dict(state)
