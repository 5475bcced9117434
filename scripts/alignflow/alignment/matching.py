"""Flow matching on the references themselves: what a distance of sets cannot draw."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alignflow.data.mirroring import mirror_at_random, mirrored_dims
from alignflow.flow.guidance import drop_condition
from alignflow.flow.matching import flow_matching_loss
from alignflow.flow.time import mixed_time


class ReferenceMatching:
    """Conditional flow matching loss on random references, as stage 1 had it on the source.

    A reward moves what the generator already draws. Content that the source lacks (a dye, another
    field of view) must be learned from the references, and their masks, given or seen by the
    source's segmenter, tell it from lesions. Few references are learned by heart if this goes on
    for long; the frozen network (anchor), early stopping on left-out references and the distance
    to the nearest reference stand against that.

    Args:
        images: (n, C, X, Y) in [-1, 1], on the network's device.
        maps: their masks as the network is given them (n, 2K-1, X, Y).
        batch_size: references in each loss.
        dropout: probability of leaving a mask out, as in stage 1.
        flip_x, flip_y: whether the anatomy may be mirrored along the axis.
    """

    def __init__(
        self,
        images: Tensor,
        maps: Tensor,
        *,
        batch_size: int,
        dropout: float = 0.1,
        flip_x: bool = False,
        flip_y: bool = False,
    ) -> None:
        self.images = images
        self.maps = maps.to(images)
        self.batch_size = batch_size
        self.dropout = dropout
        self.dims = mirrored_dims(flip_x, flip_y)

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Mean of |v - (x_1 - x_0)|^2; times, noise and choice come from the generator."""
        count, device = self.batch_size, self.images.device
        chosen = torch.randint(len(self.images), (count,), generator=generator)
        pairs = [self.images[chosen], self.maps[chosen]]
        image, maps = mirror_at_random(pairs, self.dims, generator)
        t = mixed_time(count, generator).to(device)
        noise = torch.randn(image.shape, generator=generator).to(device)
        dropped = torch.rand(count, generator=generator) < self.dropout
        condition = drop_condition({"condition": maps}, dropped)
        return flow_matching_loss(network, noise, image, t, condition)
