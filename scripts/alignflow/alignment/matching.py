"""Flow matching on the references and their masks: it fixes which structure has which look."""

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
    """Conditional flow matching loss on random references, as stage 1 had it on the source.

    A distance between sets of images cannot tell which structure has which look; pairs of image and
    mask can. Masks may be predicted: their errors differ from image to image, and the generator
    averages over them. Where a predicted mask is unsure, the loss counts less.

    Args:
        images: (n, C, X, Y) in [-1, 1], on the network's device.
        masks: given or predicted, with their confidence.
        condition: masks uint8 (B, 1, X, Y) as the network is given them (B, 2K-1, X, Y).
        batch_size: references in each loss.
        augmentation: of the geometry alone, since colour and intensity are what is learned; None
            for the references as they are.
        dropout: probability of leaving a mask out, as in stage 1.
        weigh: whether the confidence weighs the loss.
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
        """Mean of w |v - (x_1 - x_0)|^2; times, noise, choice and views from the generator."""
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
