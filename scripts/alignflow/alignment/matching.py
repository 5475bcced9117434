"""Flow matching on references and their masks, which teaches the look of each structure."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alignflow.flow.guidance import drop_condition
from alignflow.flow.matching import flow_matching_loss
from alignflow.flow.time import mixed_time
from alignflow.segmentation.augmentation import BatchAugmentation
from alignflow.segmentation.pseudo_masks import ReferenceMasks


class ReferenceMatching:
    """Conditional flow matching loss on random references, as in stage 1 on the source.

    Pairs of image and mask tell which structure has which look; a distance between sets of images
    cannot. Masks may be predicted: their errors differ between images, and the generator averages
    over them. Pixels where a predicted mask is uncertain have less weight.

    Args:
        images: (n, C, X, Y) in [-1, 1], on the network's device.
        masks: given or predicted, with their confidence.
        condition: turns masks, uint8 (B, 1, X, Y), into the network's condition (B, 2K-1, X, Y).
        batch_size: references per loss.
        augmentation: geometric only, since colour and intensity are to be learned; None for none.
        dropout: probability of dropping a mask, as in stage 1.
        weigh: whether to weight the loss by the confidence.
    """

    def __init__(
        self,
        images: Tensor,
        masks: ReferenceMasks,
        *,
        condition: Callable[[Tensor], Tensor],
        batch_size: int,
        augmentation: BatchAugmentation | None = None,
        dropout: float = 0.1,
        weigh: bool = True,
    ) -> None:
        confidence = masks.confidence if weigh else torch.ones_like(masks.confidence)
        self.pixels = torch.cat([images, confidence.to(images)], dim=1)
        self.labels = masks.labels.to(images.device)
        self.condition = condition
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.dropout = dropout

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Mean of w |v - (x_1 - x_0)|^2; the generator draws references, views, times and noise."""
        count, device = self.batch_size, self.pixels.device
        chosen = torch.randint(len(self.pixels), (count,), generator=generator)
        pixels, labels = self.pixels[chosen], self.labels[chosen]
        if self.augmentation is not None:
            self.augmentation.generator = generator
            pixels, labels = self.augmentation(pixels, labels)
        image, weight = pixels[:, :-1], pixels[:, -1:]
        t = mixed_time(count, generator).to(device)
        noise = torch.randn(image.shape, generator=generator).to(device)
        dropped = torch.rand(count, generator=generator) < self.dropout
        condition = drop_condition({"condition": self.condition(labels).to(image)}, dropped)

        def weighted(velocity: Tensor, target: Tensor) -> Tensor:
            return (weight * (velocity - target).square()).mean()

        return flow_matching_loss(network, noise, image, t, condition, weighted)
